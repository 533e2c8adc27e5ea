"""Names characters in a tale: introduces them the first time, then uses the name or the kind.

Templates only say that someone is meant (``{f}``, the friend); a mark stands in the text until the line is
complete, because only then is it known who was named before whom.
"""

import re
from collections.abc import Mapping
from random import Random

_MARK = "\x01"
_MARKED = re.compile(f"([frwFRW]){_MARK}")
# ``{f_new}`` and ``{f}`` are the same request: whether it is new is not the template's to know.
MENTION_SLOTS = {f"{role}{ending}": f"{role}{_MARK}" for role in "frw" for ending in ("", "_new")}

_INTRODUCTIONS = {
    "f": (
        "a {ftrait} {fk} named {fn}", "a {ftrait} {fk} called {fn}", "{fn} the {fk}", "{fn} the {fk}",
        "a {fk} named {fn}", "a {fk} called {fn}",
    ),
    "r": (
        "a {rtrait} {rk} named {rn}", "a {rtrait} {rk} called {rn}", "{rn} the {rk}", "{rn} the {rk}",
        "a {rk} named {rn}",
    ),
    "w": ("the old {wk} from the {spot3}", "an old {wk}", "a very old {wk}", "a wise old {wk}"),
}  # fmt: skip
# A character with a name is always called by it, because a small model can follow one word, but not two.
_LATER = {"f": ("{fn}",), "r": ("{rn}",), "w": ("the old {wk}",)}


class Mentions:
    """Remembers who has been introduced in one tale."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._known: set[str] = set()

    def resolve(self, line: str, slots: Mapping[str, str]) -> str:
        named = {role for role in "fr" if slots[f"{role}n"] in line}
        self._known |= named
        return _MARKED.sub(lambda found: self._name(found[1], slots), line)

    def forget(self) -> None:
        """The next episode has other people in it."""
        self._known.clear()

    def _name(self, letter: str, slots: Mapping[str, str]) -> str:
        role = letter.lower()
        options = _LATER[role] if role in self._known else _INTRODUCTIONS[role]
        self._known.add(role)
        text = self._rng.choice(options).format_map(slots)
        return text[0].upper() + text[1:] if letter.isupper() else text


def by_name(line: str, slots: Mapping[str, str]) -> str:
    """Every mark as a plain name, for questions about a tale already told."""
    return _MARKED.sub(lambda found: _plain(found[1].lower(), slots), line)


def _plain(role: str, slots: Mapping[str, str]) -> str:
    return f"the old {slots['wk']}" if role == "w" else slots[f"{role}n"]
