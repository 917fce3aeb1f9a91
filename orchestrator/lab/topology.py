"""Who is in the lab and at which address: a pure function of the spec.

    clients ──┐                ┌── l4-1, l4-2, …         198.18.1.0/24
    198.51.100.0/24            ├── proxy-1, proxy-2, …   198.18.2.0/24
              └─── router ─────┤
                               ├── backend-1, …          198.18.3.0/24
                               └── control               198.18.4.0/24

The router is .1 and ::1 of every network and holds one bridge for each; hosts count from .11 and ::11. All addresses
are of documentation (RFC 5737, RFC 3849) and benchmark (RFC 2544) ranges: nothing real can be reached by mistake.

With two sites, a transit router stands between them, and whatever belongs to neither is behind that:

    clients ────┐              ┌── 198.18.5.0/24 ─── router ────┬── l4-1, l4-2, …        198.18.1.0/24
    backend-… ──┼── transit ───┤                                └── proxy-1, …           198.18.2.0/24
    control ────┘              └── 198.18.15.0/24 ── router-2 ──┬── l4-3, l4-4, …        198.18.11.0/24
                                                                └── proxy-4, …           198.18.12.0/24
"""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network

from orchestrator.contract.base import DEFAULT_SITE, Name
from orchestrator.contract.node import AgentRole
from orchestrator.lab.spec import LabSpec

Interface = IPv4Interface | IPv6Interface

HOST_INTERFACE = "eth0"
"""The one interface of every host."""
UPLINK_INTERFACE = "uplink"
"""Of a site's router, towards the transit router."""
TRANSIT = "transit"
MTU = 1500
FIRST_HOST = 11
CONTROL_HOST = 10
UPLINK_HOST = 2
"""A site's router on its uplink."""
ROUTER_ASN = 64600
"""Of the first site's router; the next has a number that is `ROUTER_ASN_STEP` higher."""
ROUTER_ASN_STEP = 50
FIRST_L4_ASN = 64601
TRANSIT_ASN = 64512
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
BACKENDS = Network("backends", IPv4Network("198.18.3.0/24"))
CONTROL = Network("control", IPv4Network("198.18.4.0/24"))
OUTSIDE = (CLIENTS, BACKENDS, CONTROL)
"""Networks that belong to no site."""

SITE_NAMES = ("east", "west")
"""Names of the sites, if there are several."""


def l4_network(site: int) -> Network:
    """Of a site's L4 nodes; sites count from 0."""
    return _of_site("l4", site, 1)


def proxy_network(site: int) -> Network:
    """Of a site's proxies."""
    return _of_site("proxies", site, 2)


def uplink_network(site: int) -> Network:
    """Between the transit router (.1) and a site's router (.2)."""
    return _of_site(f"site-{site + 1}", site, 5)


def _of_site(name: str, site: int, number: int) -> Network:
    part = 10 * site + number
    return Network(name, IPv4Network(f"198.18.{part}.0/24"), IPv6Network(f"2001:db8:18:{part}::/64"))


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
    """One bridge for each of its networks, forwarding between them. A site's is attached to the transit router's."""

    name: str
    namespace: str
    asn: int
    networks: tuple[Network, ...]
    """It is .1 and ::1 of these."""
    network: Network | None = None
    """Of its uplink; None for a router that has none."""
    v4: tuple[IPv4Interface, ...] = ()
    v6: tuple[IPv6Interface, ...] = ()

    @property
    def addresses(self) -> tuple[Interface, ...]:
        """Of its uplink."""
        return (*self.v4, *self.v6)


Attached = LabHost | Router
"""What has a port on a router, which bears its name."""


@dataclass(frozen=True, slots=True)
class Site:
    """Nodes behind one router."""

    name: Name
    router: Router
    l4_nodes: tuple[LabHost, ...]
    proxies: tuple[LabHost, ...]

    @property
    def l4_network(self) -> Network:
        """Of its L4 nodes."""
        return self.l4_nodes[0].network


