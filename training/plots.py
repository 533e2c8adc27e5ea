"""Reads the plots: one text file each, whose first paragraph is a header and every other one a beat.

Header lines: ``gist:`` completes "a tale about a fox ...", ``let a, b = x ~ y ; ...`` binds names for one
telling, ``ask: question => answer`` is what a listener may ask afterwards. A beat is a paragraph of lines
that say the same step in different words; one line is told. A beat whose first line starts with "?" may be
left out.
"""

from dataclasses import dataclass
from functools import cache
from random import Random

from training.grammar import expand, split_options
from training.lexicon import STORY_FOLDER

PLOT_NAMES = (
    "broken", "contest", "errand", "fear", "found", "garden", "gift", "journey", "lamp",
    "learn", "lost", "noise", "quarrel", "rescue", "storm", "trick", "winter", "wish",
)  # fmt: skip
OPTIONAL_MARK = "? "


@dataclass(frozen=True, slots=True)
class Beat:
    lines: tuple[str, ...]
    optional: bool


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    gist: str
    lets: tuple[tuple[tuple[str, ...], tuple[tuple[str, ...], ...]], ...]
    asks: tuple[tuple[str, str], ...]
    beats: tuple[Beat, ...]

    def bind(self, slots: dict[str, str], rng: Random) -> dict[str, str]:
        """One choice for each ``let``, spelled out, so that the whole telling keeps to it."""
        bound = dict(slots)
        for names, rows in self.lets:
            row = rng.choice(rows)
            bound |= {name: expand(value, bound, rng) for name, value in zip(names, row, strict=True)}
        return bound


@cache
def load_plot(name: str) -> Plot:
    """Raises ValueError for a header line that is none of gist, let, ask."""
    head, *paragraphs = (STORY_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip().split("\n\n")
    gist, lets, asks = "", [], []
    for line in head.splitlines():
        if line.startswith("gist: "):
            gist = f"[{line[6:]}]"
        elif line.startswith("let "):
            lets.append(_parse_let(line[4:]))
        elif line.startswith("ask: "):
            question, _, answer = line[5:].partition(" => ")
            asks.append((question, f"[{answer}]"))
        else:
            raise ValueError(f"{name}.txt: unknown header line {line!r}")
    return Plot(name, gist, tuple(lets), tuple(asks), tuple(_parse_beat(text) for text in paragraphs))


@cache
def load_lines(name: str) -> tuple[str, ...]:
    """The templates of a file that is a plain list, such as ``openings``."""
    return tuple((STORY_FOLDER / f"{name}.txt").read_text(encoding="utf-8").strip().splitlines())


@cache
def load_rules() -> dict[str, str]:
    """Phrases that every template may use as slots."""
    lines = [line for line in load_lines("rules") if not line.startswith("#")]
    return {name: template for name, _, template in (line.partition(" = ") for line in lines)}


def _parse_let(source: str) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    names, _, rows = source.partition(" = ")
    split = tuple(tuple(split_options(row.strip(), "~")) for row in split_options(rows, ";"))
    return tuple(names.split(", ")), tuple(tuple(part.strip() for part in row) for row in split)


def _parse_beat(text: str) -> Beat:
    lines = tuple(line.removeprefix(OPTIONAL_MARK) for line in text.splitlines())
    return Beat(lines, text.startswith(OPTIONAL_MARK))
