"""The paper's evaluation (its section 4) in virtual time: `python -m bench.paper [--quick] [--json FILE]`.

The five workloads at the paper's rates, on 2 and 4 A6000 with Mistral-7B and on 8 H100 with Llama-3-70B, by the cost
constants that its authors published: round robin against the paper's E2 (`e2-paper`) and ours (`e2`). Then tool use and
video questions at once with arrivals like Azure's; the techniques one after the other (the paper's Figure 5); and round
robin over other engines. What is compared is what the paper compares: the time from a request's arrival to its last
token, average and 99th percentile, as round robin's over the other's. It is a simulation: the same arguments give the
same figures on any machine.
"""
