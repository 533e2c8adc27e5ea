"""The characters of a tale, which agree with their pronouns, and the things around them."""

from dataclasses import dataclass
from random import Random
from typing import Literal

from training import lexicon as words

Gender = Literal["she", "he"]

PRONOUNS: dict[Gender, tuple[str, str, str, str]] = {
    "she": ("she", "her", "her", "herself"),
    "he": ("he", "him", "his", "himself"),
}
SAME_PRONOUN_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Character:
    name: str
    kind: str
    gender: Gender
    trait: str

    def slots(self, prefix: str) -> dict[str, str]:
        """Slots of the grammar: ``{prefix}n`` the name, ``{prefix}k`` the kind, and pronouns."""
        he, him, his, himself = PRONOUNS[self.gender]
        lead = "" if prefix == "h" else prefix
        named = {f"{prefix}n": self.name, f"{prefix}k": self.kind, f"{lead}trait": self.trait}
        return named | {f"{lead}he": he, f"{lead}him": him, f"{lead}his": his, f"{lead}himself": himself}


def draw_character(rng: Random, other: Character | None, traits: list[str] = words.TRAITS) -> Character:
    """Returns a character whose name and kind differ from those of ``other``.

    The pronoun mostly differs too, because "she gave it to her" puzzles a reader.
    """
    kind = rng.choice(rng.choice(_KIND_GROUPS))
    gender = _gender(rng, kind, other.gender if other else None)
    drawn = Character(_name(rng, gender), kind, gender, rng.choice(traits))
    clash = other is not None and (drawn.name == other.name or drawn.kind == other.kind)
    return draw_character(rng, other, traits) if clash else drawn


def hero_slots(hero: Character, rng: Random) -> dict[str, str]:
    trait2 = rng.choice([trait for trait in words.TRAITS if trait != hero.trait])
    home = rng.choice(words.PEOPLE_HOMES if _is_person(hero.kind) else words.BEAST_HOMES)
    return hero.slots("h") | {"trait2": trait2, "home": home}


def draw_others(hero: Character, rng: Random) -> dict[str, str]:
    """Slots for the friend (f), the rival (r) and the old one who knows (w) of one episode."""
    friend = draw_character(rng, hero, words.FRIEND_TRAITS)
    rival = draw_character(rng, hero, words.RIVAL_TRAITS)
    if rival.name == friend.name or rival.kind == friend.kind:
        return draw_others(hero, rng)
    taken = {hero.kind, friend.kind, rival.kind}
    elder = rng.choice([kind for kind in words.ELDERS if kind not in taken])
    old = Character("", elder, _elder_gender(rng, elder), "old")
    return friend.slots("f") | rival.slots("r") | old.slots("w")


def draw_world(rng: Random) -> dict[str, str]:
    """Returns slots for the place and the time of a tale. They stay the same in the whole tale."""
    region, land = rng.choice(words.REGIONS).split(";")
    dayadj, skyline = rng.choice(words.WEATHERS).split(";")
    season = rng.choice(words.SEASONS)
    return {"region": region, "land": land, "dayadj": dayadj, "skyline": skyline, "season": season}


def draw_props(rng: Random) -> dict[str, str]:
    """Slots for the things and spots of one episode, all different from each other."""
    slots = {"daytime": rng.choice(words.DAYTIMES), "giver": rng.choice(words.GIVERS)}
    for number, (look, thing) in enumerate(_distinct_things(rng, 3), start=1):
        suffix = "" if number == 1 else str(number)
        slots |= {f"thing{suffix}": thing, f"item{suffix}": f"{look} {thing}"}
    for key, options, count in (
        ("where", words.HIDING_PLACES, 3),
        ("food", words.FOODS, 4),
        ("spot", words.SPOTS, 4),
    ):
        for number, choice in enumerate(rng.sample(options, count), start=1):
            slots[key if number == 1 else f"{key}{number}"] = choice
    return slots


_KIND_GROUPS = [
    words.PAWED, words.PAWED, words.PAWED, words.HOOFED,
    words.WINGED, words.PEOPLE, words.SHE_PEOPLE, words.HE_PEOPLE,
]  # fmt: skip


def _is_person(kind: str) -> bool:
    return kind in {*words.PEOPLE, *words.SHE_PEOPLE, *words.HE_PEOPLE}


def _gender(rng: Random, kind: str, other: Gender | None) -> Gender:
    if kind in words.SHE_PEOPLE or kind == "hen":
        return "she"
    if kind in words.HE_PEOPLE or kind == "rooster":
        return "he"
    if other is not None and rng.random() > SAME_PRONOUN_SHARE:
        return "he" if other == "she" else "she"
    return rng.choice(("she", "he"))


def _elder_gender(rng: Random, kind: str) -> Gender:
    if kind in words.SHE_ELDERS:
        return "she"
    return "he" if kind in words.HE_ELDERS else rng.choice(("she", "he"))


def _name(rng: Random, gender: Gender) -> str:
    return rng.choice(words.SHE_NAMES if gender == "she" else words.HE_NAMES)


def _distinct_things(rng: Random, count: int) -> list[tuple[str, str]]:
    things: dict[str, str] = {}
    while len(things) < count:
        looks, nouns = rng.choice(_THINGS)
        things.setdefault(rng.choice(nouns), rng.choice(looks))
    return [(look, thing) for thing, look in things.items()]


_THINGS = [
    (words.METAL_LOOKS, words.METAL_THINGS),
    (words.CLOTH_LOOKS, words.CLOTH_THINGS),
    (words.WOOD_LOOKS, words.WOOD_THINGS),
    (words.OTHER_LOOKS, words.OTHER_THINGS),
]
