"""Requests of different salts never use each other's blocks, whatever happens to them in an engine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preble.backends import EngineRequest, Evicted
from preble.backends.sim import SimCore, SimOptions
from preble.tokens import TOKEN_BYTES, pack
from preble.types import SamplingParams


def core(kv_tokens: int = 4096) -> SimCore:
    return SimCore(SimOptions(kv_tokens=kv_tokens, block_size=4, max_running=4, max_batched_tokens=64))


def request(id: int, tokens: list[int], salt: str, max_tokens: int = 3) -> EngineRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return EngineRequest(id, pack(tokens), sampling, 0, salt)


def run(engine: SimCore, *requests: EngineRequest) -> tuple[dict[int, int], dict[int, bytes]]:
    """Run requests to their end; return cached tokens and output of each."""
    cached: dict[int, int] = {}
    outputs = {each.id: b"" for each in requests}
    for each in requests:
        engine.batcher.add(each, 0.0)
    while engine.begin(0.0) is not None:
        engine.end(0.0)
        engine.check()
        for id, delta in engine.batcher.deltas():
            outputs[id] += delta.tokens
            if delta.cached_tokens is not None:
                cached.setdefault(id, delta.cached_tokens)
    return cached, outputs


PROMPT = list(range(50, 75))


def test_one_salt_hits_its_own_blocks_and_no_others():
    engine = core()
    assert run(engine, request(1, PROMPT, "x"))[0] == {1: 0}
    assert run(engine, request(2, PROMPT, "y"), request(3, PROMPT, ""))[0] == {2: 0, 3: 0}
    assert run(engine, request(4, PROMPT, "x"), request(5, PROMPT, "y"), request(6, PROMPT, ""))[0] == dict.fromkeys(
        (4, 5, 6), 24
    )


def test_followers_of_one_salt_wait_and_others_do_not():
    cached, _ = run(core(), *(request(id, PROMPT, salt) for id, salt in enumerate("xxyy")))
    assert cached == {0: 0, 1: 24, 2: 0, 3: 24}


def test_the_salt_changes_no_output():
    plain = run(core(), request(1, PROMPT, "", 9))[1][1]
    assert run(core(), request(1, PROMPT, "x", 9))[1][1] == plain
    assert len(plain) == 9 * TOKEN_BYTES


def test_evictions_tell_the_salt_and_the_real_tokens():
    engine = core(kv_tokens=32)
    run(engine, request(1, PROMPT, "x"))
    run(engine, request(2, PROMPT, "y"))
    (evicted, *_) = engine.batcher.cache_events()
    assert evicted.cache_salt == "x"
    assert pack(PROMPT).startswith(evicted.tokens[: len(PROMPT) * TOKEN_BYTES])
    engine.batcher.reset_cache()
    assert engine.batcher.cache_events() == [Evicted(b"", 0)]


def test_salts_that_left_the_cache_are_forgotten():
    engine = core(kv_tokens=64)
    for id in range(200):
        run(engine, request(id, PROMPT, f"s{id}"))
        assert all(event.cache_salt for event in engine.batcher.cache_events())
    assert len(engine.batcher._namespaces) < 20


prompts = st.lists(st.integers(1, 2), min_size=1, max_size=14)
requests = st.lists(st.tuples(prompts, st.sampled_from(["", "x", "y"])), min_size=1, max_size=12)


@given(requests, st.sampled_from([24, 1024]))
def test_cached_tokens_were_computed_in_the_same_salt(rounds: list[tuple[list[int], str]], kv_tokens: int):
    engine = core(kv_tokens)
    computed: dict[str, list[bytes]] = {}
    for id, (tokens, salt) in enumerate(rounds):
        cached, outputs = run(engine, request(id, tokens, salt))
        prefix = pack(tokens)[: cached[id] * TOKEN_BYTES]
        assert not prefix or any(other.startswith(prefix) for other in computed.get(salt, []))
        computed.setdefault(salt, []).append(pack(tokens) + outputs[id])
        for event in engine.batcher.cache_events():
            assert not event.tokens or any(other.startswith(event.tokens) for other in computed[event.cache_salt])
