"""The order of a worker's own wait queue (paper section 3.3): `LocalScheduler` and the disciplines. Pure.

Engines, the simulator and the scheduler's predictions use it.
"""
