"""How many examples the unit tests generate."""

from __future__ import annotations

import hypothesis

hypothesis.settings.register_profile("quick", max_examples=25)
"""For `make unit`, which is to take seconds. `make test` tries all examples, four times as many."""
