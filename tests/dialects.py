"""How servers speak: a table. `tests.openai_server` speaks every one of them.

A new dialect joins with an entry in `DIALECTS`; the conformance tests of the `openai` engine run over all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

NAME = "sim"
MISSING = object()

Words = dict[str | None, Any]
Error = Callable[[int, str], Any]


def card(**fields: Any) -> Callable[[int], Any]:
    """A list of one model; "LIMIT" stands for its context."""
    return lambda limit: {"object": "list", "data": [_filled({"id": NAME, "object": "model"} | fields, limit)]}


def _filled(fields: dict[str, Any], limit: int) -> dict[str, Any]:
    return {name: limit if value == "LIMIT" else value for name, value in fields.items()}


def openai_error(status: int, words: str) -> Any:
    return {"error": {"message": words, "type": "BadRequestError", "param": None, "code": status}}


def _older_error(status: int, words: str) -> Any:
    return {"object": "error", "message": words, "type": "BadRequestError", "param": None, "code": status}


def _bare_error(status: int, words: str) -> Any:
    return {"error": words}


def _tgi_error(status: int, words: str) -> Any:
    kinds = {429: "overloaded", 422: "validation", 400: "validation"}
    return {"error": words, "error_type": kinds.get(status, "generation")}


def _ollama_error(status: int, words: str) -> Any:
    return {"error": {"message": words, "type": "api_error", "param": None, "code": None}}


def _text_code_error(status: int, words: str) -> Any:
    return {"error": {"message": words, "type": "None", "param": "None", "code": str(status)}}


def _fastapi_error(status: int, words: str) -> Any:
    return {"detail": [{"type": "value_error", "loc": ["body", "prompt"], "msg": words, "input": [1, 2]}]}


def _gateway_error(status: int, words: str) -> Any:
    return {"code": status, "details": words, "request_id": None}


def _page(status: int, words: str) -> Any:
    return f"<!DOCTYPE html><html><head><title>{words}</title></head><body><h1>nginx</h1></body></html>"


def _plain(status: int, words: str) -> Any:
    return words


def _as_text(value: Any) -> Any:
    """Numbers as text, all the way down."""
    if isinstance(value, dict):
        return {name: _as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_as_text(each) for each in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _with_nulls(event: dict[str, Any]) -> dict[str, Any]:
    """Every field that may be absent is null, and there are some that nobody knows."""
    nulls = {"usage": None, "error": None, "system_fingerprint": None, "choices": None, "service_tier": None}
    choice = {"logprobs": None, "stop_reason": None, "token_ids": None, "text": None, "matched": None}
    event = nulls | event
    event["choices"] = [choice | each for each in event["choices"] or ()] or None
    return event


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of server speaks. The defaults are vLLM's, without its page of metrics.

    * `models` is what it lists, given its context, and `documents` what it says at further paths. `tells_context` says
      whether its context can be found out, `health` is the status at `/health`.
    * `native` servers generate at SGLang's `/generate`, whose priorities are multiplied by `priority`.
    * It `takes_ids` and `returns_ids`, or speaks text; `strict` servers refuse fields that the OpenAI API lacks.
    * `words` are its finish reasons: what it says for each of ours, and for none.
    * `usage` is told in the "last" event, in "each", or "never". `document` servers do not stream.
    * `twist` changes each event before it is sent; `frame` puts it into the stream. `done` servers end with `[DONE]`.
    * `error` is the form of an error, `event_error` how it comes in a stream, and `codes` says whether it has its code.
    * `too_long` are status and words for a prompt that is too long.
    """

    models: Callable[[int], Any] = card(owned_by="vllm", max_model_len="LIMIT", root=NAME, parent=None)
    documents: Callable[[int], dict[str, Any]] = lambda _: {}
    tells_context: bool = True
    health: int = 200
    vllm_metrics: bool = False
    native: bool = False
    priority: int = 1
    options: dict[str, Any] = {}
    takes_ids: bool = True
    returns_ids: bool = True
    strict: bool = False
    words: Words = msgspec.field(default_factory=lambda: {None: None, "stop": "stop", "length": "length"})
    usage: str = "last"
    document: bool = False
    content_type: str = "text/event-stream; charset=utf-8"
    twist: Callable[[dict[str, Any]], dict[str, Any]] = lambda event: event
    frame: Callable[[bytes], bytes] = lambda data: b"data: " + data + b"\n\n"
    done: bool = True
    error: Error = openai_error
    event_error: Callable[[bytes], bytes] = lambda body: b"data: " + body + b"\n\n"
    codes: bool = True
    too_long: tuple[int, str] = (400, "This model's maximum context length is {limit} tokens. You asked for {length}.")

    def error_body(self, status: int, words: str) -> bytes:
        """The body of an error."""
        error = self.error(status, words)
        return error.encode() if isinstance(error, str) else json.dumps(error).encode()


