"""`redirect.c` as the redirector agent sees it: load, attach, feed, read. As `l4.balancer_program`."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from l4 import attachment
from l4.attachment import XdpMode
from l4.entries import NO_MAC, MemberEntry, mapped, redirector_settings
from l4.pins import ProgramPins, prepare_pins, remove_pins
from l4.program_error import ProgramError
from l4.program_loader import LoadedProgram
from l4.shared_maps import U32, Counters, Members, reconcile

#: `enum tunnel_source` of redirector_maps.h.
_SOURCE, _PROBER = 1, 2


class RedirectorProgram:
    """`redirect.c`, and its maps."""

    NAME = "redirector"
    FUNCTION = "edge_redirector"

    def __init__(self, bpffs: Path) -> None:
        """Compiles, loads, and takes up the maps pinned in `bpffs`. Raises ProgramError."""
        self._pins = prepare_pins(bpffs, self.NAME)
        self._program = LoadedProgram("redirect.c", self.FUNCTION, self._pins, {})
        self._settings = self._pins.open("settings")
        self._sources = self._pins.open("tunnel_sources")
        self._members = Members(self._pins)
        self._counters = Counters(self._pins, self.NAME)

    @property
    def pins(self) -> ProgramPins:
        """Where its maps are pinned."""
        return self._pins

    @property
    def descriptor(self) -> int:
        """Of the loaded program."""
        return self._program.descriptor

    def attach(self, interface: str, mode: XdpMode) -> str:
        """Attaches to the interface, replacing an earlier redirector in one step. Returns "native" or "generic".

        Maps that only other versions use are forgotten then.
        """
        used = attachment.attach(interface, self.descriptor, self.FUNCTION, mode)
        self._pins.remove_leftovers()
        return str(used)

    @staticmethod
    def detach(interface: str) -> bool:
        """Takes the redirector off the interface. False if none was there. Its maps stay pinned."""
        return attachment.detach(interface, RedirectorProgram.FUNCTION)

    @staticmethod
    def remove_pins(bpffs: Path) -> None:
        """Forgets all maps: the next load starts empty, with counters at zero."""
        remove_pins(bpffs, RedirectorProgram.NAME)

    def set_settings(
        self, *, v4: IPv4Address | None = None, v6: IPv6Address | None = None, mac: bytes = NO_MAC
    ) -> None:
        """Sets this host's addresses on the underlay: the tunnel's ends here. Before that, all packets pass by.

        With `mac`, the interface's own, frames for another MAC address pass by as well.
        """
        self._settings.update(U32.pack(0), redirector_settings(v4, v6, mac))

    def set_members(self, members: Sequence[MemberEntry]) -> None:
        """Makes the members those given: whom a second chance can go to."""
        self._members.set(members)

    def set_tunnel_sources(
        self, sources: Sequence[IPv4Address | IPv6Address], probe_sources: Sequence[IPv4Address | IPv6Address] = ()
    ) -> None:
        """Makes the hosts whose encapsulated packets are accepted those given.

        Connections that themselves come from one of `probe_sources` are probes, and not counted as new flows.
        """
        limit = self._sources.shape.max_entries
        if len(sources) > limit // 2:
            raise ProgramError(f"{len(sources)} tunnel sources, and at most {limit // 2} are supported")
        members = {mapped(source): U32.pack(_SOURCE) for source in sources}
        reconcile(self._sources, members | {mapped(source): U32.pack(_PROBER) for source in probe_sources})

    def counters(self) -> dict[str, int]:
        """All counters by name, summed over CPUs. They survive restarts. docs/protocol.md says what each counts."""
        return self._counters.read()
