"""What a decision costs: `python -m bench.micro --json FILE [--quick] [--peers | --compare-native]`.

Prompts: 5 % common to all, a group's prefix up to 85 %, 15 % unique; 40 requests per group on average, popularity Zipf
1.1. Queries are new prompts of the same kind, packed before any is timed, each used once, more of them than the
last-level cache holds; lists have integers of their own. Single calls of the whole scheduler, accounting included, are
timed with the nanosecond clock, 64 requests in flight, collector on, in rounds: a figure is the median over rounds,
its spread their 10th and 90th percentile. Ratios are medians over rounds too, both sides alternating within a round
and swapping places from one to the next. The process is pinned to one core; how much of it others took is reported.
"""
