"""The tale generator, the bundled tokenizer and its chat template."""

import re
from pathlib import Path
from random import Random
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, OPTForCausalLM, PreTrainedTokenizerFast

from training.beginning import begin
from training.cast import draw_character, draw_others
from training.chat import Message, write_conversation
from training.corpus import encode_documents, write_document
from training.grammar import GrammarError, expand, polish
from training.mentions import Mentions
from training.overlap import GramIndex, longest_run_words, share
from training.plots import PLOT_NAMES, load_plot
from training.tales import Teller, write_tale
from training.tokenizer import render_conversation, train_tokenizer
from training.train import (
    DOCUMENT_START_SHARE,
    draw_batch,
    learning_rate,
    make_optimizer,
    model_config,
    window_at,
)

BUNDLED = Path(__file__).parents[2] / "worker" / "models" / "bundled"
SEED = 31
NUMBERS = range(150)
TEXTS = [write_tale(SEED, number).text for number in NUMBERS]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    if not (BUNDLED / "tokenizer.json").exists():
        return train_tokenizer(TEXTS)
    return cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(BUNDLED))


def test_a_seed_and_a_number_always_name_the_same_tale() -> None:
    assert [write_tale(SEED, number).text for number in NUMBERS] == TEXTS


def test_other_seeds_and_other_numbers_tell_other_tales() -> None:
    others = [write_tale(SEED + 1, number).text for number in NUMBERS]
    assert len({*TEXTS, *others}) == 2 * len(NUMBERS)


@pytest.mark.parametrize("text", TEXTS[:60])
def test_a_tale_is_well_formed(text: str) -> None:
    assert not re.search(r"[\[\]{}|~_<>\x00-\x09\x0b-\x1f]", text), "an unfilled template field"
    assert text.count('"') % 2 == 0, "a quote is left open"
    assert not re.search(r" [,.!?]|,,|\.\.|  ", text), "stray marks or spaces"
    assert not re.search(r'(?:^|\n|[.!?] |\." )"?[a-z]', text), "a sentence begins in small letters"
    assert re.search(r'[.!?]"?$', text), "the tale breaks off"
    assert not re.search(r"\b[Aa] [aeio]\w", text), "a before a vowel"


@pytest.mark.parametrize("plot", PLOT_NAMES)
def test_every_line_of_every_plot_can_be_told(plot: str) -> None:
    for number in range(40):
        tale = Teller(Random(number)).tell(load_plot(plot), episodes=1)
        assert tale.hero_name in tale.text
        assert tale.hero_kind in tale.text


@pytest.mark.parametrize("number", range(20))
def test_the_thing_that_is_lost_is_the_thing_that_is_found(number: int) -> None:
    tale = Teller(Random(number)).tell(load_plot("lost"), episodes=1)
    (_, lost), (_, found) = tale.questions[:2]
    thing = lost.rstrip(".").split()[-1]
    place = re.search(r"(?:was|found it) (.+)\.", found)
    middle = len(tale.text) // 2
    assert thing in tale.text[:middle]
    assert place is not None
    assert place[1] in tale.text[middle:]


@pytest.mark.parametrize("number", range(50))
def test_characters_differ_and_agree_with_their_pronouns(number: int) -> None:
    rng = Random(number)
    hero = draw_character(rng, None)
    slots = hero.slots("h") | draw_others(hero, rng)
    assert len({slots["hn"], slots["fn"], slots["rn"]}) == 3
    assert len({slots["hk"], slots["fk"], slots["rk"], slots["wk"]}) == 4
    for role, he in (("h", slots["he"]), ("f", slots["fhe"]), ("r", slots["rhe"])):
        assert slots[f"{role}k"] not in ("girl", "queen", "hen") or he == "she"
        assert slots[f"{role}k"] not in ("boy", "king", "rooster") or he == "he"
    assert (slots["he"], slots["his"]) in (("she", "her"), ("he", "his"))


def test_the_next_episode_introduces_its_own_people() -> None:
    slots = {"fn": "Oskar", "fk": "owl", "ftrait": "wise"} | {"rn": "Nell", "rk": "crow", "rtrait": "sly"}
    mentions = Mentions(Random(3))
    first, second = mentions.resolve("f\x01 ran", slots), mentions.resolve("f\x01 ran", slots)
    assert {"Oskar", "owl"} <= set(first.split())
    assert second in ("Oskar ran", "the owl ran")
    mentions.forget()
    again = mentions.resolve("f\x01 ran", slots)
    assert {"Oskar", "owl"} <= set(again.split())


def test_an_unfilled_slot_is_an_error() -> None:
    with pytest.raises(GrammarError, match="no slot called 'hero'"):
        expand("{Hero} slept.", {}, Random(0))


@pytest.mark.parametrize("template", ["[one|two", "one] two"])
def test_a_stray_bracket_is_an_error(template: str) -> None:
    with pytest.raises(GrammarError):
        expand(template, {}, Random(0))


def test_options_nest_and_slots_hold_templates() -> None:
    told = {expand("{Who} [ran|[walked|crept] off].", {"who": "[she|he]"}, Random(n)) for n in range(60)}
    assert told == {f"{who} {did}." for who in ("She", "He") for did in ("ran", "walked off", "crept off")}


@pytest.mark.parametrize(
    ("rough", "polished"),
    [
        ("a owl met an unicorn.", "An owl met a unicorn."),
        ('"Where is it," said Mira.', '"Where is it?" asked Mira.'),
        ('"Yes." he ran. she  slept.', '"Yes." He ran. She slept.'),
        ('"Help!" cried the fox.', '"Help!" cried the fox.'),
    ],
)
def test_polish_corrects_details(rough: str, polished: str) -> None:
    assert polish(rough) == polished


