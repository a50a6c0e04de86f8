"""The demo, in two acts: `python -m bench.demo`."""
