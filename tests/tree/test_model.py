"""The tree against a model so simple that it must be right: sets of prefixes."""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from preble.tokens import pack, unpack
from preble.tree import RadixTree

WORKERS = 3
Prefix = tuple[int, ...]

workers = st.integers(0, WORKERS - 1)
prompts = st.lists(st.integers(0, 1), max_size=12).map(tuple)
amounts = st.integers(0, 12)


class Model(RuleBasedStateMachine):
    """A worker holds a set of prefixes, closed under shortening: those that it computed, and those that pins need."""

    @initialize(block_size=st.sampled_from([1, 4]))
    def start(self, block_size: int) -> None:
        self.block_size = block_size
        self.tree = RadixTree(block_size=block_size)
        self.computed: list[set[Prefix]] = [set() for _ in range(WORKERS)]
        self.pins: list[tuple[int, Prefix, int]] = []
        self.match = self.tree.match(b"")

    def whole(self, tokens: Prefix) -> Prefix:
        return tokens[: len(tokens) - len(tokens) % self.block_size]

    def prefixes(self, tokens: Prefix) -> set[Prefix]:
        return {tokens[:end] for end in range(self.block_size, len(tokens) + 1, self.block_size)}

    def pinned(self, worker: int) -> set[Prefix]:
        return set().union(*(self.prefixes(tokens) for owner, tokens, _ in self.pins if owner == worker))

    def held(self, worker: int) -> set[Prefix]:
        return self.computed[worker] | self.pinned(worker)

    @rule(tokens=prompts)
    def look(self, tokens: Prefix) -> None:
        self.match = match = self.tree.match(pack(tokens))
        for worker in range(WORKERS):
            mine = self.prefixes(tokens)
            assert match.length(worker) == max(map(len, mine & self.held(worker)), default=0)
            assert match.computed_length(worker) == max(map(len, mine & self.computed[worker]), default=0)
        assert match.tokens == max(map(match.length, range(WORKERS)))
        depths = [depth for depth, _ in match.levels]
        masks = [mask for _, mask in match.levels]
        assert depths == sorted(set(depths))
        assert all(lower & ~upper == 0 and lower != upper for upper, lower in pairwise(masks))

    @rule(tokens=prompts, worker=workers, computed=st.booleans())
    def pin(self, tokens: Prefix, worker: int, computed: bool) -> None:
        self.pin_with(None, tokens, worker, computed)

    @rule(worker=workers, computed=st.booleans())
    def pin_matched(self, worker: int, computed: bool) -> None:
        """With the cursor of an earlier match, which may be stale."""
        self.pin_with(self.match, unpack(self.match.prompt), worker, computed)

    def pin_with(self, match, tokens: Prefix, worker: int, computed: bool) -> None:
        packed = pack(tokens) if match is None else match.prompt
        node = self.tree.insert(packed, worker, match=match, computed=computed)
        tokens = self.whole(tokens)
        if tokens:
            self.pins.append((worker, tokens, node))
        if computed:
            self.computed[worker] |= self.prefixes(tokens)

    @rule(tokens=prompts, worker=workers)
    def store(self, tokens: Prefix, worker: int) -> None:
        self.tree.insert(pack(tokens), worker, pin=False, computed=True)
        self.computed[worker] |= self.prefixes(tokens)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        worker, _, node = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.tree.unpin(node, worker)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def mark_computed(self, data: st.DataObject) -> None:
        worker, tokens, node = data.draw(st.sampled_from(self.pins))
        self.tree.mark_computed(node, worker)
        self.computed[worker] |= self.prefixes(tokens)

    @precondition(lambda self: self.block_size == 1 and self.pins)
    @rule(data=st.data(), output=prompts)
    def end(self, data: st.DataObject, output: Prefix) -> None:
        """A request ends and leaves its output below its prompt."""
        worker, tokens, node = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.tree.mark_computed(node, worker)
        self.tree.extend(node, pack(output), worker)
        self.tree.unpin(node, worker)
        self.computed[worker] |= self.prefixes(tokens + output)

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def touch(self, data: st.DataObject) -> None:
        worker, _, node = data.draw(st.sampled_from(self.pins))
        self.tree.touch(node, worker)

    @rule(worker=workers, amount=amounts)
    def evict(self, worker: int, amount: int) -> None:
        spare = (len(self.held(worker)) - len(self.pinned(worker))) * self.block_size
        wanted = min(spare, amount + -amount % self.block_size)
        victims = [(unpack(self.tree.path(node)), gone) for node, gone in self.tree.victims(worker, amount)]
        assert sum(gone for _, gone in victims) == wanted
        evictions = self.tree.evict(worker, amount)
        first = [(unpack(packed), len(unpack(packed)) - keep) for packed, keep, _ in evictions[:1]]
        assert first == victims[:1]
        for packed, keep, _ in evictions:
            path = unpack(packed)
            gone = self.prefixes(path) - self.prefixes(path[:keep])
            assert gone <= self.held(worker) - self.pinned(worker)
            self.computed[worker] -= gone
            assert all(prefix[:-1] in {(), *self.held(worker)} or self.block_size > 1 for prefix in self.held(worker))
            wanted -= len(path) - keep
        assert wanted == 0

    @rule(tokens=prompts, keep=amounts, worker=workers)
    def truncate(self, tokens: Prefix, keep: int, worker: int) -> None:
        self.tree.truncate(pack(tokens), keep, worker)
        next_block = self.whole(tokens)[: keep - keep % self.block_size + self.block_size]
        if len(next_block) > keep - keep % self.block_size:
            self.computed[worker] -= {held for held in self.computed[worker] if held[: len(next_block)] == next_block}

    @precondition(lambda self: self.block_size == 1)
    @rule(tokens=prompts, keep=amounts, block=st.integers(2, 4), worker=workers)
    def truncate_block(self, tokens: Prefix, keep: int, block: int, worker: int) -> None:
        self.tree.truncate(pack(tokens), keep, worker, worker_block_size=block)
        gone = tokens[: keep + block]
        if len(gone) == keep + block:
            self.computed[worker] -= {held for held in self.computed[worker] if held[: keep + block] == gone}
        for size in range(min(len(tokens), keep + block - 1), keep, -1):
            if any(held[:size] == tokens[:size] and len(held) > size for held in self.held(worker)):
                break
            if any(owner == worker and path == tokens[:size] for owner, path, _ in self.pins):
                break
            self.computed[worker].discard(tokens[:size])

    @rule(worker=workers)
    def clear(self, worker: int) -> None:
        self.tree.clear(worker)
        self.computed[worker] = set()

    @rule(worker=workers)
    def remove_worker(self, worker: int) -> None:
        self.tree.remove_worker(worker)
        self.computed[worker] = set()
        self.pins = [pin for pin in self.pins if pin[0] != worker]

    @invariant()
    def agrees(self) -> None:
        self.tree.check()
        held = [self.held(worker) for worker in range(WORKERS)]
        assert [self.tree.held_tokens(worker) for worker in range(WORKERS)] == [
            len(one) * self.block_size for one in held
        ]
        assert self.tree.tokens == len(set().union(*held)) * self.block_size
        for _, tokens, node in self.pins:
            assert unpack(self.tree.path(node)) == tokens
            assert self.tree.depth(node) == len(tokens)


