"""Other systems from their public packages, beside ours in the same run: one file each.

Each has a virtual environment of its own under `out/peers`. What cannot be installed or called is reported with the
reason, never imitated.
"""

from __future__ import annotations

from bench.peers.beside import beside

__all__ = ["beside"]
