"""What a worker's process is bound to before it loads anything: GPUs, cores, and how many threads compute."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from preble.errors import ConfigurationError

Device: TypeAlias = int | str
"""A GPU by its number among those that the caller sees, or by name as CUDA spells it, such as "GPU-8f6c"."""

VISIBLE = "CUDA_VISIBLE_DEVICES"
CORES = "PREBLE_CPUS"
"""What the supervisor reads: it takes these cores, and the worker with all below it inherits them."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


class Binding(msgspec.Struct, frozen=True):
    """One worker's GPUs as CUDA names them, and cores; None leaves what the caller has. `threads` 0 likewise."""

    devices: tuple[str, ...] | None = None
    cpus: tuple[int, ...] | None = None
    threads: int = 0

    def environment(self) -> dict[str, str]:
        """Return the variables of the worker's process: libraries read them once, when they are loaded."""
        found = dict.fromkeys(_THREADS, str(self.threads)) if self.threads else {}
        if self.devices is not None:
            found[VISIBLE] = ",".join(self.devices)
        if self.cpus is not None:
            found[CORES] = ",".join(map(str, self.cpus))
        return found


class Bindings:
    """What the workers of one cluster are bound to: the `first` ones, and the rules for those that join.

    `devices` and `cpus` have an entry for each of `workers`. Two workers have the same GPU only with `share_devices`.
    Raises ConfigurationError naming the argument and the entry that is wrong.
    """

    def __init__(
        self,
        workers: int,
        *,
        devices: Sequence[Sequence[Device]] | None = None,
        cpus: Sequence[Sequence[int]] | None = None,
        threads: int = 1,
        share_devices: bool = False,
    ) -> None:
        self.first = bindings(workers, devices, cpus, threads)
        self._threads = threads
        self._have_devices = devices is not None
        self._share_devices = share_devices
        self._check_apart(self.first)

    def another(
        self, devices: Sequence[Device] | None, cpus: Sequence[int] | None, others: Iterable[Binding]
    ) -> Binding:
        """Return what one more worker beside `others` is bound to. Raises ConfigurationError."""
        if devices is None and self._have_devices:
            raise ConfigurationError("devices: the other workers have theirs, so this one needs them")
        found = binding(devices, cpus, self._threads)
        self._check_apart([*others, found])
        return found

    def _check_apart(self, all_bindings: Iterable[Binding]) -> None:
        if not self._share_devices:
            check_apart(all_bindings)


def bindings(
    workers: int,
    devices: Sequence[Sequence[Device]] | None,
    cpus: Sequence[Sequence[int]] | None,
    threads: int,
) -> list[Binding]:
    """Return one for each worker. Raises ConfigurationError naming the argument and the entry that is wrong."""
    for name, entries in (("devices", devices), ("cpus", cpus)):
        if entries is not None and (not _is_list(entries) or len(entries) != workers):
            raise ConfigurationError(f"{name}: must be a list for each of {workers} workers, not {entries!r}")
    return [
        binding(
            None if devices is None else devices[index],
            None if cpus is None else cpus[index],
            threads,
            index=index,
        )
        for index in range(workers)
    ]


def binding(
    devices: Sequence[Device] | None, cpus: Sequence[int] | None, threads: int, *, index: int | None = None
) -> Binding:
    """Return one worker's, entry `index` of a list if given. Raises ConfigurationError."""
    entry = "" if index is None else f"entry {index}: "
    return Binding(
        None if devices is None else _devices(devices, f"devices: {entry}"),
        None if cpus is None else _cpus(cpus, f"cpus: {entry}"),
        threads,
    )


def check_apart(all_bindings: Iterable[Binding]) -> None:
    """Raise ConfigurationError if two workers, or one twice, have the same GPU."""
    taken: set[str] = set()
    for device in (device for each in all_bindings for device in each.devices or ()):
        if device in taken:
            raise ConfigurationError(f"devices: {device} is given twice; share_devices=True if that is meant")
        taken.add(device)


def _devices(entry: Sequence[Device], where: str) -> tuple[str, ...]:
    if not _is_list(entry) or not entry:
        raise ConfigurationError(f"{where}must be a list of GPUs, not {entry!r}")
    return tuple(_device(device, where) for device in entry)


def _device(device: Device, where: str) -> str:
    if isinstance(device, str) and device.startswith(("GPU-", "MIG-")):
        return device
    if not isinstance(device, int) or isinstance(device, bool) or device < 0:
        raise ConfigurationError(f'{where}must be numbers from 0 on, or names such as "GPU-8f6c", not {device!r}')
    seen = os.environ.get(VISIBLE)
    if seen is None:
        return str(device)
    names = [name.strip() for name in seen.split(",") if name.strip()]
    if device >= len(names):
        raise ConfigurationError(f"{where}{device} is beyond those of {VISIBLE}={seen}")
    return names[device]


def _cpus(entry: Sequence[int], where: str) -> tuple[int, ...]:
    if not hasattr(os, "sched_setaffinity"):
        raise ConfigurationError(f"{where}this system cannot bind processes to cores")
    usable = os.sched_getaffinity(0)
    if not _is_list(entry) or not entry or not set(entry) <= usable:
        raise ConfigurationError(f"{where}must be a list of cores among {sorted(usable)}, not {entry!r}")
    return tuple(entry)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
