"""Other systems from their public packages, beside ours in the same run.

Each has a virtual environment of its own under `out/peers`. What cannot be installed or called is reported with the
reason, never imitated.
"""