Model.TestCase.settings = settings(stateful_step_count=40)
TestModel = Model.TestCase


class Payload(RuleBasedStateMachine):
    """One worker with a payload: the payload of a path are those that first stored it, and are freed exactly once."""

    @initialize(block_size=st.sampled_from([1, 4]))
    def start(self, block_size: int) -> None:
        self.block_size = block_size
        self.tree = RadixTree(block_size=block_size)
        self.stored: dict[Prefix, int] = {}
        self.fresh = 0

    def prefixes(self, tokens: Prefix) -> list[Prefix]:
        return [tokens[:end] for end in range(self.block_size, len(tokens) + 1, self.block_size)]

    @rule(tokens=prompts)
    def store(self, tokens: Prefix) -> None:
        whole = self.prefixes(tokens)
        payload = array("i", range(self.fresh, self.fresh + len(whole)))
        self.fresh += len(whole)
        self.tree.insert(pack(tokens), 0, pin=False, computed=True, payload=payload)
        for prefix, one in zip(whole, payload, strict=True):
            self.stored.setdefault(prefix, one)

    @rule(tokens=prompts)
    def look(self, tokens: Prefix) -> None:
        match = self.tree.match(pack(tokens))
        assert list(match.payload()) == [self.stored[one] for one in self.prefixes(tokens) if one in self.stored]

    @rule(amount=amounts)
    def evict(self, amount: int) -> None:
        for packed, keep, payload in self.tree.evict(0, amount):
            gone = [one for one in self.prefixes(unpack(packed)) if len(one) > keep]
            assert payload is not None
            assert list(payload) == [self.stored.pop(one) for one in gone]

    @invariant()
    def agrees(self) -> None:
        self.tree.check()
        assert self.tree.tokens == len(self.stored) * self.block_size


Payload.TestCase.settings = settings(stateful_step_count=30)
TestPayload = Payload.TestCase
