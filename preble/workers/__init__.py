"""Engines as the cluster reaches them: the worker process, pools of workers, what a process is bound to.

Only the cluster imports the pools; a worker process runs `worker.py` and nothing of the cluster.
"""
