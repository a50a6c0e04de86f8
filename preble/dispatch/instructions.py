"""What the dispatcher answers: things for its shell to do, in order."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from preble.dispatch.request import Sample
from preble.transport.schema import ToWorker
from preble.types import WorkerEvent


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send `message` to `worker`. If that fails for a request, tell the dispatcher by `on_failed`.

    Of a request that is forwarded, `forward` goes there in place of the message.
    """

    worker: str
    message: ToWorker
    forward: object = None


class Wake(msgspec.Struct, frozen=True, gc=False):
    """There is something to read of `sample`: tokens, or its end."""

    sample: Sample


class AskAgain(msgspec.Struct, frozen=True, gc=False):
    """Call `on_time` at time `at`, in seconds on the caller's clock. The earliest such instruction counts."""

    at: float


class Tell(msgspec.Struct, frozen=True, gc=False):
    """Something happened to a worker that people want to know."""

    event: WorkerEvent


Instruction: TypeAlias = Send | Wake | AskAgain | Tell
