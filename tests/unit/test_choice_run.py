"""A choice on a worker: most of its tokens take the way by look-up, which must not change the text."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tasks.job import FinishReason
from tasks.log import TokenEntry, parse_entry
from tests.unit.small_tokenizers import PROPERTY, TOKENIZERS, decode_of
from tests.unit.test_byte_table import NAMES, TABLES
from worker.choice_run import ChoiceRun
from worker.engine.base import EngineRequest, RequestOutput, SamplingParams
from worker.engine.text.byte_table import TableDecoder
from worker.engine.text.detokenizer import Detokenizer


def choice_run(name: str, logged: Sequence[int], shown_chars: int, stop: Sequence[str]) -> ChoiceRun:
    decode = decode_of(TOKENIZERS[name])
    decoder = TableDecoder(TABLES[name])
    detokenizer = Detokenizer.resume((), logged, shown_chars, decode, stop, decoder=decoder)
    request = EngineRequest("token:0", (1,), tuple(logged), SamplingParams())
    return ChoiceRun(request, detokenizer, lambda token_id: decode((token_id,)), None, len(logged))


def entries(run: ChoiceRun, ids: Sequence[int], *, by_look_up: bool) -> list[TokenEntry]:
    """Returns an entry for each step that can show something, and the last one."""
    found = []
    for token_id in ids:
        output = RequestOutput("token:0", (token_id,))
        if not run.is_running:
            break
        if not (by_look_up and run.push_whole(output)):
            run.push(output)
        if run.text or run.is_end_unlogged:
            found.append(run.take_entry())
    if run.is_running:
        run.end(FinishReason.LENGTH)
        found.append(run.take_entry())
    return [entry for one in found if isinstance(entry := parse_entry(one), TokenEntry)]


@PROPERTY
@given(name=st.sampled_from(NAMES), data=st.data())
def test_a_look_up_gives_the_same_entries(name: str, data: st.DataObject) -> None:
    """With stop strings, code points of several ids, and an earlier attempt that showed more or less."""
    ids = data.draw(st.lists(st.integers(0, TOKENIZERS[name].get_vocab_size() - 1), max_size=30))
    cut = data.draw(st.integers(0, len(ids)))
    text = decode_of(TOKENIZERS[name])(ids)
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.sampled_from([[], [], [text[start : start + 2]]] if text[start:] else [[]]))
    shown_chars = data.draw(st.integers(0, len(text)))
    slow, fast = (choice_run(name, ids[:cut], shown_chars, stop) for _ in range(2))
    assert entries(fast, ids[cut:], by_look_up=True) == entries(slow, ids[cut:], by_look_up=False)
    assert fast.completion_tokens == slow.completion_tokens


def test_most_tokens_take_the_way_by_look_up() -> None:
    name = NAMES[0]
    whole = [token_id for token_id, text in TABLES[name].texts.items() if text][:5]
    run = choice_run(name, (), 0, ())
    run.push(RequestOutput("token:0", (whole[0],)))
    assert all(run.push_whole(RequestOutput("token:0", (token_id,))) for token_id in whole[1:])
    run.end(FinishReason.LENGTH)
    assert not run.push_whole(RequestOutput("token:0", (whole[0],)))
