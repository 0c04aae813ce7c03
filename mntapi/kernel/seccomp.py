"""A system call filter, written by hand: a list of what a confined Python may still ask of the kernel.

Everything not on the list fails with EPERM; there is no such thing as a forbidden call that kills, so that a library which
merely tries something goes on. Start reading at ``RULES``.

Source: seccomp(2); Documentation/userspace-api/seccomp_filter.rst; linux/filter.h for the instruction format; system call
numbers of asm/unistd_64.h (x86_64) and asm-generic/unistd.h (aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from mntapi.errors import Unsupported
from mntapi.kernel import libc


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the kernel calls a machine in ``seccomp_data.arch``, and the column of ``NUMBERS`` with its system calls."""

    audit: int
    column: int


ARCHITECTURES = {"x86_64": Architecture(0xC000003E, 0), "aarch64": Architecture(0xC00000B7, 1)}

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    # name: (x86_64, aarch64). The hot ones come first: the filter is walked from the top.
    "preadv": (295, 69),
    "writev": (20, 66),
    "readv": (19, 65),
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv2": (327, 286),
    "pwritev": (296, 70),
    "pwritev2": (328, 287),
    "lseek": (8, 62),
    "close": (3, 57),
    "fstat": (5, 80),
    "newfstatat": (262, 79),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "eventfd2": (290, 19),
    "pipe2": (293, 59),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "recvmsg": (47, 212),
    "sendmsg": (46, 211),
    "recvfrom": (45, 207),
    "sendto": (44, 206),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "clone": (56, 220),
    "clone3": (435, 435),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "prlimit64": (302, 261),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getcpu": (309, 168),
    "getcwd": (79, 17),  # or an import that fails would not be an ImportError
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "flock": (73, 32),
    "fadvise64": (221, 223),
    "prctl": (157, 167),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "openat": (257, 56),
    "getdents64": (217, 61),
    "seccomp": (317, 277),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "setsockopt": (54, 208),
    "sendmmsg": (307, 269),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A call, allowed if ``argument & mask`` (its low 32 bits) is one of ``values``; always if there are no values."""

    call: str
    argument: int = 0
    mask: int = 0xFFFFFFFF
    values: tuple[int, ...] = ()


_CLONE_THREAD = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND
_CLONE_NEW = 0x7E020000  # all CLONE_NEW...: name spaces
_AT_EMPTY_PATH = 0x1000
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_TCGETS, _FIONREAD, _FIONCLEX, _FIOCLEX, _FIONBIO = 0x5401, 0x541B, 0x5450, 0x5451, 0x5421
_BLKSSZGET = 0x1268  # the sector size of a block device

# Not on the list above all: execve, fork, open, socket, connect, bind, ptrace, mount, unlink and all else that takes a path.
_UNCONDITIONAL = frozenset(NUMBERS) - {
    *("newfstatat", "mmap", "mprotect", "clone", "clone3", "fcntl", "ioctl", "prctl", "prlimit64", "kill", "tgkill"),
    *("openat", "getdents64", "seccomp", "socket", "connect", "bind", "setsockopt", "sendmmsg"),
}
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)


def rules(pid: int, *, may_read_files: bool = False, may_connect: bool = False) -> tuple[Rule, ...]:
    """What process ``pid`` may do. With ``may_read_files`` it can open files for reading; which ones is for Landlock to say.

    With ``may_connect`` it can make sockets and connect them; to which TCP ports is for Landlock to say.
    """
    conditional = {
        # fstat() of newer C libraries. With the flag a path could still be given: names and sizes leak, contents do not.
        "newfstatat": Rule("newfstatat", 3, _AT_EMPTY_PATH, (_AT_EMPTY_PATH,)),
        "mmap": Rule("mmap", 2, mmap.PROT_EXEC, (0,)),
        "mprotect": Rule("mprotect", 2, mmap.PROT_EXEC, (0,)),
        "clone": Rule("clone", 0, _CLONE_THREAD | _CLONE_NEW, (_CLONE_THREAD,)),  # a thread: no process, no name space
        # Duplicate, close-on-exec, status flags; not F_SETOWN, which makes the kernel signal others.
        "fcntl": Rule("fcntl", 1, values=(0, 1, 2, 3, 4, 1030)),
        "ioctl": Rule("ioctl", 1, values=(_TCGETS, _FIONREAD, _FIONCLEX, _FIOCLEX, _FIONBIO, _BLKSSZGET)),
        "prctl": Rule("prctl", 0, values=(_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA)),
        "prlimit64": Rule("prlimit64", 0, values=(0, pid)),
        "kill": Rule("kill", 0, values=(pid,)),
        "tgkill": Rule("tgkill", 0, values=(pid,)),
    }
    if may_read_files:
        conditional["newfstatat"] = Rule("newfstatat")
        conditional["openat"] = Rule("openat", 2, _WRITING, (os.O_RDONLY,))
        conditional["getdents64"] = Rule("getdents64")
    if may_connect:
        # Looking up a name takes bind() of a netlink socket, for the host's own addresses, and sendmmsg() to name servers.
        conditional["socket"] = Rule("socket", 0, values=tuple(map(int, _FAMILIES)))
        conditional |= {name: Rule(name) for name in ("connect", "bind", "setsockopt", "sendmmsg")}
    return tuple(conditional.get(name, Rule(name)) for name in NUMBERS if name in conditional or name in _UNCONDITIONAL)


# Classic BPF as the kernel runs it: {u16 code, u8 jump if true, u8 jump if false, u32 k}; jumps count instructions to skip.
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_JUMP_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data: {int nr; u32 arch; u64 instruction_pointer; u64 args[6]}, little endian on both machines.
_NR, _ARCH, _ARGS = 0, 4, 16

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000
_X32 = 0x40000000
"""Bit of the x32 calls: a second set of numbers for the same machine, which no program here uses."""


def assemble(architecture: Architecture, allowed: Sequence[Rule]) -> bytes:
    """The filter program: ``allowed`` and nothing else."""
    program = [
        _operation(_LOAD, _ARCH),
        _jump(_JUMP_IF_EQUAL, architecture.audit, then=1),
        _operation(_RETURN, _KILL_PROCESS),
        _operation(_LOAD, _NR),
        _jump(_JUMP_IF_AT_LEAST, _X32, otherwise=1),
        _operation(_RETURN, _ERRNO | errno.EPERM),
    ]
    for rule in allowed:
        number = NUMBERS[rule.call][architecture.column]
        if number is not None:
            program += _block(number, _conditions(rule))
    clone3 = NUMBERS["clone3"][architecture.column] or 0
    program += _block(clone3, [_operation(_RETURN, _ERRNO | errno.ENOSYS)])  # its flags lie in memory; libc falls back to clone
    program.append(_operation(_RETURN, _ERRNO | errno.EPERM))
    return b"".join(program)


def _block(number: int, body: list[bytes]) -> list[bytes]:
    """``body``, which always returns, for the call of this number; others skip it."""
    return [_jump(_JUMP_IF_EQUAL, number, otherwise=len(body)), *body]


def _conditions(rule: Rule) -> list[bytes]:
    if not rule.values:
        return [_operation(_RETURN, _ALLOW)]
    body = [_operation(_LOAD, _ARGS + 8 * rule.argument), _operation(_AND, rule.mask)]
    for value in rule.values:
        body += [_jump(_JUMP_IF_EQUAL, value, otherwise=1), _operation(_RETURN, _ALLOW)]
    return [*body, _operation(_RETURN, _ERRNO | errno.EPERM)]


def _operation(code: int, operand: int) -> bytes:
    return _INSTRUCTION.pack(code, 0, 0, operand)


def _jump(code: int, operand: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, then, otherwise, operand)


_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_TSYNC = 1


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(*, may_read_files: bool = False, may_connect: bool = False) -> None:
    """Filter the system calls of all threads of this process from now on. Needs no_new_privs.

    Raises:
        Unsupported: the kernel has no seccomp filters, or nobody has written the list for this machine.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise Unsupported(f"there is no system call list for {platform.machine()}")
    code = assemble(architecture, rules(os.getpid(), may_read_files=may_read_files, may_connect=may_connect))
    program = _Program(len(code) // _INSTRUCTION.size, code)
    number = NUMBERS["seccomp"][architecture.column] or 0
    try:
        libc.syscall(number, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_TSYNC, ctypes.addressof(program))
    except OSError as error:
        raise Unsupported(f"the kernel does not take a system call filter: {error.strerror}") from error
