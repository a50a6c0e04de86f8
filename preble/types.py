"""What callers pass and get back: immutable structs, validated when made."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypedDict, cast

import msgspec
from msgspec.structs import force_setattr

from preble.errors import InvalidRequestError, nearest

MAX_SAMPLES = 128
MAX_LOGPROBS = 20
MAX_STOPS = 64
MAX_BIASES = 4096
MOST_BIAS = 100.0
MAX_CHOICES = 1024
MAX_STRUCTURE = 1 << 18
MAX_NAME = 256
MOST_TOKENS = 1 << 22
DEFAULT_MAX_TOKENS = 128

FinishReason = Literal["stop", "length", "abort"]
Structure = Literal["json_schema", "regex", "grammar", "choice"]
STRUCTURES: tuple[Structure, ...] = ("json_schema", "regex", "grammar", "choice")
"""The fields of `SamplingParams` that say what form the output has."""


class _NamesTheNearest(msgspec.StructMeta):
    """An unknown keyword is an error that names the nearest field. Decoding does not come this way."""

    def __call__(self, *values: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*values, **fields)
        except TypeError:
            for name in fields.keys() - self.__struct_fields__:
                raise InvalidRequestError(_unknown_field(name), field=name) from None
            raise


class SamplingParams(
    msgspec.Struct,
    metaclass=_NamesTheNearest,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """How tokens are chosen. The field names are those of vLLM and SGLang.

    `max_tokens` bounds the output in tokens; with None it goes on until the model ends it or the context is full. Not
    given, it is None for chat messages and 128 for other prompts. `temperature=0` takes the most likely token.
    `top_k=0` keeps the whole vocabulary. `logprobs=k` returns the log-probability of each chosen token, and those of
    the k most likely ones. The `n` samples of a request share its prompt; sample i draws with `seed + i`. Stop strings
    count once more than `min_tokens` tokens have come. The text shows special tokens with `skip_special_tokens=False`.

    `logit_bias={id: bias}` adds -100 to 100 to the logits of tokens: -100 keeps a token out, 100 makes it certain. It
    is kept as pairs in order of ids; `biases` is the mapping. `prompt_logprobs=k` is as `logprobs`, for the tokens of
    the prompt, none of which is then taken from a cache.

    At most one of four fields gives the output a form that it cannot leave. `json_schema` is a JSON schema, as a dict
    or as JSON text, and is kept as text. `regex` is a regular expression for the whole output, `choice` the texts of
    which it is one, and `grammar` a context-free grammar in the language of the engine: Lark in `torch`, Lark or EBNF
    in vLLM. Other engines refuse all four. An output that `max_tokens` cuts off is incomplete.
    Raises InvalidRequestError, which names the field and its bound, or the nearest one to a name that is unknown.
    """

    max_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] | None = None
    n: int = 1
    json_schema: Mapping[str, Any] | str | None = None
    regex: str | None = None
    grammar: str | None = None
    choice: Sequence[str] = ()

    def __post_init__(self) -> None:
        # Checked on both sides of the wire, for every request; most of it is defaults, which need no check.
        for name, default in _DEFAULTS:
            value = getattr(self, name)
            if value is not default:
                _CHECKS[name](name, value)
                if isinstance(value, float) and type(value) is not float:  # numpy's goes over no wire
                    force_setattr(self, name, float(value))
        if isinstance(self.max_tokens, int) and self.min_tokens > self.max_tokens:
            raise InvalidRequestError(f"must be at most max_tokens ({self.max_tokens})", field="min_tokens")
        # What the caller may change later is copied.
        if self.stop != ():
            force_setattr(self, "stop", _stops("stop", self.stop, _is_stop, "non-empty strings of Unicode text"))
        if self.stop_token_ids != ():
            ids = _stops("stop_token_ids", self.stop_token_ids, _is_token_id, "token ids")
            force_setattr(self, "stop_token_ids", ids)
        if self.logit_bias is not None:
            force_setattr(self, "logit_bias", _bias_pairs(self.logit_bias) or None)
        if self.structure is not None:
            _check_structure(self)

    @property
    def structure(self) -> Structure | None:
        """The field that gives the output a form, None if it is free."""
        if self.json_schema is None and self.regex is None and self.grammar is None and self.choice == ():
            return None
        return next(name for name in STRUCTURES if getattr(self, name) not in (None, ()))

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` as a new mapping, empty without one."""
        return dict(self.logit_bias or ())

    @property
    def token_limit(self) -> int:
        """`max_tokens` as a number: the default of 128 if it was not given, and more than any context for None."""
        if self.max_tokens is None:
            return MOST_TOKENS
        return self.max_tokens if isinstance(self.max_tokens, int) else DEFAULT_MAX_TOKENS


