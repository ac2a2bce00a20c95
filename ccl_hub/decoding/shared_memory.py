"""Memory that two processes share and that is gone when both are, however they end.

Named segments (``multiprocessing.shared_memory``) outlive a killed process and are limited by the
size of ``/dev/shm``; this is anonymous memory whose descriptor the child inherits.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile


class SharedMemory:
    """Memory made here, or opened by the token that its maker gave.

    Args:
        size_bytes: More than 0.
        token: None to make it. Else what :attr:`token` was in the process that made it, which
            must have let this one inherit :attr:`descriptor`.
    """

    def __init__(self, size_bytes: int, token: str | None = None) -> None:
        self.descriptor: int | None = None
        if sys.platform == "win32":
            self.token = token or f"ccl-{secrets.token_hex(16)}"
            self.buffer = mmap.mmap(-1, size_bytes, tagname=self.token)
            return
        if token is not None:
            self.descriptor = int(token)
        elif hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("ccl-frames")
            os.ftruncate(self.descriptor, size_bytes)
        else:
            with tempfile.TemporaryFile() as file:
                file.truncate(size_bytes)
                self.descriptor = os.dup(file.fileno())
        self.token = str(self.descriptor)
        self.buffer = mmap.mmap(self.descriptor, size_bytes)

    def close_descriptor(self) -> None:
        """Close the descriptor once the child has it; the memory stays."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
