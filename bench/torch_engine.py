"""The embedded engine against a plain torch net of the same size and weights, alternating in one run.

The engine is measured from outside: `generate` in an event loop, with queue, batching, paged cache and sampling. The
plain net is a bare loop over its forward pass: unfused matrices, and a contiguous KV cache gathered by index in each
layer. One thread each. Rates are tokens per second, medians over the repeats; `_low` and `_high` are quartiles.
"""

from __future__ import annotations

import asyncio
import statistics
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import load_file
from torch import Tensor

from bench.report import command_line, positive, save
from preble.backends import EngineRequest
from preble.backends.torch.engine import TorchEngine
from preble.testing import make_model
from preble.types import SamplingParams

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 256, 4, 4, 2, 64, 4096
CONTEXT, STEPS = 256, 32


class PlainNet:
    """A straightforward Llama in float32 with a contiguous KV cache of `slots` tokens per layer."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.weights = load_file(folder / "model.safetensors")
        self.cache = torch.zeros(LAYERS, 2, slots, KV_HEADS, HEAD_DIM)
        frequencies = 10000.0 ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(8192.0), torch.cat((frequencies, frequencies)))
        self.cos, self.sin = angles.cos(), angles.sin()

    @torch.inference_mode()
    def forward(self, tokens: Tensor, positions: Tensor, writes: Tensor, reads: Tensor) -> Tensor:
        """Return logits [sequences, vocab] of each sequence's last token.

        `tokens` and `positions` are [sequences, tokens]; `writes` are the cache slots of these tokens, `reads`
        [sequences, context] those of all tokens before and including them.
        """
        hidden = F.embedding(tokens, self.weights["model.embed_tokens.weight"])
        cos, sin = self.cos[positions].unsqueeze(2), self.sin[positions].unsqueeze(2)
        for layer in range(LAYERS):
            hidden = self._layer(layer, hidden, cos, sin, writes, reads)
        return self._linear("lm_head", self._norm("model.norm", hidden[:, -1]))

    def _layer(self, layer: int, hidden: Tensor, cos: Tensor, sin: Tensor, writes: Tensor, reads: Tensor) -> Tensor:
        prefix = f"model.layers.{layer}."
        x = self._norm(prefix + "input_layernorm", hidden)
        q, k, v = (self._linear(f"{prefix}self_attn.{name}_proj", x).unflatten(-1, (-1, HEAD_DIM)) for name in "qkv")
        keys, values = self.cache[layer]
        keys[writes], values[writes] = _rotate(k, cos, sin), v
        attended = _attend(_rotate(q, cos, sin), keys[reads], values[reads])
        hidden = hidden + self._linear(prefix + "self_attn.o_proj", attended)
        x = self._norm(prefix + "post_attention_layernorm", hidden)
        gated = F.silu(self._linear(prefix + "mlp.gate_proj", x)) * self._linear(prefix + "mlp.up_proj", x)
        return hidden + self._linear(prefix + "mlp.down_proj", gated)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[name + ".weight"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (HIDDEN,), self.weights[name + ".weight"], 1e-6)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from q [sequences, tokens, heads, head_dim] to k and v [sequences, context, KV heads, head_dim]."""
    sequences, tokens, context = q.shape[0], q.shape[1], k.shape[1]
    if tokens == 1:
        grouped = q.view(sequences, KV_HEADS, -1, HEAD_DIM)
        scores = grouped @ k.permute(0, 2, 3, 1) * HEAD_DIM**-0.5
        return (scores.softmax(-1) @ v.transpose(1, 2)).reshape(sequences, 1, -1)
    mask = None if tokens == context else torch.ones(tokens, context, dtype=torch.bool).tril(context - tokens)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return attended.transpose(1, 2).flatten(2)


