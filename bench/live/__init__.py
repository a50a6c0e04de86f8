"""A workload against a running cluster, and the simulator's prediction of it: `python -m bench.live`."""

from bench.live.playing import Record, play, send, serve, summary, until

__all__ = ["Record", "play", "send", "serve", "summary", "until"]
