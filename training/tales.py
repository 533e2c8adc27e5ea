"""Writes tales. A seed and a number always name the same tale: nothing here reads a clock or a global.

python -m training.tales --seed 1 --count 3
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from training.cast import draw_character, draw_others, draw_props, draw_world, hero_slots
from training.grammar import expand, polish
from training.mentions import MENTION_SLOTS, Mentions, by_name
from training.plots import PLOT_NAMES, Plot, load_lines, load_plot, load_rules

OPTIONAL_BEAT_SHARE = 0.5
INTERLUDE_SHARE = 0.08  # of the beats are followed by a sentence that only looks around
CLOSING_SHARE = 0.45
SECOND_EPISODE_SHARE = 0.12
PARAGRAPH_SHARE = 0.35
PARAGRAPH_BREAK_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Tale:
    """One tale, with what is needed to ask for it and to ask about it."""

    text: str
    plot: str
    hero_name: str
    hero_kind: str
    hero_trait: str
    friend_name: str
    friend_kind: str
    land: str
    gist: str
    questions: tuple[tuple[str, str], ...]
    episodes: int


class Teller:
    """Tells one tale: keeps its hero and world, and draws new things and others for each episode."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._hero = draw_character(rng, None)
        self._world = load_rules() | MENTION_SLOTS | hero_slots(self._hero, rng) | draw_world(rng)
        self._slots: dict[str, str] = {}
        self._mentions = Mentions(rng)
        self._breaks = rng.random() < PARAGRAPH_SHARE
        self._lines: list[str] = []

    def tell(self, plot: Plot, *, episodes: int) -> Tale:
        self._set_scene(plot)
        self._say(self._rng.choice(load_lines("openings")))
        self._episode(plot)
        described = self._describe(plot, episodes)
        for _ in range(episodes - 1):
            self._next_episode(plot)
        if self._rng.random() < CLOSING_SHARE:
            self._say(self._rng.choice(load_lines("closings")))
        return replace(described, text=self._joined())

    def _episode(self, plot: Plot) -> None:
        for beat in plot.beats:
            if not beat.optional or self._rng.random() < OPTIONAL_BEAT_SHARE:
                self._say(self._rng.choice(beat.lines))
                if self._rng.random() < INTERLUDE_SHARE:
                    self._say(self._rng.choice(load_lines("interludes")))

    def _next_episode(self, last: Plot) -> None:
        plot = load_plot(self._rng.choice([name for name in PLOT_NAMES if name != last.name]))
        self._say(self._rng.choice(load_lines("bridges")))
        self._set_scene(plot)
        self._mentions.forget()
        self._episode(plot)

    def _set_scene(self, plot: Plot) -> None:
        scene = self._world | draw_others(self._hero, self._rng) | draw_props(self._rng)
        self._slots = plot.bind(scene, self._rng)

    def _say(self, template: str) -> None:
        line = self._mentions.resolve(expand(template, self._slots, self._rng), self._slots)
        self._lines.append(polish(line))

    def _spell(self, template: str) -> str:
        return polish(by_name(expand(template, self._slots, self._rng), self._slots))

    def _describe(self, plot: Plot, episodes: int) -> Tale:
        """Returns the tale without its text, while the slots are still those of its first episode."""
        questions = tuple((self._spell(question), self._spell(answer)) for question, answer in plot.asks)
        return Tale(
            text="",
            plot=plot.name,
            hero_name=self._slots["hn"],
            hero_kind=self._slots["hk"],
            hero_trait=self._slots["trait"],
            friend_name=self._slots["fn"],
            friend_kind=self._slots["fk"],
            land=self._slots["land"],
            gist=self._spell(f"x {plot.gist}")[2:],  # the x keeps its first letter small
            questions=questions,
            episodes=episodes,
        )

    def _joined(self) -> str:
        text = self._lines[0]
        for line in self._lines[1:]:
            broken = self._breaks and self._rng.random() < PARAGRAPH_BREAK_SHARE
            text += ("\n\n" if broken else " ") + line
        return text


def write_tale(seed: int, number: int, *, episodes: int | None = None) -> Tale:
    """Tale ``number`` of ``seed``. ``episodes`` defaults to one, sometimes two."""
    rng = Random(f"tale:{seed}:{number}")
    count = 2 if rng.random() < SECOND_EPISODE_SHARE else 1
    return Teller(rng).tell(load_plot(rng.choice(PLOT_NAMES)), episodes=episodes or count)


def write_tales(seed: int, count: int) -> Iterator[Tale]:
    return (write_tale(seed, number) for number in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=3)
    options = parser.parse_args()
    for tale in write_tales(options.seed, options.count):
        print(f"[{tale.plot}] ... {tale.gist}\n{tale.text}\n")


if __name__ == "__main__":
    main()
