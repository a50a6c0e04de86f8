"""Samples that no worker can take now."""

from __future__ import annotations

from collections.abc import Iterator

from sortedcontainers import SortedKeyList

from preble.dispatch.request import Sample


class Waiting:
    """The samples in the order in which they came, each until a time: to be tried again then, or to give up."""

    def __init__(self) -> None:
        self._samples: dict[str, tuple[float, Sample]] = {}
        self._by_time: SortedKeyList[tuple[float, Sample]] = SortedKeyList(key=lambda entry: entry[0])

    def __len__(self) -> int:
        return len(self._samples)

    def __contains__(self, sample: Sample) -> bool:
        return sample.id in self._samples

    def __iter__(self) -> Iterator[Sample]:
        return iter([sample for _, sample in self._samples.values()])

    @property
    def due(self) -> float:
        """When the first of them is due; infinity if none waits."""
        return self._by_time[0][0] if self._by_time else float("inf")

    def add(self, sample: Sample, until: float) -> None:
        """Let a sample wait, or wait on until another time."""
        self.discard(sample)
        entry = self._samples[sample.id] = (until, sample)
        self._by_time.add(entry)

    def discard(self, sample: Sample) -> None:
        """A sample does not wait any more. Harmless if it did not."""
        if (entry := self._samples.pop(sample.id, None)) is not None:
            self._by_time.remove(entry)

    def over(self, now: float) -> list[Sample]:
        """Return those that are due. They stay."""
        return [sample for _, sample in self._by_time.irange_key(max_key=now)]
