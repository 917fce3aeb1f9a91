"""A small edge for kernel tests: a client, a router, one L4 node and two proxies, each in a network namespace.

The agents are the real command lines, on snapshots written by hand, and with an orchestrator that is not there.
"""

import contextlib
import datetime
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pyroute2 import netns

from l4.bpf_map import Map
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.pool import (
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)
from orchestrator.contract.snapshot import BalancerSnapshot, Bgp, BgpNeighbor, RedirectorSnapshot, Snapshot
from orchestrator.contract.state_directory import Enrolment, StateDirectory
from orchestrator.contract.vip import Vip, VipMode
from orchestrator.lab.fabric import attach_pass_program

T = TypeVar("T")

ROOT: Final = Path(__file__).parent.parent.parent
PREFIX: Final = f"l4-agent-{os.getpid()}"
ROUTER: Final = "router"
SLOT: Final = 3
#: Each host's own networks behind the router: the host is 11, the router 1.
NETWORKS: Final = {
    "client": ("198.51.100", "2001:db8:51:"),
    "l4": ("198.18.1", "2001:db8:18:1:"),
    "proxy-1": ("198.18.2", "2001:db8:18:2:"),
    "proxy-2": ("198.18.3", "2001:db8:18:3:"),
}
PROXIES: Final = {1: "proxy-1", 2: "proxy-2"}
VIPS: Final = (
    Vip(name="web-v4", id=1, address=ip_address("203.0.113.10"), port=443, mode=VipMode.TERMINATE, pool="edge"),
    Vip(name="web-v6", id=2, address=ip_address("2001:db8:203::10"), port=443, mode=VipMode.TERMINATE, pool="edge"),
)
SETTINGS: Final = ForwardingSettings(hash_key="00112233445566778899aabbccddeeff", rows=4099)

ROUTER_BIRD = """
log "{directory}/router.log" all;
router id 198.18.1.1;
protocol device {{ scan time 1; }}
protocol kernel kernel4 {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel kernel6 {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "*" {{ interval 50 ms; multiplier 3; }}; }}
protocol bgp l4_v4 {{
  local 198.18.1.1 as 64600; neighbor 198.18.1.11 as 64601; bfd on; connect delay time 1; connect retry time 1;
  error wait time 1, 2; ipv4 {{ import all; export none; }};
}}
protocol bgp l4_v6 {{
  local 2001:db8:18:1::1 as 64600; neighbor 2001:db8:18:1::11 as 64601; bfd on; connect delay time 1;
  connect retry time 1; error wait time 1, 2; ipv6 {{ import all; export none; }};
}}
"""


def run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert finished.returncode == 0, f"{' '.join(command)}: {finished.stderr}{finished.stdout}"
    return finished.stdout


def address_of(host: str) -> IPv4Address:
    return IPv4Address(f"{NETWORKS[host][0]}.11")


def pool(*memberships: tuple[int, set[int]], unreachable: tuple[int, ...] = ()) -> PoolForwarding:
    """Pool "edge" with these live generations, newest first, as (number, ids of members)."""
    return PoolForwarding(
        name="edge",
        slot=SLOT,
        members=tuple(
            Member(
                id=number,
                name=name,
                address=address_of(name),
                state=MemberState.ACTIVE,
                reachable=number not in unreachable,
            )
            for number, name in PROXIES.items()
        ),
        generations=tuple(
            Generation(number=number, members=tuple(GenerationMember(id=m, weight=1) for m in sorted(members)))
            for number, members in memberships
        ),
    )


#: Both proxies active; the second one draining; the same with its generation retired.
ACTIVE: Final = pool((1, {1, 2}))
DRAINING: Final = pool((2, {1}), (1, {1, 2}))
DRAINED: Final = pool((2, {1}))


def eventually(look: Callable[[], T], what: str, within_s: float = 60.0) -> T:
    """The first true answer. These tests wait for other processes, which no clock of theirs can step."""
    deadline = time.monotonic() + within_s
    while not (answer := look()):
        assert time.monotonic() < deadline, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.02)
    return answer