VLLM = Dialect(vllm_metrics=True)
SGLANG = Dialect(
    models=card(owned_by="sglang", max_model_len="LIMIT"),
    native=True,
    too_long=(400, "The input ({length} tokens) is longer than the model's context length ({limit} tokens)."),
)
TEXT = Dialect(models=card(owned_by="someone"), tells_context=False, takes_ids=False, returns_ids=False)


def but(dialect: Dialect, **changes: Any) -> Dialect:
    return msgspec.structs.replace(dialect, **changes)


SERVERS: dict[str, Dialect] = {
    "vllm": VLLM,
    "vllm, usage in each event": but(VLLM, usage="each"),
    "vllm, older": but(VLLM, error=_older_error),
    "sglang": SGLANG,
    "sglang, higher numbers first": but(SGLANG, priority=-1),
    "sglang, without priorities": but(SGLANG, priority=0),
    "sglang, OpenAI's API": but(SGLANG, native=False, returns_ids=False, options={"protocol": "text"}),
    "llama.cpp": but(
        TEXT,
        models=card(owned_by="llamacpp", meta={"n_vocab": 500, "n_ctx_train": 1 << 20}),
        documents=lambda limit: {"/props": {"default_generation_settings": {"n_ctx": limit}, "total_slots": 1}},
        tells_context=True,
        takes_ids=True,
        error=lambda status, words: {"error": {"code": status, "message": words, "type": "server_error"}},
        event_error=lambda body: b"error: " + body + b"\n\n",
        too_long=(400, "the request exceeds the available context size ({limit} tokens), try increasing it"),
    ),
    "llama-cpp-python": but(
        TEXT,
        models=card(owned_by="me", permissions=[]),
        takes_ids=True,
        health=404,
        usage="never",
        too_long=(400, "Requested tokens ({length}) exceed context window of {limit}"),
    ),
    "TGI": but(
        TEXT,
        models=card(owned_by=NAME, created=0),
        documents=lambda limit: {"/info": {"model_id": NAME, "max_total_tokens": limit, "max_input_tokens": limit - 1}},
        tells_context=True,
        strict=True,
        words={None: "", "stop": "eos_token", "length": "length"},
        error=_tgi_error,
        too_long=(422, "Input validation error: `inputs` must have less than {limit} tokens. Given: {length}"),
    ),
    "Ollama": but(
        TEXT,
        models=card(owned_by="library"),
        health=404,
        error=_ollama_error,
        codes=False,
        too_long=(400, "the input length exceeds the context length"),
    ),
    "LM Studio": but(
        TEXT,
        models=card(owned_by="organization_owner"),
        documents=lambda _: {path: {"error": f"Unexpected {path}"} for path in ("/metrics", "/props", "/info")},
        error=_bare_error,
        event_error=lambda body: b"event: error\ndata: " + body + b"\n\n",
        codes=False,
        too_long=(
            400,
            "Trying to keep {length} tokens when context the overflows, with context length of only {limit}",
        ),
    ),
    "LiteLLM": but(
        TEXT,
        models=lambda _: {
            "object": "list",
            "data": [{"id": NAME, "object": "model", "created": 1, "owned_by": "openai"}],
        },
        strict=True,
        health=401,
        error=_text_code_error,
        too_long=(400, "litellm.ContextWindowExceededError: the prompt is too long"),
    ),
    "TensorRT-LLM": but(
        TEXT,
        models=card(owned_by="tensorrt_llm"),
        documents=lambda _: {"/metrics": [{"iter": 1, "gpuMemUsage": 3}]},
        takes_ids=True,
        twist=_with_nulls,
        error=_older_error,
        too_long=(400, "The prompt length ({length}) should not exceed max_num_tokens ({limit})"),
    ),
    "text": but(TEXT, strict=True, health=404),
}
"""Servers that are in use, as they speak."""

