"""The BIRD configuration (BIRD 2.0.8 or newer) by which an L4 node announces its VIPs.

What BIRD announces is what it finds on `lo`, and of that only VIPs of the snapshot: a VIP is withheld by taking its
address off `lo`, which withdraws it within milliseconds, without any word to BIRD.

How they are announced is said by the export filter of each session, whose name tells it: `normal_neighbor_1`,
`soft_neighbor_2`. BIRD shows these names, so that what it really runs with can be asked of it. It takes another filter
without ending the session: it sends the routes again with other attributes, or withdraws them.
"""

from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from textwrap import dedent, indent

from orchestrator.contract.node import Announcement
from orchestrator.contract.snapshot import Bgp, BgpNeighbor, Community

#: Seconds. The hold time is BIRD users' common short value; BFD notices a dead router long before.
HOLD_TIME_S = 9
#: Seconds until a lost session is tried again: BIRD's defaults of 5, 120 and 60 are made for full Internet tables.
CONNECT_DELAY_S = 1
CONNECT_RETRY_S = 2
ERROR_WAIT_S = (1, 5)
ERROR_FORGET_S = 30

#: Octets after which BIRD starts its log file anew, keeping one older.
LOG_LIMIT = 1024 * 1024

#: "This route is about to go" (RFC 8326 section 5): routers that know it take every other way first.
GRACEFUL_SHUTDOWN: Community = "65535:0"
#: What such routers do within their own AS, where neither MED nor the path's length can tell (RFC 8326 section 4.3).
SOFT_LOCAL_PREFERENCE = 0


def bird_configuration(
    bgp: Bgp,
    networks: Collection[IPv4Network | IPv6Network],
    log_file: Path,
    announcement: Announcement = Announcement.NORMAL,
) -> str:
    """The text of `bird.conf`. A pure function: equal snapshots give equal text. It may hold passwords."""
    prefixes = {
        4: _prefix_set(sorted({network for network in networks if isinstance(network, IPv4Network)})),
        6: _prefix_set(sorted({network for network in networks if isinstance(network, IPv6Network)})),
    }
    imports = "\n".join(f"  ipv{version} {{ import {_where(prefixes[version])}; }};" for version in prefixes)
    speaker = f'protocol direct vips {{\n  interface "lo";\n{imports}\n}}\n'
    sessions = [
        _session(number, bgp, neighbor, announcement, prefixes[neighbor.address.version])
        for number, neighbor in enumerate(bgp.neighbors, start=1)
    ]
    return "\n".join([_head(bgp.router_id, log_file), *_bfd(bgp), speaker, *sessions])


def silent_configuration(router_id: IPv4Address, log_file: Path) -> str:
    """For a node that speaks BGP no longer: a BIRD that still runs ends its sessions."""
    return _head(router_id, log_file)


def session_name(number: int) -> str:
    """Name of the BIRD protocol that speaks to the number-th neighbour, counted from 1."""
    return f"neighbor_{number}"


def announcement_of_filter(name: str) -> Announcement | None:
    """What an export filter of this name does; None if it is none of ours."""
    parts = name.split("_")
    return Announcement(parts[0]) if parts[0] in set(Announcement) and parts[1:2] == ["neighbor"] else None


def _head(router_id: IPv4Address, log_file: Path) -> str:
    return dedent(f"""\
        # Written by edge-l4 balancer, and written anew with every snapshot that changes it.
        log "{log_file}" {LOG_LIMIT} "{log_file}.old" {{ info, remote, warning, error, auth, fatal, bug }};
        router id {router_id};

        protocol device {{
          scan time 10;
        }}
        """)


def _bfd(bgp: Bgp) -> Iterator[str]:
    if bgp.bfd:
        yield dedent(f"""\
            protocol bfd {{
              interface "*" {{ interval {bgp.bfd_interval_ms} ms; multiplier {bgp.bfd_multiplier}; }};
            }}
            """)


def _session(number: int, bgp: Bgp, neighbor: BgpNeighbor, announcement: Announcement, prefixes: str) -> str:
    name = session_name(number)
    filter_name = f"{announcement}_{name}"
    password = f'\n  password "{neighbor.password}";' if neighbor.password is not None else ""
    return (
        f"filter {filter_name} {{\n{indent(_export(bgp, neighbor, announcement, prefixes), '  ')}}}\n"
        + f"""
protocol bgp {name} {{
  local as {bgp.asn};
  neighbor {neighbor.address} as {neighbor.asn};{password}
  direct;
  bfd {"on" if bgp.bfd else "off"};
  hold time {HOLD_TIME_S};
  connect delay time {CONNECT_DELAY_S};
  connect retry time {CONNECT_RETRY_S};
  error wait time {ERROR_WAIT_S[0]}, {ERROR_WAIT_S[1]};
  error forget time {ERROR_FORGET_S};
  ipv{neighbor.address.version} {{
    import none;
    export filter {filter_name};
    next hop self;
  }};
}}
"""
    )


def _export(bgp: Bgp, neighbor: BgpNeighbor, announcement: Announcement, prefixes: str) -> str:
    """The body of an export filter."""
    if announcement is Announcement.NONE or not prefixes:
        return "reject;\n"
    soft = announcement is Announcement.SOFT
    lines = [
        f"if source != RTS_DEVICE || net !~ [ {prefixes} ] then reject;",
        f"bgp_med = {bgp.soft_med if soft else bgp.med};",
        *map(_add, bgp.communities),
    ]
    if soft:
        lines.append(_add(GRACEFUL_SHUTDOWN))
        if neighbor.asn == bgp.asn:
            # To a router of its own AS, a path that names that AS would be a loop (RFC 4271 section 9.1.2).
            lines.append(f"bgp_local_pref = {SOFT_LOCAL_PREFERENCE};")
        else:
            lines.extend([f"bgp_path.prepend({bgp.asn});"] * bgp.soft_prepend)
    return "".join(f"{line}\n" for line in (*lines, "accept;"))


def _add(community: Community) -> str:
    parts = community.split(":")
    kind = "bgp_community" if len(parts) == 2 else "bgp_large_community"
    return f"{kind}.add(({', '.join(parts)}));"


def _prefix_set(networks: list[IPv4Network] | list[IPv6Network]) -> str:
    """Matches these networks as they are: nothing within them."""
    return ", ".join(map(str, networks))


def _where(prefixes: str) -> str:
    return f"where net ~ [ {prefixes} ]" if prefixes else "none"