@dataclass(frozen=True, slots=True)
class Topology:
    """All hosts of a lab, and the routers between them."""

    lab: str
    entry: Router
    """Where clients come in: the transit router, or the only site's own."""
    client: LabHost
    control: LabHost
    sites: tuple[Site, ...]
    backends: tuple[LabHost, ...]

    @property
    def router(self) -> Router:
        """The first site's; of a lab with one site, the only one."""
        return self.sites[0].router

    @property
    def l4_nodes(self) -> tuple[LabHost, ...]:
        return tuple(node for site in self.sites for node in site.l4_nodes)

    @property
    def proxies(self) -> tuple[LabHost, ...]:
        return tuple(proxy for site in self.sites for proxy in site.proxies)

    @property
    def hosts(self) -> tuple[LabHost, ...]:
        """Everyone who hangs off a router."""
        return (self.client, *self.l4_nodes, *self.proxies, *self.backends, self.control)

    @property
    def routers(self) -> tuple[Router, ...]:
        """The sites' routers first."""
        sites = tuple(site.router for site in self.sites)
        return sites if self.entry in sites else (*sites, self.entry)

    @property
    def attached(self) -> tuple[Attached, ...]:
        """Everything that has a port on a router."""
        return (*self.hosts, *(router for router in self.routers if router.network is not None))

    @property
    def everyone(self) -> tuple[Router | LabHost, ...]:
        return (*self.routers, *self.hosts)

    def router_of(self, attached: Attached) -> Router:
        """The router that something is attached to."""
        return next(router for router in self.routers if attached.network in router.networks)


def interface_v4(network: IPv4Network, host: int) -> IPv4Interface:
    return IPv4Interface((network.network_address + host, network.prefixlen))


def interface_v6(network: IPv6Network, host: str) -> IPv6Interface:
    """`host` is written as it reads in the address, so that .11 has the twin ::11 and not ::b."""
    return IPv6Interface((network.network_address + int(host, 16), network.prefixlen))


def topology_of(spec: LabSpec) -> Topology:
    """Names and addresses of everyone in the lab of this spec. What one site has, it has in a lab of several, too."""

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

    def row(kind: HostKind, network: Network, size: int, before: int = 0) -> tuple[LabHost, ...]:
        return tuple(host(f"{kind}-{before + index + 1}", kind, network, FIRST_HOST + index) for index in range(size))

    def site(number: int) -> Site:
        return Site(
            name=SITE_NAMES[number] if spec.sites > 1 else DEFAULT_SITE,
            router=router_of_site(spec, number),
            l4_nodes=row(HostKind.L4, l4_network(number), spec.l4_nodes, number * spec.l4_nodes),
            proxies=row(HostKind.PROXY, proxy_network(number), spec.proxies, number * spec.proxies),
        )

    sites = tuple(site(number) for number in range(spec.sites))
    return Topology(
        lab=spec.name,
        entry=sites[0].router if spec.sites == 1 else transit_of(spec),
        client=host("client", HostKind.CLIENT, CLIENTS, FIRST_HOST, spec.client_addresses),
        control=host("control", HostKind.CONTROL, CONTROL, CONTROL_HOST),
        sites=sites,
        backends=row(HostKind.BACKEND, BACKENDS, spec.backends),
    )


def router_of_site(spec: LabSpec, number: int) -> Router:
    """A site's router. That of an only site has the outside on its own bridges, and no uplink."""
    name = "router" if number == 0 else f"router-{number + 1}"
    networks = (l4_network(number), proxy_network(number))
    asn = ROUTER_ASN + number * ROUTER_ASN_STEP
    if spec.sites == 1:
        return Router(name, namespace_of(spec.name, name), asn, (CLIENTS, *networks, BACKENDS, CONTROL))
    uplink = uplink_network(number)
    return Router(
        name,
        namespace_of(spec.name, name),
        asn,
        networks,
        uplink,
        v4=(interface_v4(uplink.v4, UPLINK_HOST),),
        v6=(interface_v6(uplink.v6, str(UPLINK_HOST)),) if uplink.v6 else (),
    )


def transit_of(spec: LabSpec) -> Router:
    """The router between the sites."""
    uplinks = tuple(uplink_network(number) for number in range(spec.sites))
    return Router(TRANSIT, namespace_of(spec.name, TRANSIT), TRANSIT_ASN, (*OUTSIDE, *uplinks))


def namespace_of(lab: str, host: str) -> str:
    return f"{lab}-{host}"
