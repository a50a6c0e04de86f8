"""Closed loops: which requests become due when one ends, and what was generated before them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from preble.errors import ConfigurationError
from preble.simulate.request import Request


class _Session:
    """One session: its later turns, last first, how many requests of the present turn run, and outputs so far."""

    __slots__ = ("open", "outputs", "turns")

    def __init__(self, first: int, turns: list[list[int]]) -> None:
        self.open = first
        self.turns = turns
        self.outputs: dict[int, bytes] = {}


class Sessions:
    """The sessions of a workload. Requests are named by their index in it."""

    def __init__(self, requests: Sequence[Request]) -> None:
        """Raises ConfigurationError for a request that nothing would ever start."""
        self._requests = requests
        first: dict[str, int] = defaultdict(int)
        later: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, request in enumerate(requests):
            if request.arrival is None:
                later[request.session or ""][request.turn].append(index)
            elif request.session is not None:
                first[request.session] += 1
        if orphans := later.keys() - first.keys():
            raise ConfigurationError(f"workload: session {min(orphans)!r} has later turns and no arrival")
        self._sessions = {
            name: _Session(first[name], [turns[turn] for turn in sorted(turns, reverse=True)])
            for name, turns in later.items()
        }

    def prompt(self, index: int) -> bytes:
        """The prompt of a request that is due, packed int32, with what its session has generated."""
        request = self._requests[index]
        session = self._sessions.get(request.session or "")
        return request.prompt(session.outputs) if session else request.prompt()

    def ended(self, index: int, output: bytes) -> list[tuple[int, float]]:
        """A request ended: return those that follow, each with the seconds to wait."""
        request = self._requests[index]
        session = self._sessions.get(request.session or "")
        if session is None:
            return []
        if request.output_segment is not None:
            session.outputs[request.output_segment] = output
        session.open -= 1
        if session.open:
            return []
        if not session.turns:
            del self._sessions[request.session or ""]
            return []
        turn = session.turns.pop()
        session.open = len(turn)
        return [(following, self._requests[following].gap) for following in turn]
