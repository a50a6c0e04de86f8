"""The global scheduler: which worker gets a request, what that is expected to cost, and what came of it.

`Scheduler` (`scheduler.py`) is what others use; `policies/` decide, the other files keep its books. Everything is pure:
no I/O, no clock and no global random numbers. Time is the argument `now`, in seconds.
`backends/`, `dispatch/`, `cluster/`, `simulate/`, `replay/` and the command line import it; of the other folders, it
imports only `tree/` and `wait_queue/`.
"""
