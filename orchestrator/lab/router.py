"""The router's BIRD: takes the VIPs from every L4 node, spreads flows over all that announce them."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Final

from pyroute2 import IPRoute

from orchestrator.lab.fabric import run
from orchestrator.lab.topology import FIRST_L4_ASN, L4_NODES, ROUTER_ASN, VIP_NETWORKS, Interface, LabHost, Topology

#: An L4 node that is gone without a word is noticed within three of these (RFC 5880), instead of a BGP hold time.
BFD_INTERVAL_MS: Final = 50
BFD_MULTIPLIER: Final = 3

#: Seconds. Short, because a lab's sessions come and go all the time: BIRD's own defaults are 240, 120, 5 and 60 to 300.
HOLD_TIME: Final = 9
CONNECT_RETRY_TIME: Final = 1
CONNECT_DELAY_TIME: Final = 1
ERROR_WAIT_TIME: Final = (1, 2)


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
    """In the foreground, so that it is a process like the others and ends with them."""
    return ["bird", "-f", "-c", str(directory / "bird.conf"), "-s", str(control_socket(directory))]


def bird_configuration(topology: Topology) -> str:
    """One session over IPv4 and one over IPv6 with each L4 node; multipath routes into the kernel."""
    prefixes_v4 = ", ".join(f"{net}{{32,32}}" for net in VIP_NETWORKS if isinstance(net, IPv4Network))
    prefixes_v6 = ", ".join(f"{net}{{128,128}}" for net in VIP_NETWORKS if not isinstance(net, IPv4Network))
    limit = len(topology.l4_nodes)
    head = f"""\
log stderr all;
router id {L4_NODES.gateways[0].ip};

protocol device {{ scan time 1; }}

protocol kernel kernel4 {{
  merge paths yes limit {limit};
  ipv4 {{ import none; export where source = RTS_BGP; }};
}}

protocol kernel kernel6 {{
  merge paths yes limit {limit};
  ipv6 {{ import none; export where source = RTS_BGP; }};
}}

protocol bfd {{
  interface "{L4_NODES.bridge}" {{ interval {BFD_INTERVAL_MS} ms; multiplier {BFD_MULTIPLIER}; }};
}}

template bgp l4_node {{
  bfd yes;
  hold time {HOLD_TIME};
  connect retry time {CONNECT_RETRY_TIME};
  connect delay time {CONNECT_DELAY_TIME};
  error wait time {ERROR_WAIT_TIME[0]}, {ERROR_WAIT_TIME[1]};
}}

filter vips_v4 {{ if net ~ [ {prefixes_v4} ] then accept; reject; }}
filter vips_v6 {{ if net ~ [ {prefixes_v6} ] then accept; reject; }}
"""
    return head + "".join(
        _session(node, local, remote, asn)
        for asn, node in enumerate(topology.l4_nodes, start=FIRST_L4_ASN)
        for local, remote in zip(L4_NODES.gateways, node.primary, strict=True)
    )


def sessions(directory: Path) -> tuple[Session, ...]:
    """The router's BGP sessions. Raises LabError if BIRD does not answer."""
    output = run(["birdc", "-s", str(control_socket(directory)), "show", "protocols"])
    rows = (line.split() for line in output.splitlines())
    return tuple(Session(row[0], row[5] if len(row) > 5 else "") for row in rows if len(row) > 1 and row[1] == "BGP")


def next_hops(namespace: str, vip: IPv4Address | IPv6Address) -> frozenset[str]:
    """Over whom the router's kernel forwards a VIP's packets now."""
    with IPRoute(netns=namespace) as ipr:
        found: set[str] = set()
        for route in ipr.route("dump", family=AF_INET if vip.version == 4 else AF_INET6):
            if route.get("dst") != str(vip):
                continue
            found.update(filter(None, (hop.get("gateway") for hop in (route, *(route.get("multipath") or ())))))
    return frozenset(found)


def _session(node: LabHost, local: Interface, remote: Interface, asn: int) -> str:
    version = local.version
    return f"""
protocol bgp {node.name.replace("-", "_")}_v{version} from l4_node {{
  local {local.ip} as {ROUTER_ASN};
  neighbor {remote.ip} as {asn};
  ipv{version} {{ import filter vips_v{version}; export none; }};
}}
"""