def _integer(low: int, high: int) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InvalidRequestError(f"must be an integer in [{low}, {high}], not {value!r}", field=name)

    return check


def _number(low: float, high: float) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not low <= value <= high:  # type: ignore[operator]
            raise InvalidRequestError(f"must be a number in [{low:g}, {high:g}], not {value!r}", field=name)

    return check


def _or_none(check: Callable[[str, object], None]) -> Callable[[str, object], None]:
    return lambda name, value: None if value is None else check(name, value)


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequestError(f"must be true or false, not {value!r}", field=name)


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "max_tokens": _or_none(_integer(1, MOST_TOKENS)),
    "min_tokens": _integer(0, MOST_TOKENS),
    "top_k": _integer(-1, 1 << 31),
    "seed": _integer(-(1 << 63), (1 << 63) - 1),
    "logprobs": _integer(0, MAX_LOGPROBS),
    "prompt_logprobs": _integer(0, MAX_LOGPROBS),
    "n": _integer(1, MAX_SAMPLES),
    "temperature": _number(0.0, 100.0),
    "top_p": _number(1e-6, 1.0),
    "min_p": _number(0.0, 1.0),
    "presence_penalty": _number(-2.0, 2.0),
    "frequency_penalty": _number(-2.0, 2.0),
    "repetition_penalty": _number(1e-3, 100.0),
    "include_stop_str_in_output": _flag,
    "skip_special_tokens": _flag,
    "ignore_eos": _flag,
}
_DEFAULTS = [(field.name, field.default) for field in msgspec.structs.fields(SamplingParams) if field.name in _CHECKS]


def _stops(name: str, value: object, fits: Callable[[object], bool], kind: str) -> tuple[Any, ...]:
    entries = (value,) if name == "stop" and isinstance(value, str) else value
    if not isinstance(entries, (tuple, list)) or not all(map(fits, entries)):
        raise InvalidRequestError(f"must be a sequence of {kind}, not {value!r}", field=name)
    if len(entries) > MAX_STOPS:
        raise InvalidRequestError(f"at most {MAX_STOPS} entries", field=name)
    return tuple(entries)


def _bias_pairs(value: object) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, (Mapping, tuple)) or len(value) > MAX_BIASES:
        raise InvalidRequestError(f"must be a mapping of at most {MAX_BIASES} token ids to numbers", field="logit_bias")
    pairs = value.items() if isinstance(value, Mapping) else value
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise InvalidRequestError("must be a mapping of token ids to numbers", field="logit_bias")
    return tuple(sorted((_biased_id(id), _bias(bias)) for id, bias in pairs))


def _biased_id(id: object) -> int:
    id = int(id) if isinstance(id, str) and id.isdecimal() and id.isascii() and len(id) < 11 else id  # as JSON has it
    if not _is_token_id(id):
        raise InvalidRequestError(f"{id!r} is no token id", field="logit_bias")
    return cast(int, id)


def _bias(bias: object) -> float:
    _number(-MOST_BIAS, MOST_BIAS)("logit_bias", bias)
    return float(cast(float, bias))


