"""The lab's network: namespaces, a bridge for each segment, a veth pair for each host, addresses and routes.

    host namespace                          router namespace
    eth0 ═══════════ veth ═══════════ <host> ── br-<network> (.1, ::1) ── forwarding, ECMP by 5-tuple

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

from pyroute2 import IPRoute, netns

from orchestrator.lab.errors import LabError
from orchestrator.lab.processes import NAMESPACES
from orchestrator.lab.topology import HOST_INTERFACE, MTU, NETWORKS, Interface, LabHost, Network, Router, Topology

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


def build(topology: Topology, workspace: Path) -> None:
    """Makes the whole network; `workspace` takes what it compiles. Raises LabError, and leaves what it made."""
    for host in topology.everyone:
        netns.create(host.namespace)
        settings = ROUTER_SETTINGS if host is topology.router else HOST_SETTINGS
        run_in(host.namespace, ["sysctl", "--quiet", "--write", *settings])
    with IPRoute(netns=topology.router.namespace) as router:
        _raise_loopback(router)
        bridges = {network: _add_bridge(router, network, number) for number, network in enumerate(NETWORKS, start=1)}
        for host in topology.hosts:
            _add_link(router, host, bridges[host.network])
    for host in topology.hosts:
        _configure_host(host)
        _switch_offloads_off(host.namespace, HOST_INTERFACE)
        _switch_offloads_off(topology.router.namespace, host.name)
    attach_pass_program(topology.router.namespace, [h.name for h in topology.hosts if h.transmits_from_xdp], workspace)


def attach_pass_program(namespace: str, interfaces: Sequence[str], workspace: Path) -> None:
    """Gives veth ends a program that passes every frame: only with one do they take what their peer sends from XDP.

    The program is loaded once, through a bpffs that is gone afterwards. (`ip link set ... xdp obj` would load it for
    each interface, and leave a mount and directories on /sys/fs/bpf.) Raises LabError.
    """
    program, pins = workspace / "pass.o", workspace / "pins"
    with as_file(files("orchestrator.lab") / "pass.c") as source:
        run(["clang", "-O2", "-Wall", "-target", "bpf", "-c", str(source), "-o", str(program)])
    pins.mkdir()
    run(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", str(pins)])
    try:
        run(["bpftool", "prog", "load", str(program), str(pins / "pass"), "type", "xdp"])
        for interface in interfaces:
            run_in(namespace, ["ip", "link", "set", "dev", interface, "xdpdrv", "pinned", str(pins / "pass")])
    finally:
        run(["umount", str(pins)])


def remove(namespaces: Iterable[str]) -> int:
    """Removes namespaces, and with them all links in them. How many there were."""
    removed = 0
    for namespace in namespaces:
        if (NAMESPACES / namespace).exists():
            netns.remove(namespace)
            removed += 1
    return removed


def cut(router: Router, host: LabHost) -> None:
    """Takes a host's port off its bridge: both sides see their link up, and nothing comes through."""
    _set_bridge(router, host, connected=False)


def heal(router: Router, host: LabHost) -> None:
    """Puts it back; a port of a bridge without spanning tree forwards at once."""
    _set_bridge(router, host, connected=True)


def disconnected(topology: Topology) -> frozenset[str]:
    """Hosts whose port is on no bridge, or that have none."""
    names = frozenset(host.name for host in topology.hosts)
    if not (NAMESPACES / topology.router.namespace).exists():
        return names
    with IPRoute(netns=topology.router.namespace) as router:
        return names - {link.get("ifname") for link in router.get_links() if link.get("master")}


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
    ipr.link("set", index=_index(ipr, "lo"), state="up")


def _add_bridge(router: IPRoute, network: Network, number: int) -> int:
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
    index = _index(router, network.bridge)
    router.link("set", index=index, state="up")
    for gateway in network.gateways:
        _add_address(router, index, gateway)
    return index


def _add_link(router: IPRoute, host: LabHost, bridge: int) -> None:
    peer = {"ifname": HOST_INTERFACE, "net_ns_fd": host.namespace, "mtu": MTU}
    router.link("add", ifname=host.name, kind="veth", mtu=MTU, peer=peer)
    router.link("set", index=_index(router, host.name), state="up")
    _join_bridge(router, host, bridge)


def _join_bridge(router: IPRoute, host: LabHost, bridge: int) -> None:
    """Frames for a MAC address that the bridge does not know go nowhere: broadcast and multicast find a host.

    Flooded, the frames of a host that was cut off would reach its neighbours. An XDP program sees those too, whatever
    their MAC address: an L4 node would forward its dead twin's packets, and nothing would be lost by its death.
    """
    index = _index(router, host.name)
    router.link("set", index=index, master=bridge)
    router.brport("set", index=index, unicast_flood=0)


def _configure_host(host: LabHost) -> None:
    with IPRoute(netns=host.namespace) as ipr:
        _raise_loopback(ipr)
        index = _index(ipr, HOST_INTERFACE)
        ipr.link("set", index=index, state="up")
        for address in host.addresses:
            _add_address(ipr, index, address)
        for gateway in host.network.gateways:
            family = AF_INET if gateway.version == 4 else AF_INET6
            ipr.route("add", family=family, dst="default", gateway=str(gateway.ip), oif=index)


def _add_address(ipr: IPRoute, index: int, address: Interface) -> None:
    flags = {"flags": NODAD} if address.version == 6 else {}
    ipr.addr("add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **flags)


def _switch_offloads_off(namespace: str, interface: str) -> None:
    run_in(namespace, ["ethtool", "-K", interface, *(word for feature in OFFLOADS for word in (feature, "off"))])


def _set_bridge(router: Router, host: LabHost, *, connected: bool) -> None:
    with IPRoute(netns=router.namespace) as ipr:
        if connected:
            _join_bridge(ipr, host, _index(ipr, host.network.bridge))
        else:
            ipr.link("set", index=_index(ipr, host.name), master=0)


def _index(ipr: IPRoute, interface: str) -> int:
    found = ipr.link_lookup(ifname=interface)
    if not found:
        raise LabError(f"there is no interface {interface} in {ipr.status['netns']}")
    return int(found[0])
