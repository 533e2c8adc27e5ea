"""Turns tales into conversations: a user asks for a tale, the model tells it, and more turns may follow."""

from random import Random
from typing import Literal, TypedDict

from training.grammar import expand, polish
from training.plots import load_lines
from training.tales import Tale, write_tale

SYSTEM_SHARE = 0.3
FOLLOW_UP_SHARE = 0.3
SMALL_TALK_SHARE = 0.06
LOWER_CASE_SHARE = 0.15


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


SYSTEM_PROMPTS = (
    "You are a storyteller.",
    "You are a helpful assistant.",
    "You tell short tales for children.",
    "You are a kind teller of tales. [Answer with a story.|Tell one tale at a time.|Use simple words.]",
    "[You write|Write] [short|simple|gentle] stories.",
)
# What may be asked, from the vaguest to the most exact.
REQUESTS = (
    "[Tell|Please tell] me a [story|tale|short story|bedtime story].",
    "Can you tell me a [story|tale|short story|bedtime story]?",
    "[Write|Please write] a [story|tale|short story].",
    "[I would like|I want] [a story|to hear a story|a tale], please.",
    "[Tell me|Write|I would like|Give me] a [story|tale|short story|short tale] about a {hk}.",
    "[Tell me|Write|I would like] a [story|tale] about a {hk} and a {fk}.",
    "[Tell me|Write] a [story|tale] about a {hk} named {hn}.",
    "[Tell me|Write|I want to hear] a [story|tale] about {hn} the {hk}.",
    "[Tell me|Write|Tell] a [story|tale|bedtime story] about {hn} and {fn}.",
    "[Tell me|Write|Please tell me] a [story|tale|short story] about a {hk} {gist}.",
    "[Tell me|Write|Please write] a [story|tale|short tale] about a {hk} {gist}.",
    "[Tell me|Write] a [story|tale] about {hn} the {hk} {gist}.",
    "[Tell me|Write] a [story|tale] about a {hk} named {hn} {gist}.",
    "A [story|tale] about a {hk}, please.",
    "Do you know a [story|tale] about a {hk}?",
    "[Tell me|Write] a [story|tale] about a {hk} in a {land}.",
    "A {hk} {gist}.",
    "[Tell me|Write] a [story|tale|short story] about a {trait} {hk}.",
    "[Tell me|Write] a [story|tale] about a {trait} {hk} named {hn}.",
    "[Tell me|Write] a [story|tale] about a {trait} {hk} {gist}.",
)
LEAD_INS = (
    "",
    "",
    "",
    "",
    "Here is a tale about {hn} the {hk}. ",
    "Gladly! ",
    "Of course. ",
    "Listen, then. ",
)
ANOTHER = (
    "Another one, please.",
    "Tell me another [story|tale].",
    "[And now a different one|One more, please].",
)
THANKS = ("[Thank you|Thanks|That was nice|I liked that|What a nice story]!",)
WELCOME = (
    "You are welcome! "
    "[Would you like another tale?|Come back for another tale.|I have more tales, if you like.]",
)
HERO_QUESTION = (
    "[Who was the story about|Who was it about|What was the {hk} called|What was the name of the {hk}]?",
)
HERO_ANSWER = ("[It was about {hn} the {hk}|The {hk} was called {hn}|The {hk} in the story was {hn}].",)
# Question and answer. The model learns to say that it does not know what it cannot know.
SMALL_TALK = tuple(line.split(" => ") for line in load_lines("small_talk"))


def write_conversation(seed: int, number: int) -> list[Message]:
    """Conversation ``number`` of ``seed``: one to three exchanges, the assistant's turn last."""
    rng = Random(f"chat:{seed}:{number}")
    messages = _system(rng)
    if rng.random() < SMALL_TALK_SHARE:
        question, answer = rng.choice(SMALL_TALK)
        return [*messages, *_exchange(expand(question, {}, rng), expand(answer, {}, rng))]
    tale = write_tale(seed, number, episodes=1)
    messages += _exchange(_request(tale, rng), _fill((rng.choice(LEAD_INS),), tale, rng) + tale.text)
    if rng.random() < FOLLOW_UP_SHARE:
        messages += _follow_up(tale, seed, number, rng)
    return messages


def _system(rng: Random) -> list[Message]:
    if rng.random() >= SYSTEM_SHARE:
        return []
    return [{"role": "system", "content": expand(rng.choice(SYSTEM_PROMPTS), {}, rng)}]


def _exchange(user: str, assistant: str) -> list[Message]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def _request(tale: Tale, rng: Random) -> str:
    text = polish(_fill(REQUESTS, tale, rng))
    return text.lower().rstrip(".") if rng.random() < LOWER_CASE_SHARE else text


def _follow_up(tale: Tale, seed: int, number: int, rng: Random) -> list[Message]:
    kind = rng.choice(("fact", "fact", "hero", "another", "thanks"))
    if kind == "fact":
        return _exchange(*rng.choice(tale.questions))
    if kind == "hero":
        return _exchange(_fill(HERO_QUESTION, tale, rng), _fill(HERO_ANSWER, tale, rng))
    if kind == "thanks":
        return _exchange(_fill(THANKS, tale, rng), _fill(WELCOME, tale, rng))
    # Far from every number that write_conversation itself is asked for.
    return _exchange(_fill(ANOTHER, tale, rng), write_tale(seed, number + 1_000_000_000, episodes=1).text)


def _fill(options: tuple[str, ...], tale: Tale, rng: Random) -> str:
    slots = {
        "hn": tale.hero_name, "hk": tale.hero_kind, "fn": tale.friend_name, "fk": tale.friend_kind,
        "gist": tale.gist, "trait": tale.hero_trait, "land": tale.land,
    }  # fmt: skip
    return expand(rng.choice(options), slots, rng)