def _check_structure(sampling: SamplingParams) -> None:
    given = [name for name in STRUCTURES if getattr(sampling, name) not in (None, ())]
    if len(given) > 1:
        raise InvalidRequestError(f"cannot be combined with {given[0]}: at most one form", field=given[1])
    if sampling.ignore_eos:
        raise InvalidRequestError("an output with a form ends where its form does", field="ignore_eos")
    name = given[0]
    text = {"json_schema": _schema_text, "choice": _choices}.get(name, lambda given: given)(getattr(sampling, name))
    if name == "choice":
        force_setattr(sampling, name, text)
        return
    if not isinstance(text, str) or not _is_stop(text) or len(text) > MAX_STRUCTURE:
        raise InvalidRequestError(f"must be text of 1 to {MAX_STRUCTURE} characters", field=name)
    force_setattr(sampling, name, text)


def _schema_text(schema: object) -> str:
    """Return a schema as JSON text. The order of the properties stays: it is that of the output."""
    try:
        if isinstance(schema, str):
            msgspec.json.decode(schema, type=dict[str, Any])
            return schema
        if isinstance(schema, Mapping):
            return msgspec.json.encode(schema).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"is no JSON schema: {error}", field="json_schema") from None
    raise InvalidRequestError(f"must be a dict or JSON text, not {type(schema).__name__}", field="json_schema")


def _choices(given: object) -> tuple[str, ...]:
    if not isinstance(given, (tuple, list)) or not all(map(_is_stop, given)):
        raise InvalidRequestError("must be a sequence of non-empty strings of Unicode text", field="choice")
    if len(given) > MAX_CHOICES or sum(map(len, given)) > MAX_STRUCTURE:
        raise InvalidRequestError(f"at most {MAX_CHOICES} entries of {MAX_STRUCTURE} characters", field="choice")
    return tuple(given)


def _is_stop(value: object) -> bool:
    return isinstance(value, str) and value != "" and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _is_token_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


class RequestOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a request beside its prompt and its sampling: the keywords of `PrebleCluster.generate`.

    `request_id` is the caller's name for the request. `session` names a conversation. A lower `priority` goes first.
    `lora` is the adapter to compute with. Only requests of the same `namespace`, `tenant` and adapter share cached
    prefixes. `tools` and `chat_template_kwargs` are for chat messages. `add_special_tokens` says whether the tokenizer
    adds tokens such as the begin token; None is yes for text and no for chat messages. `timeout` is in seconds,
    `deadline` a time on the caller's clock. Raises InvalidRequestError, which names the field.
    """

    request_id: str | None = None
    session: str | None = None
    priority: int = 0
    namespace: str = ""
    tenant: str = ""
    lora: str = ""
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    add_special_tokens: bool | None = None
    timeout: float | None = None
    deadline: float | None = None

    def __post_init__(self) -> None:
        if self.session is not None and not isinstance(self.session, str):
            raise InvalidRequestError(f"must be a string, not {type(self.session).__name__}", field="session")
        if (
            not isinstance(self.priority, int)
            or isinstance(self.priority, bool)
            or not -(1 << 31) <= self.priority < 1 << 31
        ):
            raise InvalidRequestError(f"must be a 32-bit integer, not {self.priority!r}", field="priority")
        for name in ("namespace", "tenant", "lora"):
            if (value := getattr(self, name)) != "":
                _check_name(name, value)
        if self.add_special_tokens is not None:
            _flag("add_special_tokens", self.add_special_tokens)
        if self.request_id is not None:
            _check_name("request_id", self.request_id)
        if self.timeout is not None or self.deadline is not None:
            _check_times(self.timeout, self.deadline)

    @property
    def served_by(self) -> str:
        """The namespace that decides which workers serve it: its own, or else its adapter's name."""
        return self.namespace or self.lora

    @property
    def shared_with(self) -> str:
        """Whose prefixes it shares within that namespace: its tenant's, computed with the same adapter."""
        return f"{self.tenant}\0{self.lora}" if self.lora else self.tenant  # no name has a NUL in it

    def until(self, now: float) -> float | None:
        """By when it must be done, if begun `now`: the `deadline` or the end of its `timeout`, whichever is earlier."""
        if self.timeout is None:
            return self.deadline
        end = now + self.timeout
        return end if self.deadline is None else min(end, self.deadline)


