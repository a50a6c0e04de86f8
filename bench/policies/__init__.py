"""The board: every policy on every workload, simulated at half, 80 % and 95 % of what the best policy sustains.

    python -m bench.policies --json out/policies.json            # all of it, about an hour on two cores
    python -m bench.policies --quick                             # a few small cells, to see that it works
    python -m bench.policies --traces DIR                        # recorded traces too, where they are in DIR
    python -m bench.policies --peers-queue fcfs                  # the peers over engines that order nothing
    python -m bench.policies --table out/policies.json           # tables and figures anew, without measuring

What a policy sustains is the largest rate at which the mean TTFT is within the workload's limit: five times that of
requests served alone with all prompts before them cached for ever, or, where that is more, half of what they take with
nothing cached. A slowdown judges short prompts and long ones alike, and a mean hangs on no single request; the half is
for documents that no cluster of this size can keep, where the bound is out of reach at any rate. It is searched on the
first seed. All policies of a cell serve the same requests. Caches begin cold and every request counts, for the
policies as for the bounds: nothing is skipped.

All workers order their queues alike, as `e2` has it by default, so that rules are compared with rules; only under
`e2-paper` they have the paper's priority groups. Routers in front of engines find a queue that is first come, first
served: `--peers-queue fcfs` gives them that, and compares what is deployed.

A batch (`groups`) comes at once, whatever the rate: its load is its size, and it sustains what it finishes a second.
"""
