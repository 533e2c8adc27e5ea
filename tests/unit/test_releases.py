"""The next release that `make chaos` makes of this checkout."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from harness.releases import NEW_FIELD, next_release_of
from harness.workers import ROOT

REQUEST = "tasks/request.py"
TABLE = "SINCE_VERSION: Mapping[str, int] = {"


@pytest.mark.parametrize("earlier", ["", '"seed": 2, ', '"top_k": 2, "seed": 7, '])
def test_the_next_release_has_a_new_field_and_a_new_record_version(
    monkeypatch: pytest.MonkeyPatch, earlier: str
) -> None:
    """Whether or not fields came after the first release already."""
    text = (ROOT / REQUEST).read_text()
    assert text.count(TABLE) == 1

    def loaded(name: str, text: str) -> Any:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)  # Where pydantic looks for types.
        exec(compile(text, REQUEST, "exec"), module.__dict__)
        return module

    this = loaded("this_release", text.replace(TABLE, TABLE + earlier))
    following = loaded("next_release", next_release_of(REQUEST, text.replace(TABLE, TABLE + earlier)))
    assert NEW_FIELD not in this.JobRequest.model_fields
    assert following.parse_request({"prompt": "x", NEW_FIELD: "y"}).novelty == "y"
    assert following.RECORD_VERSION == this.RECORD_VERSION + 1
    assert following.version_of({NEW_FIELD: "y"}) == following.RECORD_VERSION
    assert following.version_of({"seed": 1}) == this.version_of({"seed": 1})
