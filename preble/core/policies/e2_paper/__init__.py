"""The paper's E2 as published (section 3): `policy.py` is the rule, `window.py` its history of load."""
