"""The tree in the docstring is the tree of the classes."""

from __future__ import annotations

import builtins
import inspect
import re

import pytest

import preble
from preble import errors
from preble.core.policies.e2.policy import E2
from preble.core.policies.e2_paper.policy import E2Paper
from preble.errors import PrebleError
from preble.simulate import simulate
from preble.transport.schema import Ticket
from preble.workers.worker import construct

CLASSES = [thing for thing in vars(errors).values() if inspect.isclass(thing) and issubclass(thing, PrebleError)]
LINE = re.compile(r"^ {4}(?P<indent>[│├└─ ]*)(?P<name>\w+Error)(?: \((?P<also>\w+)\))?(?:  .*)?$", re.MULTILINE)


def drawn() -> dict[str, tuple[str, str | None]]:
    """Each error with its parent and what built-in error it is too, as drawn."""
    tree: dict[str, tuple[str, str | None]] = {}
    path: list[str] = []
    for line in LINE.finditer(str(errors.__doc__)):
        depth = len(line["indent"]) // 4
        path[depth:] = [line["name"]]
        tree[line["name"]] = (path[depth - 1] if depth else "Exception", line["also"])
    return tree


def written() -> dict[str, tuple[str, str | None]]:
    tree = {}
    for each in CLASSES:
        parent, *also = each.__bases__
        tree[each.__name__] = (parent.__name__, also[0].__name__ if also else None)
    return tree


def test_the_drawing_is_true():
    assert drawn() == written()


def test_the_drawing_is_read_in_full():
    assert len(drawn()) == len(re.findall(r"\b[A-Z]\w+Error\b(?!\))", str(errors.__doc__)))


@pytest.mark.parametrize("each", CLASSES)
def test_each_says_what_it_is(each: type[PrebleError]):
    assert each.__doc__
    assert not hasattr(builtins, each.__name__)


def test_only_what_may_pass_by_itself_is_retryable():
    retryable = {each.__name__ for each in CLASSES if each.retryable}
    workers = {"NamespaceNotServedError", "NoWorkersError", "WorkerLostError", "WorkerTimeoutError"}
    assert retryable == workers | {"OverloadedError", "UnreachableError"}


def test_what_a_caller_needs_is_carried():
    error = errors.OverloadedError("full", request_id="r1", worker="w0", retry_after=0.5)
    assert (str(error), error.request_id, error.worker, error.retry_after) == ("full", "r1", "w0", 0.5)
    assert PrebleError("x").request_id is PrebleError("x").worker is PrebleError("x").retry_after is None


def test_an_invalid_request_names_its_field():
    error = errors.ContextLengthError("9 tokens, at most 8", field="prompt", request_id="r1")
    assert (str(error), error.field, error.request_id) == ("prompt: 9 tokens, at most 8", "prompt", "r1")


def test_a_failed_start_shows_the_log_and_a_lost_worker_the_tokens():
    error = errors.WorkerStartError("no start", worker="w0", log="Traceback\nboom\n")
    assert (str(error), error.log) == ("no start\nTraceback\nboom", "Traceback\nboom\n")
    assert str(errors.WorkerStartError("no start")) == "no start"
    lost = errors.WorkerLostError("gone", worker="w0", request_id="r1", token_ids=(1, 2), log="boom\n")
    assert (lost.token_ids, lost.worker, lost.request_id, lost.log) == ((1, 2), "w0", "r1", "boom\n")
    assert str(lost) == "gone"


def engine(*, model: str | None = None, kv_tokens: int = 0) -> None:
    """An engine of somebody's own, as far as its arguments go."""


TICKET = Ticket(backend="own", model="m", options={"kv_token": 3}, worker="w0", incarnation="i", nonce="n", address="a")
WRONG_NAMES = {
    "PrebleCluster": (lambda: preble.PrebleCluster(backend="sim", worker=3), "worker: .*'workers'"),
    "SyncCluster": (lambda: preble.SyncCluster(backend="sim", engine_option={}), "engine_option: .*'engine_options'"),
    "Scheduler": (lambda: preble.Scheduler(sead=1), "sead: .*'seed'"),
    "E2": (lambda: E2(bussy=1), "bussy: .*'busy'"),
    "E2Paper": (lambda: E2Paper(windows=1), "windows: .*'window'"),
    "simulate": (lambda: simulate([], polcy="e2"), "polcy: .*'policy'"),
    "an engine": (lambda: construct(engine, TICKET), "kv_token: .*'kv_tokens'"),
}


@pytest.mark.parametrize("what", WRONG_NAMES)
def test_a_misspelt_argument_is_a_configuration_error_that_names_the_nearest(what: str):
    call, message = WRONG_NAMES[what]
    with pytest.raises(errors.ConfigurationError, match=f"^{message}\\?$"):
        call()


def test_other_type_errors_stay_what_they_are():
    with pytest.raises(TypeError, match="positional"):
        preble.PrebleCluster("one", "two")
    with pytest.raises(TypeError, match="workload"):
        simulate()
    assert inspect.signature(preble.PrebleCluster).parameters["workers"].default == 2