class Edge:
    """The namespaces, and what runs in them. Everything is taken down by `close`, in reverse."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self._stack = ExitStack()
        self._threads: dict[str, ThreadPoolExecutor] = {}
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for host in [*self.agents]:
            self.stop_agent(host)
        self._stack.close()

    @property
    def program(self) -> Path:
        return Path(sys.executable).parent / "edge-l4"

    def namespace(self, host: str) -> str:
        return f"{PREFIX}-{host}"

    def inside(self, host: str, function: Callable[..., T], *arguments: Any) -> T:
        """Runs a function in a thread that lives in the host's namespace."""
        return self._threads[host].submit(function, *arguments).result()

    def execute(self, host: str, *command: str) -> str:
        return run("ip", "netns", "exec", self.namespace(host), *command)

    def start_agent(
        self, host: str, role: AgentRole, snapshot: Snapshot | None = None, awaited: str = "in service on eth0"
    ) -> None:
        """Starts the agent on a snapshot, on the last one if none is given, and waits for a word in its log."""
        directory = self.directory / host
        state = StateDirectory(directory / "state")
        if not state.is_joined():
            enrol(state, AgentIdentity(node=host, role=role))
        if snapshot is not None:
            state.save_snapshot(snapshot)
            self.snapshots[host] = snapshot
        log = directory / "agent.log"
        command = [
            *("ip", "netns", "exec", self.namespace(host), str(self.program), role, "run"),
            *("--state", str(state.path), "--interface", "eth0", "--bpffs", str(directory / "bpf")),
            *("--metrics", "127.0.0.1:9101"),
            *(("--bird-dir", str(directory / "bird")) if role is AgentRole.BALANCER else ()),
        ]
        with log.open("wb") as sink:
            self.agents[host] = subprocess.Popen(command, stderr=sink)

        def has_said_it() -> bool:
            assert self.agents[host].poll() is None, f"agent of {host} ended: {log.read_text()}"
            return awaited in log.read_text()

        eventually(has_said_it, f"agent of {host} says {awaited!r}")

    def stop_agent(self, host: str) -> int:
        agent = self.agents.pop(host)
        agent.terminate()
        return agent.wait(10)

    def log_of(self, host: str) -> str:
        return (self.directory / host / "agent.log").read_text()

    def table_identity(self) -> tuple[str, int]:
        """Digest of the balancer's table, and the kernel's id of the map that holds it."""
        (pin,) = (self.directory / "l4" / "bpf" / "edgefleet" / "balancer").glob("tables-*")
        with Map.pinned(pin) as tables:
            found = tables.lookup(struct.pack("=I", SLOT))
        assert found is not None
        (map_id,) = struct.unpack("=I", found)
        with Map.by_id(map_id) as table:
            return hashlib.sha256(table.read_array()).hexdigest(), map_id

    def metrics(self, host: str) -> dict[str, float]:
        """The agent's metrics, by family and labels as they are written."""

        def scrape() -> bytes:
            with socket.create_connection(("127.0.0.1", 9101), timeout=5) as connection:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n")
                return b"".join(iter(lambda: connection.recv(65536), b""))

        head, body = self.inside(host, scrape).decode().split("\r\n\r\n", 1)
        assert head.startswith("HTTP/1.1 200 OK")
        lines = (line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def routes_to_vips(self) -> set[str]:
        """VIPs that the router has a route to."""
        told = run("ip", "-n", self.namespace(ROUTER), "route") + run("ip", "-6", "-n", self.namespace(ROUTER), "route")
        return {vip.name for vip in VIPS if f"{vip.address} " in told}

    def open_flow(self, vip: Vip) -> tuple[socket.socket, str]:
        """A connection from the client, and the name of the proxy that answered."""

        def connect() -> tuple[socket.socket, str]:
            flow = socket.create_connection((str(vip.address), vip.port), timeout=5)
            return flow, flow.recv(64).decode()

        return self.inside("client", connect)

    def _build(self) -> None:
        for host in (ROUTER, *NETWORKS):
            (self.directory / host).mkdir()
            netns.create(self.namespace(host))
            self._stack.callback(netns.remove, self.namespace(host))
            thread = ThreadPoolExecutor(4, initializer=netns.setns, initargs=(self.namespace(host),))
            self._threads[host] = thread
            self._stack.callback(thread.shutdown)
            run("ip", "-n", self.namespace(host), "link", "set", "lo", "up")
        for setting in ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"):
            self.execute(ROUTER, "sysctl", "-qw", setting)
        for host in NETWORKS:
            self._wire(host)
        attach_pass_program(self.namespace(ROUTER), list(NETWORKS), self.directory)
        for host in ("l4", *PROXIES.values()):
            mount_point = self.directory / host / "bpf"
            mount_point.mkdir()
            run("mount", "-t", "bpf", "bpf", str(mount_point))
            self._stack.callback(run, "umount", str(mount_point))
        for name in PROXIES.values():
            self._serve(name)
        self._start_router_bird()

    def _wire(self, host: str) -> None:
        """Host and router face each other on a veth pair."""
        here, there = self.namespace(host), self.namespace(ROUTER)
        run("ip", "-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", there)
        for owner, device, last in ((here, "eth0", 11), (there, host, 1)):
            for network, length in zip(NETWORKS[host], ("24", "64"), strict=True):
                separator = ":" if ":" in network else "."
                address = f"{network}{separator}{last}/{length}"
                run(
                    "ip", "-n", owner, "address", "add", address, "dev", device, *(("nodad",) if ":" in network else ())
                )
            run("ip", "netns", "exec", owner, "ethtool", "-K", device, "rx", "off", "tx", "off")
            run("ip", "-n", owner, "link", "set", device, "up")
        run("ip", "-n", here, "route", "add", "default", "via", f"{NETWORKS[host][0]}.1")
        run("ip", "-n", here, "route", "add", "default", "via", f"{NETWORKS[host][1]}:1")

    def _serve(self, proxy: str) -> None:
        """A server on the VIP port that says its host's name and then sends back what it is sent."""

        def listen() -> socket.socket:
            return socket.create_server(("::", 443), family=socket.AF_INET6, dualstack_ipv6=True)

        listener = self.inside(proxy, listen)

        def echo(flow: socket.socket) -> None:
            with flow, contextlib.suppress(OSError):
                flow.sendall(proxy.encode())
                while chunk := flow.recv(65536):
                    flow.sendall(chunk)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        self._stack.callback(listener.close)
        self._stack.callback(listener.shutdown, socket.SHUT_RDWR)

    def _start_router_bird(self) -> None:
        directory = self.directory / ROUTER
        (directory / "bird.conf").write_text(ROUTER_BIRD.format(directory=directory))
        command = ("bird", "-f", "-c", str(directory / "bird.conf"), "-s", str(directory / "bird.ctl"))
        bird = subprocess.Popen(["ip", "netns", "exec", self.namespace(ROUTER), *command])
        self._stack.callback(bird.wait)
        self._stack.callback(bird.terminate)
        self._stack.callback(self.end_bird_of_l4)

    def end_bird_of_l4(self) -> None:
        """The agent leaves it running, on purpose."""
        pid_file = self.directory / "l4" / "bird" / "bird.pid"
        if pid_file.exists():
            os.kill(int(pid_file.read_text()), 15)


def balancer_snapshot(version: int, edge_pool: PoolForwarding) -> BalancerSnapshot:
    neighbors = (BgpNeighbor(address=ip_address(a), asn=64600) for a in ("198.18.1.1", "2001:db8:18:1::1"))
    return BalancerSnapshot(
        version=version,
        node="l4",
        node_id=7,
        address=address_of("l4"),
        forwarding=SETTINGS,
        vips=VIPS,
        pools=(edge_pool,),
        bgp=Bgp(asn=64601, router_id=address_of("l4"), neighbors=tuple(neighbors)),
    )


def redirector_snapshot(version: int, member_id: int, edge_pool: PoolForwarding) -> RedirectorSnapshot:
    return RedirectorSnapshot(
        version=version,
        node=PROXIES[member_id],
        member_id=member_id,
        address=address_of(PROXIES[member_id]),
        forwarding=SETTINGS,
        vips=VIPS,
        pools=(edge_pool,),
        tunnel_sources=tuple(address_of(host) for host in ("l4", *PROXIES.values())),
        l4_nodes={7: "l4"},
    )


def enrol(state: StateDirectory, identity: AgentIdentity) -> None:
    """An identity whose orchestrator is gone for ever."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(identity))])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    enrolment = Enrolment(identity=identity, endpoints=("https://127.0.0.1:7443",))
    state.save_enrolment(enrolment, ca_pem=pem, certificate_pem=pem, key_pem=key_pem)
