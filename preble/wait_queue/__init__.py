"""The wait queue of one worker (paper section 3.3): `LocalScheduler`, and the disciplines that order it.

Engines and the simulator keep their waiting requests in it; the global scheduler reads which discipline lets shorter
requests go first. It is pure, and of the other folders it imports only `tree/`.
"""
