"""Options that vLLM lacks are refused by name; none is dropped."""

from __future__ import annotations

import pytest

from tasks.errors import EngineError
from tasks.request import JobRequest, SamplingOptions, parse_request
from worker.engine.vllm.options import NOT_PASSED_ON, refuse_lacking, same_options

ALL = SamplingOptions.model_fields.keys()


def request_with(**options: object) -> JobRequest:
    return parse_request({"prompt": "x", **options})


def test_every_option_is_passed_on_or_handled_in_another_way() -> None:
    assert same_options(SamplingOptions, ALL) | NOT_PASSED_ON == ALL
    refuse_lacking(request_with(top_k=3, seed=1, stop="a", n=2, ignore_eos=True), ALL)


@pytest.mark.parametrize(("option", "value"), [("min_p", 0.1), ("logprobs", 0), ("top_k", 3)])
def test_an_option_that_vllm_lacks_is_refused_by_name(option: str, value: object) -> None:
    fields = ALL - {option}
    assert option not in same_options(SamplingOptions, fields)
    with pytest.raises(EngineError, match=f"^{option}: the vLLM engine does not have this option$"):
        refuse_lacking(request_with(**{option: value}), fields)


def test_an_option_that_vllm_lacks_does_no_harm_where_it_is_not_used() -> None:
    refuse_lacking(request_with(temperature=0.5), NOT_PASSED_ON)
