"""Who is in the lab and at which address: a pure function of the spec.

    clients ──┐                ┌── l4-1, l4-2, …         198.18.1.0/24
    198.51.100.0/24            ├── proxy-1, proxy-2, …   198.18.2.0/24
              └─── router ─────┤
                               ├── backend-1, …          198.18.3.0/24
                               └── control               198.18.4.0/24

The router is .1 and ::1 of every network and holds one bridge for each; hosts count from .11 and ::11. All addresses
are of documentation (RFC 5737, RFC 3849) and benchmark (RFC 2544) ranges: nothing real can be reached by mistake.
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from orchestrator.contract.node import AgentRole
from orchestrator.lab.spec import LabSpec

Interface = IPv4Interface | IPv6Interface

HOST_INTERFACE = "eth0"
"""The one interface of every host."""
MTU = 1500
FIRST_HOST = 11
CONTROL_HOST = 10
ROUTER_ASN = 64600
FIRST_L4_ASN = 64601
ORCHESTRATOR_PORT = 7443
BACKEND_PORT = 8080
METRICS_PORTS = {AgentRole.BALANCER: 9101, AgentRole.REDIRECTOR: 9102, AgentRole.PROXY: 9103}
"""Where each agent exports its metrics, on its host's own address."""

VIP_NETWORKS = (IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8:203::/64"))
"""The only prefixes of which the router takes routes from L4 nodes."""
VIP_V4 = IPv4Address("203.0.113.10")
VIP_V6 = IPv6Address("2001:db8:203::10")
VIP_PORT = 443
UDP_PORT = 5353
"""Of the UDP VIPs, which have the same addresses."""
HOST_NAME = "www.example.com"
"""The host that the lab's configuration serves on both VIPs."""


class HostKind(StrEnum):
    """What a lab host plays."""

    CLIENT = "client"
    L4 = "l4"
    PROXY = "proxy"
    BACKEND = "backend"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Network:
    """One segment: a bridge in the router's namespace."""

    name: str
    v4: IPv4Network
    v6: IPv6Network | None = None

    @property
    def bridge(self) -> str:
        return f"br-{self.name}"

    @property
    def gateways(self) -> tuple[Interface, ...]:
        """The router's addresses on it: IPv4, and IPv6 if the network has any."""
        return (interface_v4(self.v4, 1), *((interface_v6(self.v6, "1"),) if self.v6 else ()))


CLIENTS = Network("clients", IPv4Network("198.51.100.0/24"), IPv6Network("2001:db8:51::/64"))
L4_NODES = Network("l4", IPv4Network("198.18.1.0/24"), IPv6Network("2001:db8:18:1::/64"))
PROXIES = Network("proxies", IPv4Network("198.18.2.0/24"), IPv6Network("2001:db8:18:2::/64"))
BACKENDS = Network("backends", IPv4Network("198.18.3.0/24"))
CONTROL = Network("control", IPv4Network("198.18.4.0/24"))
NETWORKS = (CLIENTS, L4_NODES, PROXIES, BACKENDS, CONTROL)


@dataclass(frozen=True, slots=True)
class LabHost:
    """A host of the lab: a network namespace with one interface on one network."""

    name: str
    """`l4-1`, `proxy-2`, `client`, …; also the name of its port on the router's bridge."""
    kind: HostKind
    namespace: str
    network: Network
    v4: tuple[IPv4Interface, ...]
    v6: tuple[IPv6Interface, ...]

    @property
    def addresses(self) -> tuple[Interface, ...]:
        return (*self.v4, *self.v6)

    @property
    def primary(self) -> tuple[Interface, ...]:
        """The first of each family."""
        return (*self.v4[:1], *self.v6[:1])

    @property
    def address(self) -> IPv4Address:
        """Its first IPv4 address: the one that configuration names it by."""
        return self.v4[0].ip

    @property
    def transmits_from_xdp(self) -> bool:
        return self.kind in (HostKind.L4, HostKind.PROXY)


@dataclass(frozen=True, slots=True)
class Router:
    """In the middle: one bridge for each network, forwarding between them."""

    namespace: str
    name: str = "router"


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts of a lab, and the router between them."""

    lab: str
    router: Router
    client: LabHost
    control: LabHost
    l4_nodes: tuple[LabHost, ...]
    proxies: tuple[LabHost, ...]
    backends: tuple[LabHost, ...]

    @property
    def hosts(self) -> tuple[LabHost, ...]:
        """Everyone who hangs off the router."""
        return (self.client, *self.l4_nodes, *self.proxies, *self.backends, self.control)

    @property
    def everyone(self) -> tuple[Router | LabHost, ...]:
        return (self.router, *self.hosts)


def interface_v4(network: IPv4Network, host: int) -> IPv4Interface:
    return IPv4Interface((network.network_address + host, network.prefixlen))


def interface_v6(network: IPv6Network, host: str) -> IPv6Interface:
    """`host` is written as it reads in the address, so that .11 has the twin ::11 and not ::b."""
    return IPv6Interface((network.network_address + int(host, 16), network.prefixlen))


def topology_of(spec: LabSpec) -> Topology:
    """Names and addresses of everyone in the lab of this spec."""

    def host(name: str, kind: HostKind, network: Network, first: int, addresses: int = 1) -> LabHost:
        numbers = range(first, first + addresses)
        return LabHost(
            name=name,
            kind=kind,
            namespace=namespace_of(spec.name, name),
            network=network,
            v4=tuple(interface_v4(network.v4, number) for number in numbers),
            v6=tuple(interface_v6(network.v6, str(number)) for number in numbers) if network.v6 else (),
        )

    def row(kind: HostKind, network: Network, size: int) -> tuple[LabHost, ...]:
        return tuple(host(f"{kind}-{index + 1}", kind, network, FIRST_HOST + index) for index in range(size))

    return Topology(
        lab=spec.name,
        router=Router(namespace_of(spec.name, "router")),
        client=host("client", HostKind.CLIENT, CLIENTS, FIRST_HOST, spec.client_addresses),
        control=host("control", HostKind.CONTROL, CONTROL, CONTROL_HOST),
        l4_nodes=row(HostKind.L4, L4_NODES, spec.l4_nodes),
        proxies=row(HostKind.PROXY, PROXIES, spec.proxies),
        backends=row(HostKind.BACKEND, BACKENDS, spec.backends),
    )


def namespace_of(lab: str, host: str) -> str:
    return f"{lab}-{host}"
