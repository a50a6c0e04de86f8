"""Engines as the cluster reaches them: the worker process, pools of workers, what a process is bound to.

`pool.py` says what a cluster asks of a pool and hears from it. `launched.py` is a pool of workers that a launcher
starts, as processes or in this event loop; `replicas.py` is one of servers that run already. Only the cluster imports
the pools; a worker process runs `worker.py` and nothing of the cluster.
"""
