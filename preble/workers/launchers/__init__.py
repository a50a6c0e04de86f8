"""How worker processes come to be. `local.py` starts them on this machine, each below a supervisor.

Only the pool of processes imports it.
"""
