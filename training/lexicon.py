"""The words tales are made of, from ``story/words.txt`` and ``story/weathers.txt``.

A word that is twice in a list is drawn twice as often. ``METAL_LOOKS`` go with ``METAL_THINGS`` and so
on, so that no scarf is made of brass; a region's short name, after its semicolon, is what it is called later.
"""

from pathlib import Path

STORY_FOLDER = Path(__file__).parent / "story"


def _read_lists(path: Path) -> dict[str, list[str]]:
    """Paragraphs of the form ``name =`` and then words parted by commas, over any number of lines."""
    lists: dict[str, list[str]] = {}
    for paragraph in path.read_text(encoding="utf-8").strip().split("\n\n"):
        name, _, body = paragraph.partition(" =")
        lists[name] = [" ".join(word.split()) for word in body.split(",")]
    return lists


_LISTS = _read_lists(STORY_FOLDER / "words.txt")

SHE_NAMES = _LISTS["she_names"]
HE_NAMES = _LISTS["he_names"]

PAWED = _LISTS["pawed"]
HOOFED = _LISTS["hoofed"]
WINGED = _LISTS["winged"]
PEOPLE = _LISTS["people"]
SHE_PEOPLE = _LISTS["she_people"]
HE_PEOPLE = _LISTS["he_people"]
ELDERS = _LISTS["elders"]
SHE_ELDERS = _LISTS["she_elders"]
HE_ELDERS = _LISTS["he_elders"]

TRAITS = _LISTS["traits"]
FRIEND_TRAITS = _LISTS["friend_traits"]
RIVAL_TRAITS = _LISTS["rival_traits"]

METAL_THINGS, METAL_LOOKS = _LISTS["metal_things"], _LISTS["metal_looks"]
CLOTH_THINGS, CLOTH_LOOKS = _LISTS["cloth_things"], _LISTS["cloth_looks"]
WOOD_THINGS, WOOD_LOOKS = _LISTS["wood_things"], _LISTS["wood_looks"]
OTHER_THINGS, OTHER_LOOKS = _LISTS["other_things"], _LISTS["other_looks"]

GIVERS = _LISTS["givers"]
HIDING_PLACES = _LISTS["hiding_places"]
SPOTS = _LISTS["spots"]
REGIONS = _LISTS["regions"]
BEAST_HOMES = _LISTS["beast_homes"]
PEOPLE_HOMES = _LISTS["people_homes"]
FOODS = _LISTS["foods"]
DAYTIMES = _LISTS["daytimes"]
SEASONS = _LISTS["seasons"]
# How the day looks, as an adjective, a semicolon, and what the sky then does.
WEATHERS = (STORY_FOLDER / "weathers.txt").read_text(encoding="utf-8").strip().splitlines()
