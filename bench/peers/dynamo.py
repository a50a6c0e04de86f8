"""Dynamo's router parts, run by the Python of their own environment (package ai-dynamo-runtime).

`RadixTree`: hash the prompt's blocks, find who holds them, take the best; no accounting. `SelectionService`: select a
worker and reserve it, load accounting included. Both from a list, both told the same blocks of 16 tokens per worker
through the events that engines send. They have threads of their own, so this process may use every core.

Reads a question a line, answers a line; nothing of ours is imported here.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time
from array import array
from collections import deque
from pathlib import Path

BLOCK = 16
IN_FLIGHT = 64
MODEL = "model"


class Peer:
    """Both parts, and how to tell them what is cached."""

    def __init__(self, workers):
        from dynamo._core import RadixTree, SelectionService

        self.tree = RadixTree()
        self.service = SelectionService(indexer_threads=1)
        self.workers = workers
        self.publishers = []
        self.flying = deque()
        self.events = 0

    async def start(self):
        """Register the workers with the service, each with a socket for its events."""
        import zmq

        context = zmq.Context()
        for worker in range(self.workers):
            publisher = context.socket(zmq.PUB)
            publisher.setsockopt(zmq.SNDHWM, 0)
            port = publisher.bind_to_random_port("tcp://127.0.0.1")
            self.publishers.append(publisher)
            await self.service.upsert_worker(
                {
                    "worker_id": worker,
                    "model_name": MODEL,
                    "endpoint": f"http://127.0.0.1:{port}",
                    "block_size": BLOCK,
                    "kv_events_endpoint": f"tcp://127.0.0.1:{port}",
                    "total_kv_blocks": 1 << 24,
                }
            )
        await asyncio.sleep(3)

    async def fill(self, prompts, workers):
        """Say that each prompt is cached on its worker, wait until both know, and check that they do."""
        for prompt, worker in zip(prompts, workers, strict=True):
            self.store(prompt, worker)
        await asyncio.sleep(4)
        scores = await self.service.overlap_scores({"model_name": MODEL, "token_ids": prompts[-1]})
        held = max(worker["device_blocks"] for worker in scores["workers"])
        found = max(self.tree.find_matches(hashed(prompts[-1])).scores.values(), default=0)
        expected = len(prompts[-1]) // BLOCK
        if min(held, found) < expected:
            raise RuntimeError(f"of {expected} blocks the service knows {held}, the tree {found}")

    def store(self, prompt, worker):
        """Tell both that `worker` holds `prompt`."""
        import msgpack

        tokens_hashes, blocks, parent = hashed(prompt), [], 0
        for tokens_hash in tokens_hashes:
            parent = hash((parent, tokens_hash)) & ((1 << 63) - 1)
            blocks.append({"block_hash": parent, "tokens_hash": tokens_hash})
        stored = {"event_id": self.events, "data": {"stored": {"parent_hash": None, "blocks": blocks}}, "dp_rank": 0}
        self.tree.apply_event(worker, json.dumps(stored).encode())
        numbers = [block["block_hash"] for block in blocks]
        batch = [time.time(), [["BlockStored", numbers, None, prompt[: len(blocks) * BLOCK], BLOCK, None]], 0]
        self.publishers[worker].send_multipart([b"", struct.pack(">Q", self.events), msgpack.packb(batch)])
        self.events += 1

    async def tree_round(self, prompts):
        """Return nanoseconds of each decision with the tree."""
        return [self.choose(prompt) for prompt in prompts]

    def choose(self, prompt):
        """Take the worker with most blocks; return what that took."""
        began = time.perf_counter_ns()
        scores = self.tree.find_matches(hashed(prompt)).scores
        max(scores, key=scores.get, default=None)
        return time.perf_counter_ns() - began

    async def service_round(self, prompts):
        """Return nanoseconds of each decision with the service, one at a time, 64 requests in flight."""
        return [await self.select(prompt) for prompt in prompts]

    async def select(self, prompt):
        """Select and reserve; finish the oldest request outside of the time returned."""
        self.events += 1
        request = {"model_name": MODEL, "token_ids": prompt, "selection_id": str(self.events)}
        began = time.perf_counter_ns()
        await self.service.select_and_reserve(request)
        spent = time.perf_counter_ns() - began
        await self.service.prefill_complete(request["selection_id"])
        self.flying.append(request["selection_id"])
        if len(self.flying) > IN_FLIGHT:
            await self.service.free_reservation(self.flying.popleft())
        return spent


def hashed(prompt):
    """Return the hash of each block's tokens."""
    from dynamo._core import compute_block_hash_for_seq

    return compute_block_hash_for_seq(prompt, BLOCK)


def prompts_of(path, length):
    """Return the prompts of a file as lists with integers of their own."""
    tokens = array("i")
    tokens.frombytes(Path(path).read_bytes())
    return [tokens[start : start + length].tolist() for start in range(0, len(tokens), length)]


async def answer(peer, question):
    """Do what is asked."""
    prompts = prompts_of(question["path"], question["length"])
    if question["do"] == "fill":
        await peer.start()
        return await peer.fill(prompts, question["workers"])
    return await (peer.tree_round(prompts) if question["do"] == "tree" else peer.service_round(prompts))


async def main():
    """Answer until the input ends."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    peer = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            peer = peer or Peer(question["count"])
            reply = {"answer": await answer(peer, question)}
        except Exception as error:  # whatever it is, the benchmark reports it
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
