"""The books of requests in flight: samples, attempts, moves, copies. Pure: told what happened and when.

The cluster and the simulator drive it; it imports the scheduler and the wire's messages, and nothing that does I/O.
"""