class Plain:
    """The measurements on the plain net; each returns seconds."""

    def __init__(self, folder: Path) -> None:
        self.net = PlainNet(folder, 64 * (CONTEXT + STEPS))

    async def prefill(self, tokens: int, cached: int = 0) -> float:
        """Prefill one sequence of `tokens` tokens, the first `cached` of which are there already."""
        prompt = torch.tensor([_prompt(tokens, 7)])
        slots = torch.arange(tokens).unsqueeze(0)
        if cached:
            self.net.forward(prompt[:, :cached], slots[:, :cached], slots[:, :cached], slots[:, :cached])
        begin = time.perf_counter()
        self.net.forward(prompt[:, cached:], slots[:, cached:], slots[:, cached:], slots).argmax(-1).tolist()
        return time.perf_counter() - begin

    async def decode(self, batch: int) -> float:
        """Take STEPS decode steps of `batch` sequences, from CONTEXT tokens on."""
        slots = torch.arange(batch * (CONTEXT + STEPS)).view(batch, -1)
        tokens = torch.tensor([_prompt(1, 7 + row) for row in range(batch)])
        begin = time.perf_counter()
        for length in range(CONTEXT, CONTEXT + STEPS):
            positions = torch.full((batch, 1), length)
            writes = slots[:, length : length + 1]
            tokens = self.net.forward(tokens, positions, writes, slots[:, : length + 1]).argmax(-1, keepdim=True)
            tokens.tolist()
        return time.perf_counter() - begin


class Ours:
    """The same measurements on the engine."""

    def __init__(self, engine: TorchEngine) -> None:
        self.engine = engine
        self._requests = 0

    async def prefill(self, tokens: int, cached: int = 0) -> float:
        """Prefill one sequence and sample one token."""
        await self.engine.reset_cache()
        if cached:
            await self._generate(_prompt(cached + 1, 7), 1)
        begin = time.perf_counter()
        await self._generate(_prompt(tokens, 7), 1)
        return time.perf_counter() - begin

    async def decode(self, batch: int) -> float:
        """Generate until each sequence has STEPS more tokens than when the last one had its first."""
        prompts = [_prompt(CONTEXT, 7 + 2 * row) for row in range(batch)]
        await asyncio.gather(*(self._generate(prompt, 1) for prompt in prompts))
        times = await asyncio.gather(*(self._generate(prompt, STEPS + 1) for prompt in prompts))
        begin = max(sequence[0] for sequence in times)
        later = sum(moment > begin for sequence in times for moment in sequence)
        return (max(sequence[-1] for sequence in times) - begin) * batch * STEPS / later

    async def _generate(self, prompt: list[int], tokens: int) -> list[float]:
        self._requests += 1
        sampling = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
        times: list[float] = []
        request = EngineRequest(self._requests, struct.pack(f"<{len(prompt)}i", *prompt), sampling)
        async for delta in self.engine.generate(request):
            times += [time.perf_counter()] * (len(delta.tokens) // 4)
        return times


def _prompt(tokens: int, step: int) -> list[int]:
    return [(step * index) % 4000 + 6 for index in range(tokens)]


Cases = dict[str, tuple[int, Callable[[Plain | Ours], Awaitable[float]]]]

CASES: Cases = {
    "prefill_256": (256, lambda side: side.prefill(256)),
    "prefill_1024": (1024, lambda side: side.prefill(1024)),
    "prefill_32_on_992": (32, lambda side: side.prefill(1024, 992)),
    "decode_1": (STEPS, lambda side: side.decode(1)),
    "decode_16": (16 * STEPS, lambda side: side.decode(16)),
    "decode_64": (64 * STEPS, lambda side: side.decode(64)),
}
"""Tokens counted, and the measurement, of each case."""


async def measure(folder: Path, repeats: int) -> dict[str, float]:
    """Return the rates of all cases of both sides, and the ratio of their medians."""
    engine = TorchEngine(model=str(folder), dtype="float32", device="cpu", max_running=64)
    await engine.start()
    plain, ours = Plain(folder), Ours(engine)
    metrics: dict[str, float] = {}
    try:
        for name, (tokens, case) in CASES.items():
            await case(plain), await case(ours)
            pairs = [(tokens / await case(plain), tokens / await case(ours)) for _ in range(repeats)]
            for side, rates in zip(("plain", "engine"), zip(*pairs, strict=True), strict=True):
                low, middle, high = statistics.quantiles(rates, n=4)
                key = f"{name}_{side}_tokens_per_s"
                metrics |= {key: round(middle, 1), f"{key}_low": round(low, 1), f"{key}_high": round(high, 1)}
            metrics[f"{name}_ratio"] = round(statistics.median(b / a for a, b in pairs), 3)
    finally:
        await engine.close()
    return metrics


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparison and report it."""
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=positive(int), default=9)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        metrics = asyncio.run(measure(make_model(Path(folder) / "model"), options.repeats))
    save(options.json, "torch_engine", metrics)


if __name__ == "__main__":
    main()
