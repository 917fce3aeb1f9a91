"""The lab's network: namespaces, a bridge for each segment, a veth pair for each host, addresses and routes.

    host namespace                          router namespace
    eth0 ═══════════ veth ═══════════ <host> ── br-<network> (.1, ::1) ── forwarding, ECMP by 5-tuple

A site's router is attached to the transit router in the same way, by its interface `uplink`.

What it takes beyond `ip link add`, and why:

- Offloads are off on both ends of each pair. A packet that XDP encapsulates leaves the stack's reach, so nobody would
  finish a checksum that was left to "hardware", or cut up a segment that was left to be cut.
- The router's end of a pair whose host transmits from XDP carries a program that passes everything. Without one, the
  driver has no ring on that side, and frames that are sent by XDP_TX are late or stuck.
- Bridges have a fixed MAC address. By default a bridge takes the lowest of its ports, so cutting one host off would
  change the gateway's address under all the others.
- No ICMP redirects: a second chance enters and leaves the router by one bridge, which it would comment on each time.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import Final

from pyroute2 import IPRoute, config, netns

from orchestrator.lab.errors import LabError
from orchestrator.lab.processes import NAMESPACES
from orchestrator.lab.topology import (
    HOST_INTERFACE,
    MTU,
    UPLINK_INTERFACE,
    Attached,
    Interface,
    LabHost,
    Network,
    Router,
    Topology,
)

#: pyroute2 enters a namespace in a forked child, and ends that by SIGTERM. Without this, the child still has our
#: handler for it, which may wait for ever for a lock that another thread held at the fork.
config.disable_mp_signal = True

#: A lab tool that takes longer hangs (each of them is done in milliseconds).
COMMAND_TIMEOUT_S = 30.0

#: IFA_F_NODAD (linux/if_addr.h): usable at once; duplicates cannot be in a lab that numbers its hosts itself.
NODAD: Final = 0x02

OFFLOADS: Final = ("rx", "tx", "tso", "gso", "gro")

#: Written before there are interfaces, so that `default` holds for each that comes.
HOST_SETTINGS: Final = tuple(
    f"net.{setting}"
    for scope in ("all", "default")
    for setting in (
        f"ipv4.conf.{scope}.rp_filter=0",  # replies leave by DSR, from addresses that no route leads back to
        f"ipv4.conf.{scope}.send_redirects=0",
        f"ipv4.conf.{scope}.accept_redirects=0",
        f"ipv6.conf.{scope}.accept_redirects=0",
        f"ipv6.conf.{scope}.accept_ra=0",
        f"ipv6.conf.{scope}.accept_dad=0",
    )
)

#: Forwarding comes first: switching it on resets the others to a router's defaults.
ROUTER_SETTINGS: Final = (
    "net.ipv4.ip_forward=1",
    "net.ipv6.conf.all.forwarding=1",
    "net.ipv4.fib_multipath_hash_policy=1",
    "net.ipv6.fib_multipath_hash_policy=1",
    *HOST_SETTINGS,
)


#: The kernel hashes flows alike on all routers, were it not for a seed: the flows that the transit router gives to a
#: site would all fall into the same half of the site's next hops, too.
TRANSIT_SETTINGS: Final = ("net.ipv4.fib_multipath_hash_seed=1",)


def build(topology: Topology, workspace: Path) -> None:
    """Makes the whole network; `workspace` takes what it compiles. Raises LabError, and leaves what it made."""
    for anyone in topology.everyone:
        netns.create(anyone.namespace)
        run_in(anyone.namespace, ["sysctl", "--quiet", "--write", *_settings(topology, anyone)])
    for router in topology.routers:
        with netlink(router.namespace) as ipr:
            _raise_loopback(ipr)
            for number, network in enumerate(router.networks, start=1):
                _add_bridge(ipr, network, number)
    for attached in topology.attached:
        router = topology.router_of(attached)
        interface = _interface(attached)
        with netlink(router.namespace) as ipr:
            _add_link(ipr, attached, interface)
        if isinstance(attached, LabHost):
            configure_host(attached)
        else:
            _configure_uplink(attached)
        _switch_offloads_off(attached.namespace, interface)
        _switch_offloads_off(router.namespace, attached.name)
    for router in topology.routers:
        ports = [host.name for host in topology.hosts if host.transmits_from_xdp and host.network in router.networks]
        if ports:
            attach_pass_program(router.namespace, ports, workspace)


def _settings(topology: Topology, anyone: Router | LabHost) -> tuple[str, ...]:
    if isinstance(anyone, LabHost):
        return HOST_SETTINGS
    return (*ROUTER_SETTINGS, *(TRANSIT_SETTINGS if anyone not in {site.router for site in topology.sites} else ()))


def _interface(attached: Attached) -> str:
    """Its own end of its link."""
    return HOST_INTERFACE if isinstance(attached, LabHost) else UPLINK_INTERFACE


def attach_pass_program(namespace: str, interfaces: Sequence[str], workspace: Path) -> None:
    """Gives veth ends a program that passes every frame: only with one do they take what their peer sends from XDP.

    The program is loaded once, through a bpffs that is gone afterwards. (`ip link set ... xdp obj` would load it for
    each interface, and leave a mount and directories on /sys/fs/bpf.) Raises LabError.
    """
    program, pins = workspace / "pass.o", workspace / "pins"
    with as_file(files("orchestrator.lab") / "pass.c") as source:
        run(["clang", "-O2", "-Wall", "-target", "bpf", "-c", str(source), "-o", str(program)])
    pins.mkdir(exist_ok=True)
    mount_bpffs(pins)
    try:
        run(["bpftool", "prog", "load", str(program), str(pins / "pass"), "type", "xdp"])
        for interface in interfaces:
            run_in(namespace, ["ip", "link", "set", "dev", interface, "xdpdrv", "pinned", str(pins / "pass")])
    finally:
        run(["umount", str(pins)])


def mount_bpffs(directory: Path) -> None:
    """A host's own: what its agents pin is seen by nobody else."""
    run(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(directory)])


