"""A lab that is up: where its files are, what runs in it, and the faults that one can cause."""

import contextlib
import signal
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from orchestrator.contract.base import Contract, Name
from orchestrator.lab import fabric, power, processes
from orchestrator.lab.errors import LabError
from orchestrator.lab.processes import ProcessRecord, Role
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import Attached, LabHost, Router, Site, Topology, topology_of

LABS: Final = Path("/run/edgefleet/lab")
"""One directory for each lab; mode 0700, because keys and tokens lie in it."""


_NAME: Final[TypeAdapter[str]] = TypeAdapter(Name)


class ProcessStatus(Contract):
    """A process of a lab host."""

    role: Role
    pid: int
    alive: bool
    frozen: bool = False
    """Stopped by SIGSTOP."""
    log: Path


class HostStatus(Contract):
    """A host of the lab."""

    name: str
    namespace: str
    exists: bool
    """Whether its namespace is there."""
    address: IPv4Address | None
    """None for a router, which has one in every network."""
    site: str
    """Empty for what belongs to none."""
    connected: bool
    """False while its link is cut."""
    processes: tuple[ProcessStatus, ...]


class LabStatus(Contract):
    """What is there of a lab."""

    name: str
    root: Path
    complete: bool
    """True once `lab up` has checked it end to end; False while it is being built, or after `up` was killed."""
    hosts: tuple[HostStatus, ...]

    @property
    def healthy(self) -> bool:
        """Complete, with every host, link and process in place."""
        return self.complete and all(
            host.exists and host.connected and all(process.alive and not process.frozen for process in host.processes)
            for host in self.hosts
        )


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab on this machine. Its methods block; they may be called from any thread, and by any process."""

    spec: LabSpec
    root: Path

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def topology(self) -> Topology:
        return topology_of(self.spec)

    @property
    def operator(self) -> Path:
        """The operator's context directory: `context.json`, CA, certificate and key for `edgectl`."""
        return self.root / "operator"

    @property
    def configuration(self) -> Path:
        """The configuration directory that was applied: edit it and `edgectl apply` it again."""
        return self.root / "config"

    @property
    def ca(self) -> Path:
        """The CA that clients trust for the VIPs' certificates."""
        return self.root / "clients" / "ca.pem"

    @property
    def content(self) -> Path:
        """What the backends serve under `/bytes/`."""
        return self.root / "content"

    @property
    def uploads(self) -> Path:
        """Where all backends store the bodies of `PUT /uploads/NAME`: check them there, then remove them."""
        return self.root / "uploads"

    @property
    def marker(self) -> Path:
        """Holds the spec; there as long as the lab."""
        return self.root / "lab.json"

    @property
    def completion(self) -> Path:
        """There once the lab has been checked end to end."""
        return self.root / "complete"

    def directory(self, host: str) -> Path:
        """A host's directory: state, logs, process records, sockets, and `bpf`, its own bpffs."""
        return self.root / "hosts" / host

    def bpffs(self, host: str) -> Path:
        return self.directory(host) / "bpf"

    def log(self, host: str, role: Role) -> Path:
        return processes.log_path(self.directory(host), role)

    def process(self, host: str, role: Role) -> ProcessRecord:
        """The process in a role on a host. Raises LabError if there is none."""
        self.namespace(host)
        record = processes.read_record(self.directory(host), role)
        if record is None:
            raise LabError(f"lab {self.name!r}: no {role} was started on {host}")
        return record

    def kill_process(self, host: str, role: Role, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals a process and waits for its end; it stays down until `restart_process`."""
        processes.stop(self.process(host, role), number)

    def restart_process(self, host: str, role: Role) -> ProcessRecord:
        """Ends a process if it still runs (SIGTERM, after a grace SIGKILL), and starts its command line again."""
        record = self.process(host, role)
        processes.stop(record)
        return processes.start(self.directory(host), record.namespace, role, record.argv)

    def kill_all_of(self, host: str, role: Role) -> None:
        """Kills a process with its children, all at once and without a word."""
        record = self.process(host, role)
        processes.signal_family(record, signal.SIGKILL)
        processes.stop(record, signal.SIGKILL)

    def freeze_process(self, host: str, role: Role) -> None:
        """SIGSTOP, for it and its children: sockets stay open, and nobody serves them. Until `thaw_process`."""
        processes.signal_family(self.process(host, role), signal.SIGSTOP)

    def thaw_process(self, host: str, role: Role) -> None:
        processes.signal_family(self.process(host, role), signal.SIGCONT)

    def cut_power(self, host: str) -> None:
        """The host's link goes down, and everything on it is killed. Until `restore_power` and `mend`."""
        power.cut(self.host(host))

    def restore_power(self, host: str) -> None:
        """As a machine that has started; nothing runs on it yet. Does nothing to a host that has power."""
        if power.is_cut(self.host(host)):
            power.restore(self.host(host), self.bpffs(host))

    def mend(self) -> None:
        """Undoes every fault that these methods cause: links healed, power back, everything running.

        The fleet takes a moment to be whole after that: `checks` tell when it is.
        """
        for host in self.status().hosts:
            if not host.connected:
                self.heal_link(host.name)
                if host.address is not None:
                    self.restore_power(host.name)
            for process in host.processes:
                if not process.alive:
                    self.restart_process(host.name, process.role)
                elif process.frozen:
                    self.thaw_process(host.name, process.role)

    def cut_link(self, name: str) -> None:
        """A silent black hole: the port of a host, or of a site's router, leaves its bridge, and no link goes down."""
        fabric.cut(self.topology, self.attached(name))

    def heal_link(self, name: str) -> None:
        fabric.heal(self.topology, self.attached(name))

    def cut_site(self, name: str) -> None:
        """The same for all that is at a site. Until `heal_site`."""
        self.cut_link(self.site(name).router.name)

    def heal_site(self, name: str) -> None:
        self.heal_link(self.site(name).router.name)

    def status(self) -> LabStatus:
        """What is there, as the kernel tells it."""
        disconnected = fabric.disconnected(self.topology)
        return LabStatus(
            name=self.name,
            root=self.root,
            complete=self.completion.exists(),
            hosts=tuple(
                HostStatus(
                    name=host.name,
                    namespace=host.namespace,
                    exists=(processes.NAMESPACES / host.namespace).exists(),
                    address=None if isinstance(host, Router) else host.address,
                    site=self._site_name(host),
                    connected=host.name not in disconnected,
                    processes=tuple(
                        ProcessStatus(
                            role=record.role,
                            pid=record.pid,
                            alive=processes.is_alive(record),
                            frozen=processes.is_frozen(record),
                            log=self.log(host.name, record.role),
                        )
                        for record in processes.read_records(self.directory(host.name))
                    ),
                )
                for host in self.topology.everyone
            ),
        )

    def _site_name(self, host: LabHost | Router) -> str:
        for site in self.topology.sites:
            if host == site.router or host in site.l4_nodes or host in site.proxies:
                return site.name if len(self.topology.sites) > 1 else ""
        return ""

    def host(self, name: str) -> LabHost:
        """A host by its name. Raises LabError that names the hosts there are."""
        for host in self.topology.hosts:
            if host.name == name:
                return host
        names = ", ".join(host.name for host in self.topology.hosts)
        raise LabError(f"lab {self.name!r} has no host {name!r}", hint=f"there are {names}")

    def attached(self, name: str) -> Attached:
        """A host, or a site's router. Raises LabError."""
        routers = {router.name: router for router in self.topology.routers if router.network is not None}
        return routers[name] if name in routers else self.host(name)

    def site(self, name: str) -> Site:
        """A site by its name. Raises LabError that names the sites there are."""
        for site in self.topology.sites:
            if site.name == name:
                return site
        names = ", ".join(site.name for site in self.topology.sites)
        raise LabError(f"lab {self.name!r} has no site {name!r}", hint=f"there are {names}")

    def namespace(self, name: str) -> str:
        """The namespace of a host, or of a router. Raises LabError that names the hosts there are."""
        routers = {router.name: router for router in self.topology.routers}
        return routers[name].namespace if name in routers else self.host(name).namespace


def root_of(name: str) -> Path:
    """A lab's directory. Raises LabError if the name is none: it becomes part of a path."""
    try:
        return LABS / _NAME.validate_python(name)
    except ValidationError:
        raise LabError(f"{name!r} is not a lab's name: lower case letters, digits and hyphens, at most 63") from None


def find_lab(name: str) -> Lab:
    """The lab of that name. Raises LabError, which names the labs there are, if it is not on this machine."""
    root = root_of(name)
    try:
        spec = LabSpec.model_validate_json((root / "lab.json").read_text())
    except FileNotFoundError:
        there = ", ".join(running_labs())
        raise LabError(
            f"there is no lab {name!r} on this machine",
            hint=f"there is: {there}" if there else "`edgectl lab up` makes one",
        ) from None
    except ValidationError:
        raise LabError(
            f"{root / 'lab.json'} cannot be read: another version made it, or it was cut short",
            hint=f"`edgectl lab down --name {name}` removes what there is",
        ) from None
    return Lab(spec, root)


def running_labs() -> list[str]:
    """Names of the labs on this machine, complete or not."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in LABS.iterdir() if path.is_dir())
    return []
