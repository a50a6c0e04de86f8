"""The life of a scheduler: events in any order, and beside it the bare facts of who is where."""

from __future__ import annotations

from random import Random

from preble.core.cost import StepTiming
from preble.core.scheduler import Scheduler
from preble.errors import ContextLengthError, NamespaceNotServedError, NoWorkersError


class Life:
    """A scheduler, where its requests are, and what was decided. An `index` means one of those there are, if any."""

    def begin(self, policy: str, seed: int) -> None:
        self.scheduler = Scheduler(policy, seed=seed, receipts=4)
        self.workers: list[str] = []
        self.drained: set[str] = set()
        self.paused: set[str] = set()
        self.contexts: dict[str, int | None] = {}
        self.serves: dict[str, tuple[str, ...] | None] = {}
        self.placed: dict[int, str] = {}
        self.namespaces: dict[int, str] = {}
        self.orphans: list[int] = []
        self.decisions: list[tuple[str, str]] = []
        self.count = 0
        self.now = 0.0

    def tick(self) -> float:
        self.now += 0.05
        return self.now

    def worker(self, index: int) -> str:
        return self.workers[index % len(self.workers)]

    def request(self, index: int) -> int:
        return sorted(self.placed)[index % len(self.placed)]

    def taking(self, namespace: str) -> set[str]:
        """The workers that requests of a namespace may be sent to."""
        return self.serving(namespace) - self.paused

    def serving(self, namespace: str) -> set[str]:
        """The workers that serve a namespace, though some may be paused."""
        here = set(self.workers) - self.drained
        return {worker for worker in here if (names := self.serves[worker]) is None or namespace in names}

    def with_room(self, length: int, output: int, workers: set[str]) -> set[str]:
        """Those of the workers whose context has room, or else the longest context among them, if it has any."""
        limits = {worker: self.contexts[worker] or 1 << 30 for worker in workers}
        needed = min(length + max(output, 1), max(limits.values(), default=0))
        return {worker for worker, limit in limits.items() if limit >= needed > length}

    def add_worker(
        self, names: tuple[str, ...] | None = None, context_limit: int | None = None, **options: object
    ) -> None:
        if len(self.workers) < 4:
            self.count += 1
            self.workers.append(f"w{self.count}")
            self.serves[self.workers[-1]] = names
            self.contexts[self.workers[-1]] = context_limit
            self.scheduler.add_worker(
                self.workers[-1], namespaces=names, context_limit=context_limit, now=self.tick(), **options
            )

    def remove_worker(self, index: int) -> None:
        worker = self.worker(index)
        self.workers.remove(worker)
        self.drained.discard(worker)
        self.paused.discard(worker)
        lost = self.scheduler.remove_worker(worker, now=self.tick())
        assert sorted(lost) == sorted(id for id, at in self.placed.items() if at == worker)
        self.orphans += lost
        for id in lost:
            del self.placed[id]

    def drain_worker(self, index: int) -> None:
        self.drained.add(self.worker(index))
        self.scheduler.drain_worker(self.worker(index), now=self.tick())

    def adjust_worker(self, index: int, paused: bool, penalty: float) -> None:
        worker = self.worker(index)
        self.paused = self.paused | {worker} if paused else self.paused - {worker}
        self.scheduler.adjust_worker(worker, paused=paused, penalty=penalty, now=self.tick())

    def submit(self, prompt: list[int], namespace: str = "", **options: object) -> None:
        self.count += 1
        self.namespaces[self.count] = namespace
        self.place(self.count, prompt, **options)

    def submit_again(self, prompt: list[int]) -> None:
        id = self.orphans.pop(0)
        if not self.place(id, prompt, max_tokens=4):
            self.orphans.append(id)

    def place(
        self, id: int, prompt: list[int], *, max_tokens: int = 4, shunned: int | None = None, **options: object
    ) -> bool:
        """Place a request, not on the worker of index `shunned` if that is given."""
        namespace = self.namespaces[id]
        excluded = {self.worker(shunned)} if self.workers and shunned is not None else set()
        allowed = self.with_room(len(prompt), max_tokens, self.taking(namespace) - excluded)
        try:
            placement = self.scheduler.submit(
                id,
                prompt,
                max_tokens=max_tokens,
                namespace=namespace,
                excluded=sorted(excluded),
                now=self.tick(),
                **options,
            )
        except NamespaceNotServedError:
            assert not self.serving(namespace)
            assert set(self.workers) - self.drained
            return False
        except NoWorkersError:
            assert not allowed
            return False
        except ContextLengthError:
            assert not allowed
            assert all((self.contexts[worker] or 1 << 30) <= len(prompt) for worker in self.workers)
            return False
        assert placement.worker in allowed
        assert 0 <= placement.cached_tokens < len(prompt)
        assert placement.predicted_ttft > 0
        self.placed[id] = placement.worker
        self.decisions.append((placement.worker, placement.reason))
        return True

    def started(self, index: int, cached: int | None) -> None:
        self.scheduler.started(self.request(index), cached_tokens=cached, now=self.tick())

    def first_token(self, index: int) -> None:
        self.scheduler.first_token(self.request(index), now=self.tick())

    def finish(self, index: int, output: list[int]) -> None:
        """With output or, as if it were cancelled, without."""
        id = self.request(index)
        del self.placed[id]
        self.scheduler.finish(id, output=output, now=self.tick())

    def give_up(self, output: list[int]) -> None:
        self.scheduler.finish(self.orphans.pop(), output=output, now=self.tick())

    def observe(self, index: int, new: int, decodes: int, seconds: float) -> None:
        steps = [StepTiming(new, 2 * new, 2 * new, 2 * new * new, min(new, decodes), seconds)] * 8
        self.scheduler.observe(self.worker(index), steps, now=self.tick())

    def evicted(self, index: int, prompt: list[int], keep: int) -> None:
        self.scheduler.evicted(self.worker(index), prompt, keep, now=self.tick())

    def rebalance(self) -> None:
        before = self.scheduler.snapshot()
        for move in self.scheduler.rebalance(self.tick()):
            assert self.placed[move.id] == move.source != move.target
            assert move.target in self.taking(self.namespaces[move.id])
        assert self.scheduler.snapshot() == before

    def move(self) -> None:
        for move in self.scheduler.rebalance(self.tick()):
            self.scheduler.finish(move.id, now=self.tick())
            assert self.place(move.id, [1, 0, 1], max_tokens=4, worker=move.target)
            assert self.placed[move.id] == move.target

    def check(self) -> None:
        self.scheduler.check()
        snapshot = self.scheduler.snapshot()
        assert snapshot.requests == len(self.placed) + len(self.orphans)
        for state in snapshot.workers:
            mine = [id for id, worker in self.placed.items() if worker == state.worker]
            assert state.requests == len(mine)
            assert state.load > -1e-6 if mine else state.load == 0.0  # but for rounding
            assert mine or state.held_tokens <= 1.25 * state.kv_tokens

    def end(self) -> None:
        """All requests end, and nothing is left of them."""
        for id in [*self.placed, *self.orphans]:
            self.scheduler.finish(id, now=self.tick())
        self.placed.clear()
        self.orphans.clear()
        self.check()
        assert not self.scheduler.fleet.pending[self.scheduler.fleet.live].any()


