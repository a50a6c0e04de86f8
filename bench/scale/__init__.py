"""Many workers, and several schedulers: `python -m bench.scale [--quick] [--json FILE] [--markdown FILE]`.

In simulation: tool use (ToolBench, Zipf 1.1) on 8, 64, 256 and 1,024 workers. Requests a second, requests and tool sets
are in proportion to the workers, so that a worker's share of work and of prefixes stays the same; the most popular set
still has a fifth of all requests, and so needs ever more copies. A decision is a call of `Scheduler.submit` within the
simulation, everything that it accounts included; its time is CPU time of the calling thread, so what other processes
take does not count. Beside it, what users see, means over 8 workloads where workers are 8. The first quarter of each
run is left out: caches are cold then. They are not full afterwards either: longer runs would hit more.

Then several schedulers side by side over the same workers, each placing a part of the requests: a random part, or the
requests whose first 512 tokens (the system prompt, and the beginning of a tool set) hash to it. A scheduler knows what
it sent itself; evictions and step times it hears from all workers. Figures are ratios to a single scheduler on the same
requests, medians over seeds.
"""
