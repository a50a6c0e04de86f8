"""The page that a live run leaves in the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bench.live.comparison import HEADERS, Row, cells
from bench.report import commit, machine, table

PAGE = """# Live, and as simulated

`{command}` on {date}, commit {commit}, on {machine}; load average before and after: {before}, {after}.

Real requests to real workers, and what `preble.simulate` says of the same requests. For each run, its cost model was
fitted to other traffic, of all shapes, that the same workers served right before and right after the run. Ratios are
live / simulated. The last column says how long the live engines' steps took during the run, over what the fitted model
gives for those very steps: a machine that was slower then than before and after shows there.

{table}
"""


def markdown(rows: Sequence[Row], command: str) -> str:
    """Return the page."""
    host = machine()
    return PAGE.format(
        command=command,
        date=datetime.now(UTC).date(),
        commit=commit() or "unknown",
        machine=", ".join([host["cpu"], f"{host['cores']} cores", *host["accelerators"]]),
        before=f"{host['load_average']['before'][0]:.1f}",
        after=f"{host['load_average']['after'][0]:.1f}",
        table=table(HEADERS, map(cells, rows), words=2),
    )
