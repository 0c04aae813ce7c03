"""The system call filter on paper: numbers against the kernel's headers, the program by a small machine that runs it.

That the kernel takes it and what it does to a real process is tests/real/test_sandbox.py; this covers both machines.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import struct
from pathlib import Path

import pytest

from mntapi.errors import Failed, Unsupported
from mntapi.kernel import capabilities, landlock, libc, seccomp
from mntapi.kernel.seccomp import ARCHITECTURES, NUMBERS, assemble, rules

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS = 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
PID = 4321


def run_filter(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """The verdict on a call. Source of the machine: linux/filter.h, of its data: linux/seccomp.h."""
    words = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *([0] * (6 - len(arguments))))]
    data = struct.pack("<iIQ6Q", number, arch, 0, *words)
    accumulator, at = 0, 0
    while True:
        code, then, otherwise, operand = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += then if accumulator == operand else otherwise
        elif code == 0x35:
            at += then if accumulator >= operand else otherwise
        elif code == 0x06:
            return operand
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


@pytest.fixture(params=sorted(ARCHITECTURES))
def machine(request: pytest.FixtureRequest):
    architecture = ARCHITECTURES[request.param]
    program = assemble(architecture, rules(PID))

    def ask(call: str, *arguments: int) -> int:
        number = NUMBERS[call][architecture.column]
        assert number is not None
        return run_filter(program, architecture.audit, number, *arguments)

    ask.program, ask.architecture = program, architecture  # type: ignore[attr-defined]
    return ask


@pytest.mark.parametrize(
    ("header", "column", "prefix"),
    [
        ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", 0, r"__NR_"),
        ("/usr/include/asm-generic/unistd.h", 1, r"__NR(?:3264)?_"),
    ],
)
def test_numbers_are_those_of_the_headers(header: str, column: int, prefix: str) -> None:
    if not Path(header).exists():
        pytest.skip(f"{header} is not installed")
    theirs = dict(re.findall(rf"#define {prefix}(\w+)\s+(\d+)", Path(header).read_text()))
    theirs.setdefault("newfstatat", theirs.get("fstatat", ""))
    ours = {name: str(numbers[column]) for name, numbers in NUMBERS.items() if numbers[column] is not None}
    assert {name: theirs.get(name) for name in ours} == ours


def test_everyday_calls(machine) -> None:
    for call in ("preadv", "writev", "read", "futex", "recvmsg", "munmap", "exit_group", "clock_nanosleep", "getrandom"):
        assert machine(call) == ALLOW, call


def test_everything_else(machine) -> None:
    known = {numbers[machine.architecture.column] for numbers in NUMBERS.values()}
    for number in set(range(600)) - known:
        assert run_filter(machine.program, machine.architecture.audit, number) == EPERM, number
    for call in ("openat", "getdents64", "seccomp", "socket", "connect", "bind", "setsockopt", "sendmmsg"):
        assert machine(call) == EPERM


def test_other_machines_are_killed(machine) -> None:
    for arch in (0x40000003, 0x40000028, 0):  # i386 and ARM calls have other numbers
        assert run_filter(machine.program, arch, 0) == KILL


def test_x32_numbers() -> None:
    architecture = ARCHITECTURES["x86_64"]
    assert run_filter(assemble(architecture, rules(PID)), architecture.audit, 0x40000000) == EPERM


@pytest.mark.parametrize(
    ("call", "arguments", "verdict"),
    [
        ("clone", (0x3D0F00,), ALLOW),  # what pthread_create asks for
        ("clone", (0x01200011,), EPERM),  # what fork() asks for
        ("clone", (0x4111,), EPERM),  # vfork
        ("clone", (0x3D0F00 | 0x10000000,), EPERM),  # CLONE_NEWUSER
        ("clone3", (1, 88), ENOSYS),
        ("mmap", (0, 4096, 3, 0x22), ALLOW),
        ("mmap", (0, 4096, 7, 0x22), EPERM),
        ("mprotect", (0, 4096, 1), ALLOW),
        ("mprotect", (0, 4096, 4), EPERM),
        ("kill", (PID, 9), ALLOW),
        ("kill", (1, 9), EPERM),
        ("kill", (0, 9), EPERM),
        ("kill", (-1, 9), EPERM),
        ("kill", (-PID, 9), EPERM),
        ("tgkill", (PID, 7, 6), ALLOW),
        ("tgkill", (1, 1, 6), EPERM),
        ("prlimit64", (0, 7), ALLOW),
        ("prlimit64", (1, 7), EPERM),
        ("ioctl", (3, 0x5401), ALLOW),
        ("ioctl", (3, 0x5412), EPERM),  # TIOCSTI: typing into the terminal
        ("ioctl", (3, 0x8004E500), EPERM),
        ("fcntl", (3, 4), ALLOW),
        ("fcntl", (3, 8), EPERM),  # F_SETOWN
        ("prctl", (15,), ALLOW),
        ("prctl", (22,), EPERM),
        ("newfstatat", (3, 0, 0, 0x1000), ALLOW),
        ("newfstatat", (-100, 0, 0, 0), EPERM),
    ],
)
def test_arguments(machine, call: str, arguments: tuple[int, ...], verdict: int) -> None:
    assert machine(call, *arguments) == verdict


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_reading_files_on_request(name: str) -> None:
    architecture = ARCHITECTURES[name]
    program = assemble(architecture, rules(PID, may_read_files=True))
    number = NUMBERS["openat"][architecture.column] or 0
    assert run_filter(program, architecture.audit, number, -100, 0, 0o2000000) == ALLOW  # O_CLOEXEC
    for flags in (1, 2, 0o100, 0o1000, 0o20000000):  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE
        assert run_filter(program, architecture.audit, number, -100, 0, flags) == EPERM, oct(flags)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_connecting_on_request(name: str) -> None:
    architecture = ARCHITECTURES[name]
    program = assemble(architecture, rules(PID, may_connect=True))

    def ask(call: str, *arguments: int) -> int:
        return run_filter(program, architecture.audit, NUMBERS[call][architecture.column] or 0, *arguments)

    for family in (1, 2, 10, 16):  # Unix, IPv4, IPv6, netlink
        assert ask("socket", family, 1) == ALLOW
    assert ask("socket", 17, 3) == EPERM  # packets
    assert ask("connect", 3) == ALLOW and ask("openat", -100, 0, 0) == EPERM


def test_the_program_is_one_the_kernel_takes(machine) -> None:
    """At most BPF_MAXINSNS instructions, and each jump lands inside."""
    count = len(machine.program) // 8
    assert count <= 4096
    for at in range(count):
        code, then, otherwise, _ = struct.unpack_from("=HBBI", machine.program, at * 8)
        if code in (0x15, 0x35):
            assert at + 1 + max(then, otherwise) < count


def test_a_machine_without_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "m68k")
    with pytest.raises(Unsupported, match="m68k"):
        seccomp.install()
    with pytest.raises(Failed, match="m68k"):
        capabilities.drop_all()


@pytest.fixture
def _refusing_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(libc, "syscall", refuse)
    monkeypatch.setattr(libc, "prctl", refuse)


@pytest.mark.usefixtures("_refusing_kernel")
def test_a_kernel_without_any_of_it() -> None:
    if platform.machine() in ARCHITECTURES:
        with pytest.raises(Unsupported, match="does not take a system call filter"):
            seccomp.install()
        with pytest.raises(Failed, match="cannot be given up"):
            capabilities.drop_all()
    assert landlock.abi() is None
    with pytest.raises(Unsupported, match="no Landlock"):
        landlock.restrict()
    capabilities.drop_bounding_set()  # no capability is known to be there


def test_no_right_to_the_bounding_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(option: int, *_: int) -> int:
        if option == 24:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        return 1

    monkeypatch.setattr(libc, "prctl", refuse)
    with pytest.raises(Failed, match="bounding set stays"):
        capabilities.drop_bounding_set()


def test_a_landlock_that_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 4)

    def refuse(*_: object) -> int:
        raise OSError(errno.E2BIG, "Argument list too long")

    monkeypatch.setattr(libc, "syscall", refuse)
    with pytest.raises(Failed, match="Landlock refused"):
        landlock.restrict()
    answers = [os.open(tmp_path, os.O_RDONLY)]  # the rule set can be made, but not put in force

    def refuse_later(*_: object) -> int:
        if answers:
            return answers.pop()
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(libc, "syscall", refuse_later)
    with pytest.raises(Failed, match="Landlock refused"):
        landlock.restrict()
