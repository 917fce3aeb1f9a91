"""The BIRD configuration (BIRD 2.0.8 or newer) by which an L4 node announces its VIPs.

What BIRD announces is what it finds on `lo`, and of that only VIPs of the snapshot: a VIP is withheld by taking its
address off `lo`, which withdraws it within milliseconds, without any word to BIRD.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from textwrap import dedent

from orchestrator.contract.snapshot import Bgp, BgpNeighbor

#: Seconds. The hold time is BIRD users' common short value; BFD notices a dead router long before.
HOLD_TIME_S = 9
#: Seconds until a lost session is tried again: BIRD's defaults of 5, 120 and 60 are made for full Internet tables.
CONNECT_DELAY_S = 1
CONNECT_RETRY_S = 2
ERROR_WAIT_S = (1, 5)
ERROR_FORGET_S = 30

#: Octets after which BIRD starts its log file anew, keeping one older.
LOG_LIMIT = 1024 * 1024


def bird_configuration(bgp: Bgp, networks: Collection[IPv4Network | IPv6Network], log_file: Path) -> str:
    """The text of `bird.conf`. A pure function: equal snapshots give equal text."""
    ipv4 = sorted({network for network in networks if isinstance(network, IPv4Network)})
    ipv6 = sorted({network for network in networks if isinstance(network, IPv6Network)})
    prefixes = {4: _prefix_set(ipv4), 6: _prefix_set(ipv6)}
    speaker = dedent(f"""\
        protocol bfd {{
          interface "*" {{ interval {bgp.bfd_interval_ms} ms; multiplier {bgp.bfd_multiplier}; }};
        }}

        protocol direct vips {{
          interface "lo";
          ipv4 {{ import {_where(prefixes[4])}; }};
          ipv6 {{ import {_where(prefixes[6])}; }};
        }}
        """)
    sessions = [
        _session(number, bgp.asn, neighbor, prefixes[neighbor.address.version])
        for number, neighbor in enumerate(bgp.neighbors, start=1)
    ]
    return "\n".join([_head(bgp.router_id, log_file), speaker, *sessions])


def silent_configuration(router_id: IPv4Address, log_file: Path) -> str:
    """For a node that speaks BGP no longer: a BIRD that still runs ends its sessions."""
    return _head(router_id, log_file)


def session_name(number: int) -> str:
    """Name of the BIRD protocol that speaks to the number-th neighbour, counted from 1."""
    return f"neighbor_{number}"


def _head(router_id: IPv4Address, log_file: Path) -> str:
    return dedent(f"""\
        # Written by edge-l4 balancer, and written anew with every snapshot that changes it.
        log "{log_file}" {LOG_LIMIT} "{log_file}.old" {{ info, remote, warning, error, auth, fatal, bug }};
        router id {router_id};

        protocol device {{
          scan time 10;
        }}
        """)


def _session(number: int, asn: int, neighbor: BgpNeighbor, prefixes: str) -> str:
    return dedent(f"""\
        protocol bgp {session_name(number)} {{
          local as {asn};
          neighbor {neighbor.address} as {neighbor.asn};
          direct;
          bfd on;
          hold time {HOLD_TIME_S};
          connect delay time {CONNECT_DELAY_S};
          connect retry time {CONNECT_RETRY_S};
          error wait time {ERROR_WAIT_S[0]}, {ERROR_WAIT_S[1]};
          error forget time {ERROR_FORGET_S};
          ipv{neighbor.address.version} {{
            import none;
            export {_where(prefixes, "source = RTS_DEVICE && ")};
            next hop self;
          }};
        }}
        """)


def _prefix_set(networks: list[IPv4Network] | list[IPv6Network]) -> str:
    """Matches these networks as they are: nothing within them."""
    return ", ".join(map(str, networks))


def _where(prefixes: str, condition: str = "") -> str:
    return f"where {condition}net ~ [ {prefixes} ]" if prefixes else "none"
