"""XDP programs on interfaces: attach, replace, report and detach, through libbpf.

A program of ours that is attached already is replaced in one step; a foreign one is never touched. Attachment is by
netlink and not by link descriptor, so that a program stays when its loader exits.
"""

import ctypes
import errno
import os
import socket
from dataclasses import dataclass
from enum import StrEnum

from l4.bpf_call import open_program, program_name
from l4.program_error import ProgramError


class XdpMode(StrEnum):
    """Where the program runs."""

    NATIVE = "native"
    """In the driver, before a packet buffer is made."""
    GENERIC = "generic"
    """In the kernel's receive path: works with every driver, and is several times slower."""
    AUTO = "auto"
    """Native, or generic where the driver has no XDP."""


# include/uapi/linux/if_link.h
_FLAGS = {XdpMode.GENERIC: 1 << 1, XdpMode.NATIVE: 1 << 2}
_ONLY_IF_NONE = 1 << 0
_MODE_OF_ATTACHMENT = {1: XdpMode.NATIVE, 2: XdpMode.GENERIC}

# What drivers answer that have no XDP, or none for this interface's MTU or queues.
_NOT_BY_THIS_DRIVER = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ERANGE})


class _QueryOptions(ctypes.Structure):
    """`struct bpf_xdp_query_opts`."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("program_id", ctypes.c_uint32),
        ("native_program_id", ctypes.c_uint32),
        ("hardware_program_id", ctypes.c_uint32),
        ("generic_program_id", ctypes.c_uint32),
        ("attach_mode", ctypes.c_uint8),
    )


class _AttachOptions(ctypes.Structure):
    """`struct bpf_xdp_attach_opts`."""

    _fields_ = (("size", ctypes.c_size_t), ("replaced_descriptor", ctypes.c_int))


@dataclass(frozen=True, slots=True)
class Attached:
    """The program that an interface runs now."""

    program_id: int
    name: str
    mode: XdpMode


def attached_program(interface: str) -> Attached | None:
    """What runs on the interface (of the caller's network namespace); None if nothing does."""
    options = _QueryOptions(size=ctypes.sizeof(_QueryOptions))
    result = _libbpf().bpf_xdp_query(_index(interface), 0, ctypes.byref(options))
    if result < 0:
        raise ProgramError(f"cannot ask which XDP program runs on {interface}: {os.strerror(-result)}")
    if not options.program_id:
        return None
    mode = _MODE_OF_ATTACHMENT.get(options.attach_mode)
    if mode is None:
        raise ProgramError(
            f"{interface} runs XDP programs in several modes or in hardware; take them off: "
            f"ip link set dev {interface} xdp off"
        )
    return Attached(options.program_id, program_name(options.program_id), mode)


def attach(interface: str, descriptor: int, name: str, mode: XdpMode) -> XdpMode:
    """Attaches a program, replacing one of the same name in one step. Returns the mode that it runs in.

    AUTO keeps the mode of a program that it replaces. Another mode asked for than that of the attached program needs
    it to be taken off first: then, and only then, there is a moment without a program.
    """
    present = attached_program(interface)
    if present is not None and present.name != name:
        raise ProgramError(
            f"{interface} already runs the XDP program {present.name!r}, which is not ours to replace; "
            f"take it off first: ip link set dev {interface} xdp off"
        )
    if present is not None and mode in (XdpMode.AUTO, present.mode):
        with open_program(present.program_id) as replaced:
            _attach(interface, descriptor, _FLAGS[present.mode], replaced)
        return present.mode
    if present is not None:
        detach(interface, name)
    if mode is not XdpMode.AUTO:
        _attach(interface, descriptor, _FLAGS[mode] | _ONLY_IF_NONE)
        return mode
    try:
        _attach(interface, descriptor, _FLAGS[XdpMode.NATIVE] | _ONLY_IF_NONE)
    except _DriverRefusedError:
        _attach(interface, descriptor, _FLAGS[XdpMode.GENERIC] | _ONLY_IF_NONE)
        return XdpMode.GENERIC
    return XdpMode.NATIVE


def detach(interface: str, name: str) -> bool:
    """Takes the program of that name off the interface. False if none was there; a foreign one is an error."""
    present = attached_program(interface)
    if present is None:
        return False
    if present.name != name:
        raise ProgramError(f"{interface} runs the XDP program {present.name!r}, not {name!r}: left as it is")
    with open_program(present.program_id) as replaced:
        _attach(interface, -1, _FLAGS[present.mode], replaced)
    return True


class _DriverRefusedError(ProgramError):
    """The driver cannot run this program natively."""


def _attach(interface: str, descriptor: int, flags: int, replaced: int | None = None) -> None:
    options = _AttachOptions(size=ctypes.sizeof(_AttachOptions), replaced_descriptor=replaced or 0)
    reference = ctypes.byref(options) if replaced is not None else None
    result = _libbpf().bpf_xdp_attach(_index(interface), descriptor, flags, reference)
    if result >= 0:
        return
    native = bool(flags & _FLAGS[XdpMode.NATIVE])
    kind = _DriverRefusedError if native and -result in _NOT_BY_THIS_DRIVER else ProgramError
    hint = "; the driver may have no XDP of its own: try --xdp-mode generic" if kind is _DriverRefusedError else ""
    raise kind(f"cannot attach to {interface}: {os.strerror(-result)}{hint}")


def _index(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise ProgramError(f"there is no interface {interface!r} in this network namespace; see: ip link") from None


def _libbpf() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libbpf.so.1")
    except OSError:
        raise ProgramError("libbpf is missing; install it with: apt-get install libbpf1") from None
