"""Whoever waits for the samples of one request."""

from __future__ import annotations

import asyncio

from preble.dispatch.request import InFlightRequest, Sample


class Reader:
    """Waits for news of a request. One task reads it."""

    __slots__ = ("_news", "_waiter", "request")

    def __init__(self, request: InFlightRequest) -> None:
        self.request = request
        self._news: dict[int, Sample] = {}
        self._waiter: asyncio.Future[None] | None = None

    def wake(self, sample: Sample) -> None:
        """There is something to read of `sample`."""
        self._news[sample.index] = sample
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def ready(self) -> list[Sample]:
        """Wait for news and return the samples that have some. Raises the first error among them."""
        if not self._news:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        news = list(self._news.values())
        self._news.clear()
        for sample in news:
            if sample.error is not None:
                raise sample.error
        return news
