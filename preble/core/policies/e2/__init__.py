"""The default policy: `policy.py` is the rule, the other files price its parts and serve it alone."""
