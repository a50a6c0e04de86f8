"""E2, the default policy. `policy.py` is the rule; the other files compute its parts and serve it alone.

`price.py` finds the worker of least cost, `prefill_weight.py` computes w, `future_delay.py` D, and `replication.py`
the copies of hot prefixes.
"""