class RequestKeywords(TypedDict, total=False):
    """The fields of `RequestOptions` as keywords of a call, for type checkers: `**options: Unpack[RequestKeywords]`."""

    request_id: str | None
    session: str | None
    priority: int
    namespace: str
    tenant: str
    lora: str
    tools: Sequence[Mapping[str, Any]] | None
    chat_template_kwargs: Mapping[str, Any] | None
    add_special_tokens: bool | None
    timeout: float | None
    deadline: float | None


def request_options(keywords: RequestKeywords) -> RequestOptions:
    """Return the options of a request. Raises InvalidRequestError for a wrong one, or one that does not exist."""
    for name in keywords:
        if name not in RequestOptions.__struct_fields__:
            raise InvalidRequestError(_unknown(name), field=name)
    return RequestOptions(**keywords)


def _unknown_field(name: str) -> str:
    if name in RequestOptions.__struct_fields__:
        return f"is an option of the request, pass generate(..., {name}=...)"
    return f"unknown field of SamplingParams{nearest(name, SamplingParams.__struct_fields__)}"


def _unknown(name: str) -> str:
    if name in SamplingParams.__struct_fields__:
        return f"is a field of sampling, pass SamplingParams({name}=...)"
    return f"unknown option{nearest(name, RequestOptions.__struct_fields__)}"


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise InvalidRequestError(f"must be printable text of 1 to {MAX_NAME} characters", field=name)


def _check_times(timeout: object, deadline: object) -> None:
    for name, value in (("timeout", timeout), ("deadline", deadline)):
        if value is not None and (not isinstance(value, (int, float)) or math.isnan(value)):
            raise InvalidRequestError(f"must be a number of seconds, not {value!r}", field=name)
    if timeout is not None and timeout <= 0:  # type: ignore[operator]
        raise InvalidRequestError(f"must be positive, not {timeout:g}", field="timeout")


def plain_data(result: msgspec.Struct) -> dict[str, Any]:
    """Return a result as plain data: its fields by name, as lists, text and numbers. A number not finite is None."""
    return {name: _plain(getattr(result, name)) for name in result.__struct_fields__}


