"""How workers come to be: `local.py` starts processes on this machine, `in_loop.py` tasks of this event loop.

`launcher.py` says what `preble.workers.launched`, which alone imports this, asks of a launcher.
"""
