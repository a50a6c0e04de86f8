"""How a cluster and its workers exchange messages: `schema` has the messages, `zeromq` and `memory` carry them.

The dispatcher, the simulator, the pools and the worker import it. It imports the Structs of `preble.backends`, and
nothing of scheduling.
"""
