"""Memory that two processes share and that is gone when both are, however they end.

Named segments (``multiprocessing.shared_memory``) outlive a killed process and are limited by the
size of ``/dev/shm``; this is anonymous memory whose descriptor the child inherits. On Linux its
size is sealed: a process that could shorten it would end the other one, at its next look.
"""

from __future__ import annotations

import mmap
import os
import secrets
import sys
import tempfile

if sys.platform == "linux":
    import fcntl


class SharedMemory:
    """Memory made here, or opened by the token that its maker gave.

    Args:
        token: None to make it. Else what :attr:`token` was in the process that made it, which
            must have let this one inherit :attr:`descriptor`.
    """

    def __init__(self, token: str | None = None) -> None:
        self.descriptor: int | None = None
        self._made_here = token is None
        if sys.platform == "win32":
            self.token = token or f"ccl-{secrets.token_hex(16)}"
            return
        if token is not None:
            self.descriptor = int(token)
        elif sys.platform == "linux":
            self.descriptor = os.memfd_create("ccl-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                self.descriptor = os.dup(file.fileno())
        self.token = str(self.descriptor)

    def map(self, size_bytes: int) -> mmap.mmap:
        """Return the memory, and close the descriptor; its maker must have done so first.

        Args:
            size_bytes: More than 0, and the same in both processes.
        """
        if self.descriptor is None:
            return mmap.mmap(-1, size_bytes, tagname=self.token)  # type: ignore[call-arg]
        if self._made_here:
            os.ftruncate(self.descriptor, size_bytes)
            if sys.platform == "linux":
                seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
                fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)
        try:
            return mmap.mmap(self.descriptor, size_bytes)
        finally:
            self.close()

    def close(self) -> None:
        """Close the descriptor, if it is open; memory that is mapped stays."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
