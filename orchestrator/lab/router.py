"""BIRD on the lab's routers: takes the VIPs from every L4 node, spreads flows over all that announce them.

The transit router of a lab with sites takes them from both sites' routers, and spreads, too: each site has clients, and
when one of them is cut off or drained, all come to the other.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Final

from orchestrator.lab.fabric import netlink, run
from orchestrator.lab.topology import (
    FIRST_L4_ASN,
    UPLINK_INTERFACE,
    VIP_NETWORKS,
    Attached,
    Interface,
    LabHost,
    Router,
    Topology,
)

#: An L4 node that is gone without a word is noticed within three of these (RFC 5880), instead of a BGP hold time.
BFD_INTERVAL_MS: Final = 50
BFD_MULTIPLIER: Final = 3

#: Seconds. Short, because a lab's sessions come and go all the time: BIRD's own defaults are 240, 120, 5 and 60 to 300.
HOLD_TIME: Final = 9
CONNECT_RETRY_TIME: Final = 1
CONNECT_DELAY_TIME: Final = 1
ERROR_WAIT_TIME: Final = (1, 2)

#: A session of each, with every neighbour.
FAMILIES: Final = (4, 6)


@dataclass(frozen=True, slots=True)
class Session:
    """A BGP session as the router sees it."""

    name: str
    state: str

    @property
    def established(self) -> bool:
        return self.state == "Established"


def control_socket(directory: Path) -> Path:
    return directory / "bird.ctl"


def bird_command(directory: Path) -> list[str]:
    """In the foreground, so that it is a process like the others and ends with them; and before all of them, as on a
    router: BFD's 150 ms would be over while a busy machine's others have their turns.
    """
    return [
        "chrt",
        "--rr",
        "10",
        "bird",
        "-f",
        "-c",
        str(directory / "bird.conf"),
        "-s",
        str(control_socket(directory)),
    ]


def bird_configuration(topology: Topology, router: Router) -> str:
    """A router's sessions over IPv4 and over IPv6, and multipath routes into the kernel."""
    prefixes_v4 = ", ".join(f"{net}{{32,32}}" for net in VIP_NETWORKS if isinstance(net, IPv4Network))
    prefixes_v6 = ", ".join(f"{net}{{128,128}}" for net in VIP_NETWORKS if not isinstance(net, IPv4Network))
    peers = peers_of(topology, router)
    limit = max(1, len(peers) // len(FAMILIES))
    interfaces = "\n".join(
        f'  interface "{name}" {{ interval {BFD_INTERVAL_MS} ms; multiplier {BFD_MULTIPLIER}; }};'
        for name in dict.fromkeys(peer.interface for peer in peers)
    )
    head = f"""\
log stderr all;
router id {router_id(router)};

protocol device {{ scan time 1; }}

protocol kernel kernel4 {{
  merge paths yes limit {limit};
  ipv4 {{ import none; export where source = RTS_BGP; }};
}}

protocol kernel kernel6 {{
  merge paths yes limit {limit};
  ipv6 {{ import none; export where source = RTS_BGP; }};
}}
{_own_networks(topology, router) if len(topology.routers) > 1 else ""}
protocol bfd {{
{interfaces}
}}

template bgp announcer {{
  bfd yes;
  hold time {HOLD_TIME};
  connect retry time {CONNECT_RETRY_TIME};
  connect delay time {CONNECT_DELAY_TIME};
  error wait time {ERROR_WAIT_TIME[0]}, {ERROR_WAIT_TIME[1]};
}}

function is_vip() {{
  case net.type {{
    NET_IP4: return net ~ [ {prefixes_v4} ];
    NET_IP6: return net ~ [ {prefixes_v6} ];
    else: return false;
  }}
}}

# Graceful shutdown (RFC 8326): a way that is a last resort.
filter vips {{
  if !is_vip() then reject;
  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
  accept;
}}

filter vips_and_networks {{
  if (65535, 0) ~ bgp_community then bgp_local_pref = 0;
  accept;
}}
"""
    return head + "".join(_session(router, peer) for peer in peers)


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of one session."""

    session: str
    interface: str
    local: Interface
    remote: Interface
    asn: int
    takes: str
    """What is taken from it, as BIRD's `import` says it."""
    gives: str
    """The same of `export`."""


def peers_of(topology: Topology, router: Router) -> tuple[Peer, ...]:
    """A site's router takes VIPs from its L4 nodes, and gives them to the transit router with its own networks. From
    there it takes the way to all other networks, but no VIPs: what came to the site stays there.
    """
    asns = {node: asn for asn, node in enumerate(topology.l4_nodes, start=FIRST_L4_ASN)}
    peers = [
        Peer(session_name(node, local.version), node.network.bridge, local, remote, asn, "filter vips", "none")
        for node, asn in asns.items()
        if node.network in router.networks
        for local, remote in zip(node.network.gateways, node.primary, strict=True)
    ]
    if router.network is not None:
        transit = topology.router_of(router)
        peers += [
            Peer(f"transit_v{local.version}", UPLINK_INTERFACE, local, remote, transit.asn, "where !is_vip()", "all")
            for local, remote in zip(router.addresses, router.network.gateways, strict=True)
        ]
    for below in topology.routers:
        if below.network is not None and below.network in router.networks:
            peers += [
                Peer(
                    session_name(below, local.version),
                    below.network.bridge,
                    local,
                    remote,
                    below.asn,
                    "filter vips_and_networks",
                    "where !is_vip()",
                )
                for local, remote in zip(below.network.gateways, below.addresses, strict=True)
            ]
    return tuple(peers)


def router_id(router: Router) -> IPv4Address:
    """An address of its own, and none of another router's."""
    return next((network.v4[1] for network in router.networks if network.name == "l4"), router.networks[0].v4[1])


def _own_networks(topology: Topology, router: Router) -> str:
    """Those that others need a way to. Not the uplinks: who is on one would learn a better way to it by the other end,
    and then lose that other end (the kernel prefers BIRD's metric).
    """
    uplinks = {below.network for below in topology.routers}
    names = ", ".join(f'"{network.bridge}"' for network in router.networks if network not in uplinks)
    return f"""
protocol direct {{
  interface {names};
  ipv4;
  ipv6;
}}
"""


def sessions(directory: Path) -> tuple[Session, ...]:
    """The router's BGP sessions. Raises LabError if BIRD does not answer."""
    output = run(["birdc", "-s", str(control_socket(directory)), "show", "protocols"])
    rows = (line.split() for line in output.splitlines())
    return tuple(Session(row[0], row[5] if len(row) > 5 else "") for row in rows if len(row) > 1 and row[1] == "BGP")


def restart_sessions(directory: Path, node: LabHost) -> None:
    """Closes the sessions with a node and opens them again. Raises LabError."""
    for interface in node.primary:
        run(["birdc", "-s", str(control_socket(directory)), "restart", session_name(node, interface.version)])


def next_hops(namespace: str, vip: IPv4Address | IPv6Address) -> frozenset[str]:
    """Over whom the router's kernel forwards a VIP's packets now."""
    with netlink(namespace) as ipr:
        found: set[str] = set()
        for route in ipr.route("dump", family=AF_INET if vip.version == 4 else AF_INET6):
            if route.get("dst") != str(vip):
                continue
            found.update(filter(None, (hop.get("gateway") for hop in (route, *(route.get("multipath") or ())))))
    return frozenset(found)


def session_name(peer: Attached, version: int) -> str:
    return f"{peer.name.replace('-', '_')}_v{version}"


def _session(router: Router, peer: Peer) -> str:
    version = peer.local.version
    return f"""
protocol bgp {peer.session} from announcer {{
  local {peer.local.ip} as {router.asn};
  neighbor {peer.remote.ip} as {peer.asn};
  ipv{version} {{ import {peer.takes}; export {peer.gives}; next hop self; }};
}}
"""
