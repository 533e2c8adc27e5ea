"""The guards that `make mutants` removes are where it looks for them."""

from __future__ import annotations

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.guard)
def test_the_guard_and_its_test_are_there(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    assert mutant.mutated(source) != source
    file, name = mutant.test.split("::")
    assert f"def {name.split('[')[0]}(" in (ROOT / file).read_text()
