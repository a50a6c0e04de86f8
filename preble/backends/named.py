"""The engines that have a name, and what must be known of each before its package is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from preble.backends.sglang.binding import bind as bind_sglang
from preble.backends.torch.binding import bind as bind_torch
from preble.backends.vllm.binding import bind as bind_vllm
from preble.errors import ConfigurationError

Bind: TypeAlias = Callable[[Mapping[str, Any], int, int], dict[str, Any]]
"""`bind(options, devices, threads)` returns an engine's options for a worker that has so many GPUs and compute threads.

0 stands for a number that the user did not give. Raises ConfigurationError if the options are for another number.
"""


def _as_given(options: Mapping[str, Any], devices: int, threads: int) -> dict[str, Any]:
    return dict(options)


class Backend(msgspec.Struct, frozen=True):
    """One kind of engine: `path` is "module:Class" of its class.

    `needs_model` says that it cannot start without the path of a model. `remote` says that a server elsewhere computes,
    so that a worker's GPUs and cores are nothing to it. `bind` puts GPUs and threads into its options.
    """

    path: str
    needs_model: bool = False
    remote: bool = False
    bind: Bind = _as_given


BACKENDS = {
    "openai": Backend("preble.backends.openai.engine:OpenAIEngine", remote=True),
    "sim": Backend("preble.backends.sim:SimEngine"),
    "sglang": Backend("preble.backends.sglang.engine:SGLangEngine", needs_model=True, bind=bind_sglang),
    "torch": Backend("preble.backends.torch.engine:TorchEngine", needs_model=True, bind=bind_torch),
    "vllm": Backend("preble.backends.vllm.engine:VllmEngine", needs_model=True, bind=bind_vllm),
}


def find_backend(name: str) -> Backend:
    """Return what `backend=name` means: an entry of BACKENDS, or a class of the user's own as "module:Class".

    Raises ConfigurationError if it is neither.
    """
    if name not in BACKENDS and ":" not in name:
        raise ConfigurationError(f'backend: unknown {name!r}, one of {", ".join(BACKENDS)}, or "module:Class"')
    return BACKENDS.get(name) or Backend(name)