ODD: dict[str, Dialect] = {
    "an empty finish reason on each chunk": but(VLLM, words=VLLM.words | {None: ""}),
    "no field for the finish reason": but(VLLM, words=VLLM.words | {None: MISSING}),
    "a finish reason by other names": but(VLLM, words={None: "none", "stop": "END_TURN", "length": "MAX_TOKENS"}),
    "[DONE] and never a finish reason": but(VLLM, words=dict.fromkeys((None, "stop", "length"))),
    "text, [DONE] and never a finish reason": but(TEXT, words=dict.fromkeys((None, "stop", "length"))),
    "sglang, [DONE] and never a finish reason": but(SGLANG, words=dict.fromkeys((None, "stop", "length"))),
    "a finish reason and no [DONE]": but(VLLM, done=False),
    "usage never": but(VLLM, usage="never"),
    "text, usage in each event": but(TEXT, usage="each"),
    "numbers as text": but(
        VLLM, twist=_as_text, models=lambda limit: _as_text(card(max_model_len="LIMIT", created=1)(limit))
    ),
    "nulls everywhere": but(VLLM, twist=_with_nulls, models=card(owned_by=None, max_model_len="LIMIT", parent=None)),
    "sglang, nulls everywhere": but(
        SGLANG, twist=lambda event: {"text": None, "error": None, "index": None, "embedding": None, **event}
    ),
    "a bare list of models, without a context": but(VLLM, models=lambda _: [{"id": NAME}], tells_context=False),
    "a context with a fraction of nothing": but(
        VLLM, models=lambda n: {"data": [{"id": NAME, "max_model_len": n * 1.0}]}
    ),
    "models with slashes and adapters": but(
        VLLM,
        models=lambda limit: {
            "data": [
                {"id": "org/sql", "parent": NAME, "max_model_len": limit},
                {"id": NAME, "root": "/models/org/name", "max_model_len": limit},
                {"id": "another/model:7b", "max_model_len": 5},
            ]
        },
    ),
    "a document for a stream": but(VLLM, document=True),
    "a document of text for a stream": but(TEXT, document=True),
    "lines that end with a return, comments, other fields": but(
        VLLM, frame=lambda data: b": ping\r\nevent: message\r\nid: 3\r\ndata: {}\r\n\r\ndata:" + data + b"\r\n\r\n"
    ),
    "a stream that is called plain text": but(VLLM, content_type="text/plain"),
    "errors of FastAPI": but(VLLM, error=_fastapi_error, codes=False),
    "errors of a gateway": but(VLLM, error=_gateway_error),
    "errors as a page": but(TEXT, error=_page, codes=False),
    "errors as plain text": but(TEXT, error=_plain, codes=False),
    "health at no path that others have": but(TEXT, health=501),
    "health that is a bad request": but(TEXT, health=400),
}
"""One dialect for each oddity, all else as vLLM or as a server of text."""

DIALECTS = SERVERS | ODD
