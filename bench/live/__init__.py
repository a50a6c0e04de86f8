"""A workload against a running cluster, and the simulator's prediction of it: `python -m bench.live`."""

from bench.live.playing import Record, play, serve, summary

__all__ = ["Record", "play", "serve", "summary"]
