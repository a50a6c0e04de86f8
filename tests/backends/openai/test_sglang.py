"""SGLang's `/generate`: what its events say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from preble.backends import Delta, EngineRequest
from preble.backends.openai.sglang import Generate
from preble.tokens import pack
from preble.types import SamplingParams


def read(sampling: dict[str, Any], *events: tuple[list[int], int]) -> list[Delta | None]:
    """The deltas of events with these ids, and so many ids in all."""
    reader = Generate().reader(EngineRequest(1, pack([5]), SamplingParams(**sampling)))
    bodies = ({"output_ids": ids, "meta_info": {"completion_tokens": total}} for ids, total in events)
    return [reader.read(msgspec.json.encode(body)) for body in bodies]


@pytest.mark.parametrize("repeated", [False, True], ids=["new ids", "all ids so far"])
def test_a_stop_token_that_sglang_lets_pass_ends_the_stream(repeated: bool):
    second = [1, 7, 7, 8] if repeated else [7, 8]
    sampling = {"ignore_eos": True, "stop_token_ids": (7,), "min_tokens": 3}
    first, last = read(sampling, ([1, 7], 2), (second, 4))
    assert first == Delta(pack([1, 7]))
    assert last == Delta(pack([7]), finish_reason="stop", stop_reason=7)


def test_where_sglang_looks_for_stop_tokens_nobody_else_does():
    assert read({"stop_token_ids": (7,)}, ([7, 8], 2)) == [Delta(pack([7, 8]))]
