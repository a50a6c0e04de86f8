"""How a request gets in: what was passed is read and checked, it waits or is refused, and it is submitted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import TypeAlias

from preble.cluster.driver import Driver
from preble.cluster.gate import Gate
from preble.cluster.members import Members
from preble.cluster.prompt import Prompt, PromptReader, open_ended
from preble.cluster.reader import Reader
from preble.dispatch.request import InFlightRequest
from preble.types import RequestOptions, SamplingParams

_DEFAULT_SAMPLING = SamplingParams()

Watch: TypeAlias = Callable[[Prompt, SamplingParams, InFlightRequest], object]
"""Is shown a request as it was passed, and as it is submitted next."""


class Intake:
    """Makes requests of what callers pass, and hands them to `driver` as `gate` lets them in."""

    def __init__(self, prompts: PromptReader, gate: Gate, driver: Driver, members: Members, backend: str) -> None:
        self._prompts = prompts
        self._gate = gate
        self._driver = driver
        self._members = members
        self._backend = backend
        self._ids = itertools.count(1)
        self.watch: Watch | None = None

    async def submit(
        self,
        prompt: Prompt,
        sampling: SamplingParams | None,
        options: RequestOptions,
        *,
        streaming: bool = False,
        patient: bool = False,
    ) -> Reader:
        """Submit a request, if `patient` once there is room; whoever gets the reader must release its request.

        Raises what `PrebleCluster.generate` does.
        """
        now = asyncio.get_running_loop().time
        chosen = _DEFAULT_SAMPLING if sampling is None else sampling
        self._prompts.check(chosen)
        self._members.check_adapter(options.lora, self._backend)
        until = options.until(now())
        tokens = await self._prompts.tokens(prompt, options)
        if patient:
            await self._let_in(chosen.n)
        self._gate.check()
        request = InFlightRequest(
            options.request_id or self._new_id(),
            tokens,
            self._prompts.limited(chosen, prompt, tokens),
            options,
            now=now(),
            deadline=until,
            streaming=streaming or bool(chosen.stop),
            open_ended=open_ended(chosen, prompt),
        )
        if self.watch is not None:
            self.watch(prompt, chosen, request)
        return self._driver.submit(request)

    def forward(self, exchange: object, tokens: bytes, sampling: SamplingParams, options: RequestOptions) -> Reader:
        """Submit a request that goes to a replica as it came; the scheduler knows it by `tokens`."""
        now = asyncio.get_running_loop().time()
        self._gate.check()
        request = InFlightRequest(
            options.request_id or self._new_id(),
            self._prompts.fitting(tokens),
            sampling,
            options,
            now=now,
            deadline=options.until(now),
            streaming=True,
            open_ended=sampling.max_tokens is None,
            forward=exchange,
        )
        return self._driver.submit(request)

    async def _let_in(self, samples: int) -> None:
        while self._gate.draining or self._driver.full(samples):
            await self._gate.opened()
            await self._driver.room(samples)

    def _new_id(self) -> str:
        """The next number that no caller has given to a request in flight."""
        return next(id for number in self._ids if not self._driver.knows(id := f"r{number}"))
