"""The tables of fields in docs/openai.md have each field, and what they call refused is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from web.openai.chat_parameters import ChatParameters
from web.openai.parameters import CompletionParameters
from web.openai.responses.parameters import ResponseParameters

DOCUMENT = Path(__file__).parents[2] / "docs" / "openai.md"
HELLO = [{"role": "user", "content": "hello"}]
ROUTES = pytest.mark.parametrize(
    ("model", "column", "task"),
    [
        (CompletionParameters, (3, 1), {"prompt": "x"}),
        (ChatParameters, (3, 2), {"messages": HELLO}),
        (ResponseParameters, (2, 1), {"input": "x"}),
    ],
)


Column = tuple[int, int]
"""How many columns a table has, and which of them is meant."""


def documented(column: Column) -> dict[str, str]:
    """Returns what a column says of each field. A dash says that its route has no such field."""
    columns, place = column
    found: dict[str, str] = {}
    for line in DOCUMENT.read_text().partition("## Fields")[2].splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == columns and re.search(r"\w", cells[place]):
            found |= dict.fromkeys(re.findall("`(.+?)`", cells[0]), cells[place])
    return found


@ROUTES
def test_each_field_has_its_row(model: type[BaseModel], column: Column, task: dict[str, Any]) -> None:
    assert documented(column).keys() == model.model_fields.keys()
    assert model.model_validate(task)


@ROUTES
def test_what_is_called_refused_is_refused_by_name(
    model: type[BaseModel], column: Column, task: dict[str, Any]
) -> None:
    refused = [field for field, meaning in documented(column).items() if meaning == "refused"]
    assert refused
    for field in refused:
        assert model.model_validate({**task, field: None}), "null counts as absent"
        with pytest.raises(ValidationError) as caught:
            model.model_validate({**task, field: "anything"})
        assert caught.value.errors()[0]["loc"] == (field,)


@ROUTES
def test_a_field_that_is_not_refused_says_nothing_else(
    model: type[BaseModel], column: Column, task: dict[str, Any]
) -> None:
    assert task
    for field, meaning in documented(column).items():
        is_refused = (model.model_fields[field].description or "").startswith("not supported")
        assert is_refused <= meaning.startswith(("refused", "only")), field