def _plain(value: object) -> Any:
    if isinstance(value, msgspec.Struct):
        return plain_data(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """The natural logarithm of a generated token's probability; `top` has the most likely tokens as (id, logprob)."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one sample. `cached_tokens` are the prompt tokens that the engine found in its KV cache."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Timings(msgspec.Struct, frozen=True):
    """Seconds from the submission, on the caller's clock.

    `ttft` runs to the first token, or to the end if no token came; `latency` runs to the end.
    """

    ttft: float
    latency: float


class Choice(msgspec.Struct, frozen=True):
    """One sample of a finished request. `index` is its number, from 0; `worker` is where it ended."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: tuple[TokenLogprob, ...] | None
    worker: str
    usage: Usage
    timings: Timings


PromptLogprobs: TypeAlias = tuple[TokenLogprob | None, ...]
"""An entry for each token of a prompt: None for the first one, which nothing comes before."""


class Generation(msgspec.Struct, frozen=True):
    """A finished request. Its `choices` are its samples; the properties are those of the first one.

    `prompt_logprobs` has an entry for each token of the prompt, if asked for; that of the first one is None.
    """

    id: str
    choices: tuple[Choice, ...]
    prompt_logprobs: PromptLogprobs | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for `json.dumps`, FastAPI and pydantic: `id`, `text` of the first sample, `choices`."""
        return {"id": self.id, "text": self.text, **plain_data(self)}

    @property
    def text(self) -> str:
        """Generated text of the first sample; empty if the model has no tokenizer."""
        return self.choices[0].text

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Generated token ids of the first sample."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first sample ended: a stop condition, the length limit, or an abort."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...] | None:
        """Log-probabilities of the first sample, if asked for."""
        return self.choices[0].logprobs

    @property
    def usage(self) -> Usage:
        """Tokens of the first sample."""
        return self.choices[0].usage

    @property
    def timings(self) -> Timings:
        """Times of the first sample."""
        return self.choices[0].timings

    @property
    def worker(self) -> str:
        """The worker that served the first sample."""
        return self.choices[0].worker


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a stream: new text and new token ids of sample `index`.

    `finish_reason` and `usage` are set on the last chunk of a sample. `prompt_logprobs`, if asked for, come once, in a
    chunk of the first sample. `request_id` is the same in all chunks of a
    stream; `cluster.explain(chunk.request_id)` returns its receipt.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    worker: str = ""
    request_id: str = ""
    prompt_logprobs: PromptLogprobs | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as plain data, for `json.dumps`, FastAPI and pydantic."""
        return plain_data(self)


class Counters(msgspec.Struct, frozen=True):
    """Samples and tokens since the start. Each submitted sample ends as finished, failed or cancelled.

    Those that were `refused` when they came, since a limit was reached or no worker was there, were not submitted.
    `retried` counts how often a sample was placed again because its worker failed, was lost or was removed, or because
    its queue there was too long; `moved` the waiting samples that were taken to another worker, and `copied` the
    prefixes that a worker was asked to compute in the background.
    """

    submitted: int
    refused: int
    finished: int
    failed: int
    cancelled: int
    retried: int
    moved: int
    copied: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


WorkerStatus = Literal["serving", "full", "open", "half_open", "drained", "lost"]
ErrorKind = Literal["engine", "full", "unreachable", "timeout", "lost", "refused"]


class WorkerEvent(msgspec.Struct, frozen=True):
    """Something that happened to a worker, and why.

    * `lost`: it died, or cannot be reached. `back`: it serves again, with an empty cache.
    * `opened`: its circuit breaker opened, so it gets no new requests for a while. `closed`: it gets them again.
    """

    kind: Literal["lost", "back", "opened", "closed"]
    worker: str
    reason: str


class Spread(msgspec.Struct, frozen=True):
    """Mean, median and 99th percentile of some seconds."""

    mean: float
    p50: float
    p99: float


class WorkerStats(msgspec.Struct, frozen=True):
    """One worker, as the scheduler sees it and as its engine reported last. Lost and drained workers stay.

    The scheduler's are `load` (seconds of work left), `requests` in flight, and `held_tokens` of the `kv_tokens` of its
    cache. The engine's are `running` and `waiting` requests, and `used_tokens` of the cache.

    `status` says whether it gets new requests, and `reason` why not: it is `full` and asked to be left alone, its
    circuit breaker is `open` or `half_open`, or it is `drained` or `lost`. Counted are the samples that `finished`
    there, the `cached_tokens` and `uncached_tokens` of their prompts, and `errors` by kind, also of requests that then
    went elsewhere. `ttft` and `latency`, in seconds, are of the last five minutes, None if nothing finished in them.
    `uptime` is in seconds; `restarts` counts how often a lost worker came back.
    """

    worker: str
    load: float
    requests: int
    held_tokens: int
    kv_tokens: int
    running: int
    waiting: int
    used_tokens: int
    status: WorkerStatus = "serving"
    reason: str = ""
    finished: int = 0
    cached_tokens: int = 0
    uncached_tokens: int = 0
    errors: Mapping[ErrorKind, int] = {}
    ttft: Spread | None = None
    latency: Spread | None = None
    uptime: float = 0.0
    restarts: int = 0


PromptIds: TypeAlias = Literal["tokenizer", "server", "text"]
"""By what the scheduler knows a forwarded prompt: ids of the tokenizer here, of a server's `/tokenize`, or text."""


class ClusterStats(msgspec.Struct, frozen=True):
    """A cluster at one moment. `in_flight` counts samples; of these, `waiting` ones are on no worker.

    `tree_nodes` and `tree_tokens` are the size of the scheduler's radix tree; a token counts once, however many workers
    hold it. `prompt_ids` says by what the scheduler knows the last forwarded prompt, None before the first one.
    """

    counters: Counters
    in_flight: int
    waiting: int
    tree_nodes: int
    tree_tokens: int
    workers: tuple[WorkerStats, ...]
    prompt_ids: PromptIds | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return its fields as plain data, for `json.dumps`, FastAPI and pydantic."""
        return plain_data(self)
