"""Where a cluster writes its decision log."""

from __future__ import annotations

import logging
import os
from io import BufferedWriter

_logger = logging.getLogger("preble.cluster.log_file")


class LogFile:
    """A file of lines, readable by its owner only: it holds prompts and outputs. Writing must never stop the serving.

    If the disk fails, that is logged once, and the file ends there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._file: BufferedWriter | None = None

    def open(self) -> None:
        """Create the file, or empty it. Raises OSError."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def write(self, line: bytes) -> None:
        """Append a line, which reaches the disk some time, at the latest on `close`."""
        if self._file is not None:
            try:
                self._file.write(line)
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        """Write what is left. Closing twice is harmless."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _logger.error("the decision log %s ends here: %s", self.path, error)
        self._file = None
