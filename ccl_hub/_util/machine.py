"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

from ..errors import OutputError

MAX_WORKERS = 64
MOST_WORKER_BYTES = 4 << 30
_CGROUP = Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def cpu_count() -> int:
    """Return the number of cores this process may use: affinity and container quota counted."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        cores = min(cores, max(1, round(int(quota) / int(period))))
    return cores


def memory_bytes() -> int | None:
    """Return the memory this process may use, container limit counted; None if unknown."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _read(_CGROUP / "memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total


def worker_count() -> int:
    """Return how many decoding processes suit this machine: one a core."""
    return min(cpu_count(), MAX_WORKERS)


def worker_bytes(workers: int) -> int | None:
    """Return the memory that each of ``workers`` processes may take: a fair share of half."""
    total = memory_bytes()
    return total and max(1 << 29, min(MOST_WORKER_BYTES, total // 2 // workers))


def cache_folder() -> Path:
    """Return ``$CCL_CACHE``, or else ``ccl_hub`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        OutputError: The home folder in it is unknown.
    """
    folder = os.environ.get("CCL_CACHE")
    if not folder:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))  # a relative one does not count
        folder = str((base if base.is_absolute() else Path("~/.cache")) / "ccl_hub")
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise OutputError(
            f"the cache {folder} has no place here: {error}; set CCL_CACHE to a folder."
        ) from error


def may_have_gpu() -> bool:
    """Whether torch might find a GPU here; told in no time, and without torch.

    By the drivers' devices: of NVIDIA, of AMD, of WSL. Every Mac may have one.
    """
    if sys.platform != "linux":
        return True
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "nvidia0", "kfd", "dxg"))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, for the next allocation, instead of giving it to the system.

    Each step of a training frees and asks for the same large tensors. As glibc is set, the system
    fills each of them with zeros anew: a step of EfficientNet-Lite0 on two cores takes half as
    long again. Other C libraries are left as they are.
    """
    if sys.platform == "linux" and "CS_GNU_LIBC_VERSION" in os.confstr_names:
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
