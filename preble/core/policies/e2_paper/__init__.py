"""E2 as the paper publishes it (section 3.2): `policy.py` is the rule, `window.py` keeps its history of load."""
