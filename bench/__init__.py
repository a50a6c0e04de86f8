"""The demo and the benchmarks, each run as `python -m bench.NAME`."""
