"""The engines that have a name, and what the cluster must know of each without importing it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from preble.backends.sglang.binding import bind as bind_sglang
from preble.backends.sglang.binding import seed as seed_sglang
from preble.backends.torch.binding import bind as bind_torch
from preble.backends.vllm.binding import bind as bind_vllm
from preble.backends.vllm.binding import seed as seed_vllm
from preble.errors import ConfigurationError

Bind: TypeAlias = Callable[[Mapping[str, Any], int, int], dict[str, Any]]
"""`bind(options, devices, threads)` returns the engine's options in a worker with so many GPUs and compute threads.

For example, `bind({}, 2, 0)` of vLLM returns `{"tensor_parallel_size": 2}`. A number that the user did not give is 0.
Raises ConfigurationError if the options ask for another number of GPUs.
"""


Seed: TypeAlias = Callable[[int, int], dict[str, Any]]
"""`seed(seed, worker)` returns the options by which the worker of this number draws for requests without a seed."""


def _as_given(options: Mapping[str, Any], devices: int, threads: int) -> dict[str, Any]:
    return dict(options)


def _unseeded(seed: int, worker: int) -> dict[str, Any]:
    return {}


def _same_for_all(seed: int, worker: int) -> dict[str, Any]:
    # These engines draw by seed and request id, which is one worker's alone, wherever a request goes.
    return {"seed": seed}


class Backend(msgspec.Struct, frozen=True):
    """An entry of `BACKENDS`: `path` names the engine's class as "module:Class".

    `needs_model` is True if the engine cannot start without the path of a model. `remote` is True if the computing is
    done by a server that runs elsewhere, so that the engine has no use for GPUs and cores here. `bind` adds what a
    worker is bound to, its GPUs and threads, to the engine's options, and `seed` what the cluster's seed means there.
    `install` is what pip must install for it, if preble alone is not enough. It is `embedded` if it is our own engine,
    which runs in a program's process as well as in one of its own.
    """

    path: str
    needs_model: bool = False
    remote: bool = False
    bind: Bind = _as_given
    seed: Seed = _unseeded
    install: str = ""
    embedded: bool = False

    @property
    def hint(self) -> str:
        """What to add to the message that its package cannot be imported."""
        return f'; pip install "{self.install}"' if self.install else ""


BACKENDS = {
    "openai": Backend("preble.backends.openai.engine:OpenAIEngine", remote=True, install="preble[openai]"),
    "sim": Backend("preble.backends.sim:SimEngine", seed=_same_for_all, embedded=True),
    "sglang": Backend(
        "preble.backends.sglang.engine:SGLangEngine",
        needs_model=True,
        bind=bind_sglang,
        seed=seed_sglang,
        install="sglang==0.5.23",
    ),
    "torch": Backend(
        "preble.backends.torch.engine:TorchEngine",
        needs_model=True,
        bind=bind_torch,
        seed=_same_for_all,
        install="preble[torch]",
        embedded=True,
    ),
    "vllm": Backend(
        "preble.backends.vllm.engine:VllmEngine",
        needs_model=True,
        bind=bind_vllm,
        seed=seed_vllm,
        install="preble[vllm]",
    ),
}


def find_backend(name: str) -> Backend:
    """Return what `backend=name` means: an entry of BACKENDS, or a class of the user's own as "module:Class".

    Raises ConfigurationError if it is neither.
    """
    if name not in BACKENDS and ":" not in name:
        raise ConfigurationError(f'backend: unknown {name!r}, one of {", ".join(BACKENDS)}, or "module:Class"')
    known = (backend for backend in BACKENDS.values() if backend.path == name)
    return BACKENDS.get(name) or next(known, Backend(name))
