"""How a process of Linux locks itself in for good: Landlock for paths, seccomp for the rest.

A confined process works with what it holds: memory, threads, and descriptors that were opened
before or are handed to it. No system call that takes a path, makes a socket, starts a process or a
program, touches another process or makes memory executable is on its list. Landlock says the same
of paths, TCP, signals and tracing once more, by another part of the kernel, and alone where there
is no seccomp.

This talks to the kernel itself because no package does both in a process that runs already, with a
list of what is allowed: ``landlock`` is in pre-release and ``py-landlock`` an alpha of one
maintainer, for what is two system calls here; ``pyseccomp`` rests since 2021 and needs a
libseccomp that wheels do not bring; ``sandlock`` (a Rust library of 13 MB, Linux 6.7 and later)
confines by seccomp only the programs that it starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from . import system_calls

if sys.platform != "win32":
    import fcntl

ALLOWED = (
    # Memory, but for what could be executed, and threads, whose start has a rule below.
    *("brk", "munmap", "mremap", "madvise", "exit", "exit_group", "restart_syscall"),
    *("futex", "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "gettid", "getpid"),
    # What is open already: the file to decode, and the connection to the pool.
    *(
        "read",
        "pread64",
        "readv",
        "preadv",
        "preadv2",
        "lseek",
        "fstat",
        "close",
        "write",
        "writev",
    ),
    *("recvmsg", "sendmsg", "poll", "ppoll", "select", "pselect6"),
    # Time, chance, and signals to itself.
    *("clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time"),
    *("getrandom", "getrusage", "sysinfo", "uname", "getcpu"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
)
"""System calls that a confined process may make whatever their arguments; none takes a path."""

_PROT_EXEC = 0x4
_CLONE_THREAD = 0x10000
_CLONE_AS_LIBC_DOES = 0x7D0F00  # the flags with which glibc and musl start a thread
_NAMES = (15, 0x53564D41)  # PR_SET_NAME, PR_SET_VMA: names of threads and of memory

# linux/landlock.h: what each version of Landlock knows to forbid.
_LANDLOCK_FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_LANDLOCK_TCP, _LANDLOCK_SCOPES = 0b11, 0b11
_LANDLOCK_HAS_TCP, _LANDLOCK_HAS_SCOPES = 4, 6

# linux/seccomp.h, linux/filter.h
_ALLOW, _NOTIFY, _ERRNO, _KILL = 0x7FFF0000, 0x7FC00000, 0x00050000, 0x80000000
_SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 1, 2
_SYNC, _SPEC_ALLOW, _NEW_LISTENER, _TELL_SYNC = 1, 1 << 2, 1 << 3, 1 << 4
_NOTIFICATION, _NOTIFICATION_BYTES = "=QIIi", 80  # id, process, flags, call; more follows
_ANSWER = "=QqiI"  # id, value, error, flags
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_LOAD, _RETURN, _IF_EQUAL, _IF_ANY_BIT = 0x20, 0x06, 0x15, 0x45
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS


@dataclass(frozen=True)
class Walls:
    """What confines a process.

    Args:
        landlock: Version of Landlock that forbids paths; 0 for none.
        seccomp: Whether only the calls of :data:`ALLOWED` can be made.
    """

    landlock: int = 0
    seccomp: bool = False


def available() -> Walls:
    """Return what this kernel offers, without giving anything up."""
    if sys.platform != "linux" or system_calls.architecture() is None:
        return Walls()
    version = 0
    with contextlib.suppress(OSError):
        version = _call("landlock_create_ruleset", None, 0, 1)
    try:
        _call("seccomp", _GET_ACTION_AVAILABLE, 0, ctypes.byref(ctypes.c_uint32(_ERRNO)))
    except OSError:
        return Walls(version)
    return Walls(version, seccomp=True)


def confine() -> tuple[Walls, int | None]:
    """Lock this process in for good, as far as the kernel can.

    Returns:
        The walls that there are now, and a descriptor by which a supervisor learns of refused
        calls (:class:`Refusals`); None where there is none, and calls are refused without a word.
    """
    offered = available()
    if offered == Walls():
        return offered, None
    version, seccomp, watched = 0, False, None
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        # Landlock binds the thread that asks for it; a second one would be free.
        if offered.landlock and len(list(Path("/proc/self/task").iterdir())) == 1:
            _forbid_paths(offered.landlock)
            version = offered.landlock
    with contextlib.suppress(OSError):
        if offered.seccomp:
            watched = _forbid_calls()
            seccomp = True
    return Walls(version, seccomp), watched


def _call(name: str, *arguments: object) -> int:
    """Make a system call for which libc has no function.

    Raises:
        OSError: It failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    result: int = libc.syscall(ctypes.c_long(system_calls.numbers()[name]), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def _forbid_paths(version: int) -> None:
    """Enforce a ruleset of Landlock without any rule: nothing is allowed."""
    files = sum(rights for since, rights in _LANDLOCK_FILES.items() if since <= version)
    rules = [files]
    if version >= _LANDLOCK_HAS_TCP:
        rules.append(_LANDLOCK_TCP)
    if version >= _LANDLOCK_HAS_SCOPES:
        rules.append(_LANDLOCK_SCOPES)
    attributes = struct.pack(f"={len(rules)}Q", *rules)
    ruleset = _call("landlock_create_ruleset", attributes, len(attributes), 0)
    try:
        _call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _forbid_calls() -> int | None:
    """Install the list of calls; return the descriptor for refused ones if there can be one."""
    try:
        # The kernel tells a supervisor, which answers; see Refusals.
        return _install(_program(_NOTIFY), _NEW_LISTENER | _TELL_SYNC)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EINVAL):  # another has it, or Linux before 5.7
            raise
    _install(_program(_ERRNO | errno.EPERM))
    return None


