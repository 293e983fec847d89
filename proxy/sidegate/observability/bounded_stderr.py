"""Standard error for a process that must not wait for its reader.

Python writes warnings and tracebacks to stderr, and the command line its errors. If stderr is a
pipe that is not read, each of these writes would wait for ever, also at the end of the process.
"""

import atexit
import io
import sys
from typing import Final

from sidegate.observability.log_writer import LogWriter, send_to_descriptor

# Seconds that a text may take to be written before the program continues. Usually it takes none,
# and then texts on stderr and stdout appear in the order in which they were written.
_WAIT: Final = 0.05
# Seconds that a process that ends waits for its last texts to be read.
_FLUSH_TIMEOUT: Final = 1.0


class BoundedStderr(io.TextIOBase):
    """Text stream for stderr: it waits briefly for its reader, then drops what does not fit."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._writer = LogWriter(send_to_descriptor(descriptor))
        self._is_read = True

    def write(self, text: str) -> int:
        if not isinstance(text, str):  # click finds out so what kind of stream this is
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if text:
            self._writer.put(text.encode(self.encoding, self.errors))
        return len(text)

    def flush(self) -> None:
        """Wait until everything is written. Once that took too long, never wait again."""
        if self._is_read:
            self._is_read = self._writer.flush(_WAIT)

    def flush_last(self) -> None:
        """Wait until everything is written, at the end of the process."""
        self._writer.flush(_FLUSH_TIMEOUT)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return sys.__stderr__ is not None and sys.__stderr__.isatty()


def install_bounded_stderr() -> None:
    """Replace `sys.stderr`, unless something else already did, such as a test."""
    original = sys.__stderr__
    if original is None or sys.stderr is not original:
        return
    original.flush()
    stderr = BoundedStderr(original.fileno())
    atexit.register(stderr.flush_last)
    sys.stderr = stderr
