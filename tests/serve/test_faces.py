"""Faces and features over three backends. `TABLE` is the one in the guide, and each cell of it is tested here."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from preble import PrebleCluster
from preble.testing import make_model
from tests.serve.faces import Answer, Chat, Completions, Messages, Native, Responses, over_http
from tests.serve.test_same_request import logged

FACES = ("native", "chat", "completions", "responses", "messages", "chat over HTTP")
ALL = "yes yes yes yes yes yes"
TABLE = {
    "text": ALL,
    "stream": ALL,
    "n": "yes yes yes no no yes",
    "logprobs": "yes yes yes yes no yes",
    "tools": "yes yes no yes yes yes",
    "session": ALL,
    "cancel": ALL,
    "usage": ALL,
}
"""For each feature, the faces that have it. What is `no` is refused, and the field named."""

BACKENDS = ("sim", "torch", "connect")
CELLS = [
    (backend, face, feature, word == "yes")
    for backend in BACKENDS
    for feature, row in TABLE.items()
    for face, word in zip(FACES, row.split(), strict=True)
]
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "http.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_model(tmp_path_factory.mktemp("faces")))


@asynccontextmanager
async def cluster_of(
    backend: str, model: str, log: Path, seeds: tuple[int, int] = (1, 1)
) -> AsyncIterator[PrebleCluster]:
    """Yield a cluster; of `connect`, the workers are two servers of ours, each with one of the `seeds`."""
    options: dict[str, Any] = {"seed": 1, "decision_log": log}
    async with AsyncExitStack() as stack:
        if backend == "connect":
            urls = []
            for seed in seeds:
                server = await stack.enter_async_context(_local("sim", model, seed=seed))
                urls.append((await stack.enter_async_context(server.serve_http())).removesuffix("/v1"))
            cluster = PrebleCluster.connect(urls, model=model, **options)
        else:
            cluster = _local(backend, model, **options)
        yield await stack.enter_async_context(cluster)


def _local(backend: str, model: str, **options: Any) -> PrebleCluster:
    return PrebleCluster(model, backend=backend, workers=2, processes=False, **options)


@asynccontextmanager
async def face_of(name: str, cluster: PrebleCluster) -> AsyncIterator[Any]:
    if name == "native":
        yield Native(cluster)
    elif name == "messages":
        async with cluster.anthropic(max_retries=0) as client:
            yield Messages(client)
    elif name == "chat over HTTP":
        async with cluster.serve_http() as url, over_http(url) as client:
            yield Chat(client)
    else:
        kinds: dict[str, Any] = {"chat": Chat, "completions": Completions, "responses": Responses}
        async with cluster.openai(max_retries=0) as client:
            yield kinds[name](client)


@pytest.mark.parametrize(("backend", "face", "feature", "has"), CELLS)
async def test_a_cell(backend: str, face: str, feature: str, has: bool, model: str, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    seeds = (1, 2) if feature == "n" else (1, 1)  # two servers of one seed draw the same samples
    async with cluster_of(backend, model, log, seeds) as cluster, face_of(face, cluster) as asked:
        if not has:
            await _is_refused(asked, feature)
        else:
            await CHECKS[feature](asked, cluster)
        cluster.check()
    if has and feature == "session":
        assert logged(log)["session"] == "s-1"


async def _text(face: Any, cluster: PrebleCluster) -> None:
    first, second = [await face.ask(max_tokens=6) for _ in range(2)]
    assert first.texts == second.texts
    assert first.texts[0]


async def _stream(face: Any, cluster: PrebleCluster) -> None:
    whole: Answer = await face.ask(max_tokens=12)
    pieces = [piece async for piece in face.stream(max_tokens=12)]
    assert len(pieces) > 1
    assert "".join(pieces) == whole.texts[0]


async def _n(face: Any, cluster: PrebleCluster) -> None:
    answer: Answer = await face.ask(max_tokens=6, n=3)
    assert len(set(answer.texts)) == 3


async def _logprobs(face: Any, cluster: PrebleCluster) -> None:
    answer: Answer = await face.ask(max_tokens=6, logprobs=True)
    assert answer.logprobs == answer.output_tokens


async def _tools(face: Any, cluster: PrebleCluster) -> None:
    plain, shown = await face.ask(max_tokens=2), await face.ask(max_tokens=2, tools=True)
    assert shown.prompt_tokens > plain.prompt_tokens


async def _session(face: Any, cluster: PrebleCluster) -> None:
    await face.ask(max_tokens=2, session="s-1")


async def _cancel(face: Any, cluster: PrebleCluster) -> None:
    stream = face.stream(max_tokens=100, ignore_eos=True) if isinstance(face, Native) else face.stream(max_tokens=100)
    await anext(stream)
    await stream.aclose()
    await cluster.drain()
    assert cluster.stats().counters.cancelled == 1


async def _usage(face: Any, cluster: PrebleCluster) -> None:
    answer: Answer = await face.ask(max_tokens=6)
    counters = cluster.stats().counters
    assert (answer.prompt_tokens, answer.output_tokens) == (counters.prompt_tokens, counters.output_tokens)
    assert answer.output_tokens == 6


CHECKS = {
    "text": _text,
    "stream": _stream,
    "n": _n,
    "logprobs": _logprobs,
    "tools": _tools,
    "session": _session,
    "cancel": _cancel,
    "usage": _usage,
}


async def _is_refused(face: Any, feature: str) -> None:
    given: dict[str, Any] = {feature: 3 if feature == "n" else True}
    with pytest.raises((openai.BadRequestError, anthropic.BadRequestError), match=feature):
        await face.ask(max_tokens=2, **given)


def test_the_guide_has_this_table() -> None:
    lines = ["| |" + "".join(f" {face} |" for face in FACES), "|---|" + "---|" * len(FACES)]
    for feature, row in TABLE.items():
        lines.append(f"| {feature} |" + "".join(f" {word} |" for word in row.split()))
    assert "\n".join(lines) in GUIDE.read_text()