def test_conversations_begin_with_a_listener_and_end_with_the_teller() -> None:
    for number in NUMBERS:
        roles = [message["role"] for message in write_conversation(SEED, number)]
        assert roles[-1] == "assistant"
        assert roles[0] in ("system", "user")
        assert "system" not in roles[1:]


def test_a_tale_asked_for_by_name_is_about_that_name() -> None:
    asked = 0
    for number in NUMBERS:
        question, answer = [m for m in write_conversation(SEED, number) if m["role"] != "system"][:2]
        name = re.search(r"named (\w+)", question["content"])
        asked += bool(name)
        assert name is None or name[1].lower() in answer["content"].lower()
    assert asked > 0


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_unicode_comes_back_from_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧 déjà vu",
        "e\u0301 e\u0308",
        "日本語のテキスト",
        " leading, and trailing ",
        "a .\n\n b ' s , n't",
        "\u202eabc\x00",
    ],
)
def test_odd_text_comes_back_unchanged(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_a_prompt_begins_with_the_end_mark_and_nothing_closes_it(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode("Once upon a time")
    assert ids[0] == tokenizer.bos_token_id == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_chat_template_renders_what_was_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    spaced: list[Message] = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Hello\n"}]
    for messages in [spaced, *(write_conversation(SEED, number) for number in range(40))]:
        rendered = _render(tokenizer, messages, ask=False)
        assert rendered == f"</s>{render_conversation(messages)}</s>"


def test_a_generation_prompt_opens_the_tellers_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    messages: list[Message] = [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": " Hi"}]
    assert _render(tokenizer, messages, ask=True) == "</s><|system|>Be kind.<|user|>Hi<|assistant|>"


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "1"}], tokenize=False)


def test_documents_lie_end_to_end_in_the_corpus(tokenizer: PreTrainedTokenizerFast) -> None:
    documents = [write_document(SEED, number) for number in range(8)]
    corpus = encode_documents(documents, tokenizer, cast(int, tokenizer.eos_token_id))
    assert corpus.ids[0] == corpus.ids[-1] == tokenizer.eos_token_id
    assert all(corpus.ids[start] == tokenizer.eos_token_id for start in corpus.starts)
    assert tokenizer.decode(corpus.ids[1:].tolist()) == "</s>".join(documents) + "</s>"


def test_overlap_counts_the_grams_of_the_training_text() -> None:
    index = GramIndex(["one two three four five six seven eight nine", "ten"])
    assert index.hits("Two, three four five six seven eight nine") == [True]
    assert index.hits("three four five six seven eight nine ten") == [False]
    hits = [index.hits("one two three four five six seven eight nine zero")]
    assert share(hits) == pytest.approx(2 / 3)
    assert longest_run_words(hits[0]) == 9


def test_many_rows_of_a_batch_begin_as_a_prompt_does(tokenizer: PreTrainedTokenizerFast) -> None:
    end = cast(int, tokenizer.eos_token_id)
    corpus = encode_documents(TEXTS, tokenizer, end)
    ids, positions = (
        torch.cat(part) for part in zip(*(draw_batch(corpus, 256, n) for n in range(50)), strict=True)
    )
    at_start = positions[:, 0] == 0
    assert abs(at_start.float().mean() - DOCUMENT_START_SHARE) < 0.1
    assert (ids[at_start, 0] == end).float().mean() > 0.95
    assert positions.max() > 1000
    assert positions.max() < 1024


def test_the_learning_rate_rises_then_falls() -> None:
    assert learning_rate(0, 0.0) < learning_rate(50, 0.01) < learning_rate(200, 0.05)
    assert learning_rate(900, 0.5) > learning_rate(1800, 1.0) > 0


def _render(tokenizer: PreTrainedTokenizerFast, messages: list[Message], *, ask: bool) -> str:
    plain = [dict(message) for message in messages]
    rendered = tokenizer.apply_chat_template(
        cast(list[dict[str, str]], plain), tokenize=False, add_generation_prompt=ask
    )
    return cast(str, rendered)


@pytest.fixture(scope="module")
def fresh_model() -> OPTForCausalLM:
    torch.manual_seed(1)
    model = OPTForCausalLM(model_config())  # type: ignore[no-untyped-call]
    model.set_attn_implementation("eager")  # the only kind that shows its attention
    begin(model)
    return model


@torch.inference_mode()
def test_the_first_heads_begin_by_looking_one_two_and_three_tokens_back(fresh_model: OPTForCausalLM) -> None:
    ids = torch.randint(300, 3000, (2, 90))
    attention = fresh_model(input_ids=ids, output_attentions=True).attentions[0]
    for head, distance in enumerate((1, 2, 3)):
        assert torch.diagonal(attention[:, head], -distance, 1, 2).mean() > 0.5


def test_embeddings_are_not_decayed(fresh_model: OPTForCausalLM) -> None:
    decayed, kept = make_optimizer(fresh_model).param_groups
    embedding = fresh_model.model.decoder.embed_tokens.weight
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert any(parameter is embedding for parameter in kept["params"])
    positions = fresh_model.model.decoder.embed_positions.weight
    assert not any(parameter is positions for parameter in [*decayed["params"], *kept["params"]])


def test_windows_grow_during_the_run() -> None:
    windows = [window_at(share / 100) for share in range(100)]
    assert windows == sorted(windows)
    assert set(windows) == {128, 256, 512}
