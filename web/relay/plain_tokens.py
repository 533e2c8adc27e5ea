"""Turns a plain token entry of the log into the contract's JSON without parsing it.

Nearly every entry is like `["t",0,[12,13],"text"]`. Its text is JSON already, so it only has to be cut out.
A regular expression proves that the entry has this form, and that `web.render.to_json` would write each of
its values in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_NUMBER = r"(?:0|[1-9][0-9]{0,9})"

_TEXT_PART = r'[^"\\\x00-\x1f\x85\u2028\u2029]*+'
"""Characters that to_json does not escape. It escapes some line ends that JSON itself does not."""

_ESCAPE = r'\\(?:["\\bfnrt]|u00(?:0[0-7bef]|1[0-9a-f]))'
"""The escapes of json.dumps: each control character has one form only."""

PlainToken = re.Match[str]
"""A token entry without logprobs and finish reason. Its groups are the JSON of its choice and of its text."""


plain_token: Callable[[str], PlainToken | None] = re.compile(
    rf'\["t",({_NUMBER}),\[(?:{_NUMBER}(?:,{_NUMBER})*+)?\],("{_TEXT_PART}(?:{_ESCAPE}{_TEXT_PART})*+")\]'
).fullmatch
"""Returns None for any other entry, also for one that is plain in another notation."""


def event_json(seq: int, token: PlainToken) -> str:
    """Returns what `to_json(tasks.log.event(seq, entry))` returns for the token's entry."""
    index, text = token.groups()
    return f'{{"seq":{seq},"type":"token","index":{index},"text":{text},"logprobs":null}}'
