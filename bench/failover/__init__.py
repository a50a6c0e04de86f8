"""What one bad worker of three costs: `python -m bench.failover [--quick] [--json FILE] [--markdown FILE]`.

Three replicas behind URLs, and then three worker processes, serve the same 300 requests in every run: tool use
(ToolBench, Zipf 1.1, 150 tool sets), 24 at once, the next as soon as one ends, 16 tokens each, greedily. One of the
three is bad, in a way that a real server or engine can be. All of them run the `sim` engine with the times of Mistral
7B on an A100; the replicas speak vLLM's completions API and run in the process of the benchmark. A bad replica is bad
from the first request on, and its `/health` says 200 at once unless the row says otherwise. A bad process is bad from
the first request on too, or after 30 of them if it has to end or hang in a step.

Every request has a deadline of 10 s, which is its caller's own. Requests that ended with an error are `failed`, and
those of them that ended at their deadline are in brackets. TTFT is measured from sending a request, over those that
were answered, and is given as a multiple of that of three healthy workers under the same policy in the same run. The
row of the drained one shows what two workers can do at best. `sent again` counts how often a request went to a worker
once more because the one before had failed it. It leaves out those that waited on one worker while another was idle,
which the scheduler moves of its own accord, also away from a worker that hangs. The last columns are the requests that
the bad worker got until its circuit breaker opened or it was lost, and in all. A full server is left alone for as long
as it says, or for a second, and its breaker stays closed.

Three options differ from their defaults, so that a run does not take minutes: `idle_timeout=1` (the default is 60 s),
and `/health` is asked every 0.25 s for an answer within 0.5 s.
"""