def live(policy: str, seed: int, steps: int) -> Life:
    """A seeded random life, of longer prompts than hypothesis would draw: policies tell short from long."""
    life, random = Life(), Random(seed)
    life.begin(policy, seed)

    def index() -> int:
        return random.randrange(100)

    def add() -> None:
        names, limit = random.choice([None, None, ("x",), ("", "y")]), random.choice([None, None, 150, 220])
        life.add_worker(names, limit, kv_tokens=600, block_size=16)

    def submit() -> None:
        shared, own = random.randrange(4), random.randrange(40)
        prompt = [shared] * random.choice([1, 20, 150]) + [100 + own] * random.randrange(90)
        session, namespace = random.choice([None, f"s{shared}"]), random.choice(["", "", "x", "y"])
        shunned = random.choice([None, None, index()])
        life.submit(prompt, namespace, session=session, shunned=shunned, max_tokens=random.choice([4, 100]))

    requests = [
        *[lambda: life.started(index(), 0), lambda: life.first_token(index())] * 2,
        *[lambda: life.finish(index(), [5] * random.randrange(3))] * 3,
    ]
    workers = [
        lambda: life.evicted(index(), [random.randrange(4)] * 30, 10),
        lambda: life.remove_worker(index()),
        lambda: life.drain_worker(index()),
        *[lambda: life.adjust_worker(index(), random.random() < 0.3, random.choice([0.0, 0.0, 2.5]))] * 3,
    ]
    orphans = [lambda: life.submit_again([index(), 1, 2])] * 6
    add()
    add()
    for number in range(steps):
        life.now += random.random()
        possible = [submit] * 6 + [add]
        possible += requests * bool(life.placed) + workers * bool(life.workers) + orphans * bool(life.orphans)
        random.choice(possible)()
        if number % 8 == 0:
            life.check()
    return life