def _install(program: bytes, flags: int = 0) -> int:
    """Install a filter for every thread.

    Without SPEC_ALLOW, kernels before 5.16 would slow the process down against another threat.

    Raises:
        OSError: The kernel refuses, or a thread has a filter of its own.
    """
    flags |= _SYNC | _SPEC_ALLOW
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    result = _call("seccomp", _SET_MODE_FILTER, flags, head)
    if result > 0 and not flags & _NEW_LISTENER:  # the number of that thread
        raise OSError(errno.ESRCH, "seccomp: another thread has a filter of its own")
    return result


def _program(refuse: int) -> bytes:
    """Return the filter, as classic BPF.

    Args:
        refuse: What is returned for calls that are not allowed.
    """
    number, pid = system_calls.numbers(), os.getpid()
    code = [
        _step(_LOAD, 4),  # seccomp_data.arch
        _step(_IF_EQUAL, system_calls.architecture() or 0, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, 0),  # seccomp_data.nr
    ]
    for name in ALLOWED:
        if name in number:  # aarch64 has fewer
            code += [_step(_IF_EQUAL, number[name], 0, 1), _step(_RETURN, _ALLOW)]

    def rule(name: str, argument: int, *steps: bytes) -> None:
        """Decide by the low half of one argument; what falls through is refused."""
        body = [_step(_LOAD, 16 + 8 * argument), *steps, _step(_RETURN, refuse)]
        code.extend([_step(_IF_EQUAL, number[name], 0, len(body)), *body])

    allow = _step(_RETURN, _ALLOW)
    rule("mmap", 2, _step(_IF_ANY_BIT, _PROT_EXEC, 1, 0), allow)
    rule("mprotect", 2, _step(_IF_ANY_BIT, _PROT_EXEC, 1, 0), allow)
    foreign = 0xFFFFFFFF ^ _CLONE_AS_LIBC_DOES
    thread = _step(_IF_ANY_BIT, _CLONE_THREAD, 0, 1)
    rule("clone", 0, _step(_IF_ANY_BIT, foreign, 2, 0), thread, allow)
    rule("kill", 0, _step(_IF_EQUAL, pid, 0, 1), allow)  # of itself, by abort()
    rule("tgkill", 0, _step(_IF_EQUAL, pid, 0, 1), allow)
    names = (step for name in _NAMES for step in (_step(_IF_EQUAL, name, 0, 1), allow))
    rule("prctl", 0, *names)
    # Its flags cannot be looked at; without it libc takes clone.
    no_such_call = _step(_RETURN, _ERRNO | errno.ENOSYS)
    code += [_step(_IF_EQUAL, number["clone3"], 0, 1), no_such_call, _step(_RETURN, refuse)]
    return b"".join(code)


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """Return an instruction; the jumps are numbers of instructions to pass over."""
    return struct.pack("=HBBI", operation, if_true, if_false, value)


class Refusals:
    """The calls that a confined process tried and was refused, as its supervisor learns of them.

    The process waits in each until it is answered: ask whenever the descriptor is readable.

    Args:
        descriptor: What :func:`confine` returned in that process; closed by :meth:`close`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._names = {number: name for name, number in system_calls.numbers().items()}

    def fileno(self) -> int:
        """Return the descriptor, to wait for."""
        return self._descriptor

    def take(self) -> str | None:
        """Refuse the call that waits; return its name, None if none waits."""
        waits = select.poll()
        waits.register(self._descriptor, select.POLLIN)
        if not any(state & select.POLLIN for _, state in waits.poll(0)):
            return None
        notification = bytearray(_NOTIFICATION_BYTES)
        try:
            fcntl.ioctl(self._descriptor, _RECEIVE, notification)
            identity, _, _, number = struct.unpack_from(_NOTIFICATION, notification)
            answer = struct.pack(_ANSWER, identity, 0, -errno.EPERM, 0)
            fcntl.ioctl(self._descriptor, _SEND, answer)
        except FileNotFoundError:  # the process was ended meanwhile
            return None
        return self._names.get(number, f"number {number}")

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)
