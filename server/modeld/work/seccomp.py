"""A worker's system calls: what it needs to predict, and nothing that reaches another process or the network.

A seccomp filter (seccomp(2)) that answers EPERM to new sockets, to programs and processes, and to touching other
processes. It can't be undone and holds for all threads. Threads may be made: libraries do that.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_EPERM, _ENOSYS = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_LOAD, _EQUAL, _GREATER_EQUAL, _ALL_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
#: Offsets in struct seccomp_data: the number, the architecture, the low half of the first argument.
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16
_CLONE_THREAD = 0x10000
#: Numbers at and above this are the x32 calls of x86-64: other names for the same things.
_X32 = 0x40000000

#: Machine → (audit architecture, clone, clone3, what is refused).
_MACHINES = {
    "x86_64": (
        0xC000003E,
        56,
        435,
        {
            "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "socketpair": 53, "fork": 57,
            "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101, "mount": 165, "keyctl": 250, "unshare": 272,
            "accept4": 288, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310, "process_vm_writev": 311,
            "bpf": 321, "execveat": 322, "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_getfd": 438,
        },
    ),
    "aarch64": (
        0xC00000B7,
        220,
        435,
        {
            "mount": 40, "unshare": 97, "ptrace": 117, "kill": 129, "socket": 198, "socketpair": 199, "bind": 200,
            "listen": 201, "accept": 202, "connect": 203, "keyctl": 219, "execve": 221, "perf_event_open": 241,
            "accept4": 242, "setns": 268, "process_vm_readv": 270, "process_vm_writev": 271, "bpf": 280,
            "execveat": 281, "pidfd_send_signal": 424, "io_uring_setup": 425, "pidfd_getfd": 438,
        },
    ),
}  # fmt: skip


def restrict() -> bool:
    """Put the filter on this process, which must have no-new-privileges set.

    Returns:
        False where this machine's kind or its kernel has no filter for us.
    """
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    program = _program(*machine)
    filters = ctypes.create_string_buffer(program, len(program))

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filters", ctypes.c_void_p)]

    described = Program(len(program) // 8, ctypes.addressof(filters))
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(described), 0, 0) == 0)


def _program(arch: int, clone: int, clone3: int, refused: dict[str, int]) -> bytes:
    """The filter in classic BPF: eight bytes an instruction, jumps count instructions to skip."""
    numbers = sorted(refused.values())
    steps = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _EPERM),
        # The library falls back to clone, whose flags can be looked at.
        (_EQUAL, 0, 1, clone3),
        (_RETURN, 0, 0, _ENOSYS),
        (_EQUAL, 0, 4, clone),
        (_LOAD, 0, 0, _ARGUMENT),
        (_ALL_BITS, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    for number in numbers:
        steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _EPERM)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