def remove(namespaces: Iterable[str]) -> int:
    """Removes namespaces, and with them all links in them. How many there were."""
    removed = 0
    for namespace in namespaces:
        if (NAMESPACES / namespace).exists():
            netns.remove(namespace)
            removed += 1
    return removed


def cut(topology: Topology, attached: Attached) -> None:
    """Takes a port off its bridge: both sides see their link up, and nothing comes through."""
    with netlink(topology.router_of(attached).namespace) as ipr:
        ipr.link("set", index=index_of(ipr, attached.name), master=0)


def heal(topology: Topology, attached: Attached) -> None:
    """Puts it back; a port of a bridge without spanning tree forwards at once."""
    with netlink(topology.router_of(attached).namespace) as ipr:
        _join_bridge(ipr, attached)


def disconnected(topology: Topology) -> frozenset[str]:
    """Who has a port that is on no bridge or without carrier, or none at all."""
    cut_off = set()
    for router in topology.routers:
        names = {attached.name for attached in topology.attached if attached.network in router.networks}
        if (NAMESPACES / router.namespace).exists():
            with netlink(router.namespace) as ipr:
                names -= {link.get("ifname") for link in ipr.get_links() if link.get("master") and link.get("carrier")}
        cut_off |= names
    return frozenset(cut_off)


def netlink(namespace: str) -> IPRoute:
    """A netlink socket in a namespace, to be closed (a context manager)."""
    return IPRoute(netns=namespace)


def run_in(namespace: str, argv: Sequence[str]) -> str:
    """Runs a tool in a namespace and gives its output. Raises LabError with what it wrote if it fails."""
    return run(["nsenter", f"--net={NAMESPACES / namespace}", "--", *argv])


def run(argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Runs a tool and gives its output. `environment` adds to ours. Raises LabError with what it wrote if it fails."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed", hint="`make setup` installs what the lab needs") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(argv)} did not end within {COMMAND_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _raise_loopback(ipr: IPRoute) -> None:
    ipr.link("set", index=index_of(ipr, "lo"), state="up")


def _add_bridge(router: IPRoute, network: Network, number: int) -> None:
    """A segment's bridge, which is the gateway of all hosts on it. Its MAC address is fixed."""
    router.link(
        "add",
        ifname=network.bridge,
        kind="bridge",
        address=f"02:00:00:00:{number:02x}:01",
        mtu=MTU,
        br_stp_state=0,
        br_forward_delay=0,
        br_mcast_snooping=0,
    )
    index = index_of(router, network.bridge)
    router.link("set", index=index, state="up")
    for gateway in network.gateways:
        _add_address(router, index, gateway)


def _add_link(router: IPRoute, attached: Attached, interface: str) -> None:
    peer = {"ifname": interface, "net_ns_fd": attached.namespace, "mtu": MTU}
    router.link("add", ifname=attached.name, kind="veth", mtu=MTU, peer=peer)
    router.link("set", index=index_of(router, attached.name), state="up")
    _join_bridge(router, attached)


def _join_bridge(router: IPRoute, attached: Attached) -> None:
    """Frames for a MAC address that the bridge does not know go nowhere: broadcast and multicast find a host.

    Flooded, the frames of a host that was cut off would reach its neighbours. An XDP program sees those too, whatever
    their MAC address: an L4 node would forward its dead twin's packets, and nothing would be lost by its death.
    """
    if attached.network is None:
        raise LabError(f"{attached.name} is attached to nothing")
    index = index_of(router, attached.name)
    router.link("set", index=index, master=index_of(router, attached.network.bridge))
    router.brport("set", index=index, unicast_flood=0)


def _configure_uplink(router: Router) -> None:
    """Addresses; its routes come by BGP."""
    with netlink(router.namespace) as ipr:
        index = index_of(ipr, UPLINK_INTERFACE)
        ipr.link("set", index=index, state="up")
        for address in router.addresses:
            _add_address(ipr, index, address)


def configure_host(host: LabHost) -> None:
    """Links up, addresses, default routes; what is there already stays."""
    with netlink(host.namespace) as ipr:
        _raise_loopback(ipr)
        index = index_of(ipr, HOST_INTERFACE)
        ipr.link("set", index=index, state="up")
        for address in host.addresses:
            _add_address(ipr, index, address)
        for gateway in host.network.gateways:
            family = AF_INET if gateway.version == 4 else AF_INET6
            ipr.route("replace", family=family, dst="default", gateway=str(gateway.ip), oif=index)


def _add_address(ipr: IPRoute, index: int, address: Interface) -> None:
    flags = {"flags": NODAD} if address.version == 6 else {}
    ipr.addr("replace", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)


def _switch_offloads_off(namespace: str, interface: str) -> None:
    run_in(namespace, ["ethtool", "-K", interface, *(word for feature in OFFLOADS for word in (feature, "off"))])


def index_of(ipr: IPRoute, interface: str) -> int:
    """Of an interface, by its name. Raises LabError if there is none."""
    found = ipr.link_lookup(ifname=interface)
    if not found:
        raise LabError(f"there is no interface {interface} in {ipr.status['netns']}")
    return int(found[0])
