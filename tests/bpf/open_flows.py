"""Real TCP flows in every state that a redirector can meet, in this thread's network namespace.

The client of connected flows lives on this host; that of half-open ones does not exist, so that nobody answers.
"""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path

from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.bpf.packets import CLIENT_MAC, FLOWS, Ends, inner_packet

ETHERTYPE_ALL = 3
HALF_OPEN_CLIENTS = {"ipv4": "198.51.100.99", "ipv6": "2001:db8:51::99"}
NEAR, FAR = "near", "far"
NETWORKS = {"ipv4": "198.51.100.0/24", "ipv6": "2001:db8:51::/64"}


class FlowState(StrEnum):
    """What this host knows of a flow."""

    NOTHING = "nothing"
    LISTENER = "listener"
    ESTABLISHED = "established"
    TIME_WAIT = "time-wait"
    SYN_RECEIVED = "syn-received"
    COOKIE = "cookie"
    WRONG_COOKIE = "wrong-cookie"


@dataclass(frozen=True, slots=True)
class OpenFlow:
    """A flow, and its client's next packet."""

    ends: Ends
    packet: Packet


def add_addresses() -> None:
    """VIPs and clients on the loopback; the half-open flows' clients would be at the far end of a veth pair."""
    commands = [f"link add {NEAR} type veth peer name {FAR}", f"link set {NEAR} up", f"link set {FAR} up"]
    for family, ends in FLOWS.items():
        commands += [f"address add {address} dev lo" for address in (ends.vip, ends.client)]
        commands.append(f"route add {NETWORKS[family]} dev {NEAR}")
        commands.append(f"neighbor add {HALF_OPEN_CLIENTS[family]} lladdr {CLIENT_MAC} dev {NEAR}")
    for command in commands:
        subprocess.run(["ip", *command.split()], check=True)


@contextmanager
def flow_in(state: FlowState, family: str) -> Iterator[OpenFlow]:
    """A flow in this state."""
    with ExitStack() as stack:
        ends = FLOWS[family]
        if state is FlowState.NOTHING:
            yield OpenFlow(ends, inner_packet(ends, "A"))
            return
        kind = socket.AF_INET6 if ends.is_ipv6 else socket.AF_INET
        listener = stack.enter_context(socket.create_server((str(ends.vip), ends.vip_port), family=kind))
        match state:
            case FlowState.LISTENER:
                yield OpenFlow(ends, inner_packet(ends, "A"))
            case FlowState.ESTABLISHED | FlowState.TIME_WAIT:
                yield connected(stack, listener, ends, state)
            case FlowState.SYN_RECEIVED:
                _, yielded = half_open(ends, family, cookies=False)
                yield yielded
            case FlowState.COOKIE:
                _, yielded = half_open(ends, family, cookies=True)
                yield yielded
            case FlowState.WRONG_COOKIE:
                right, yielded = half_open(ends, family, cookies=True)
                yielded.packet[TCP].ack = (right + 0x01010101) % 2**32
                yield yielded


def connected(stack: ExitStack, listener: socket.socket, ends: Ends, state: FlowState) -> OpenFlow:
    """A handshake through the kernel; for TIME-WAIT, closed from the server's side first."""
    client = stack.enter_context(socket.socket(listener.family, socket.SOCK_STREAM))
    client.bind((str(ends.client), 0))
    client.connect((str(ends.vip), ends.vip_port))
    server, peer = listener.accept()
    stack.enter_context(server)
    if state is FlowState.TIME_WAIT:
        server.shutdown(socket.SHUT_WR)
        client.recv(1)
        client.close()
        server.recv(1)
        server.close()
    flow = replace(ends, client=ip_address(peer[0]), client_port=peer[1])
    return OpenFlow(flow, inner_packet(flow, "A"))


def half_open(ends: Ends, family: str, *, cookies: bool) -> tuple[int, OpenFlow]:
    """Sends a SYN from nowhere. Returns what its client would have to acknowledge, and that acknowledgement."""
    Path("/proc/sys/net/ipv4/tcp_syncookies").write_text("2" if cookies else "0", encoding="ascii")
    flow = replace(ends, client=ip_address(HALF_OPEN_CLIENTS[family]))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL)) as wire:
        wire.bind((FAR, 0))
        wire.settimeout(5)
        wire.send(bytes(Ether(src=CLIENT_MAC, dst=mac_of(NEAR)) / inner_packet(flow, "S")))
        while True:
            seen = Ether(wire.recv(2048))
            if TCP in seen and seen[TCP].flags == "SA" and seen[TCP].dport == flow.client_port:
                break
    packet = inner_packet(flow, "A")
    packet[TCP].seq, packet[TCP].ack = 2, seen[TCP].seq + 1
    return seen[TCP].seq + 1, OpenFlow(flow, packet)


def mac_of(interface: str) -> str:
    """By system call: /sys shows the network namespace that it was mounted in."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind((interface, 0))
        octets: bytes = wire.getsockname()[4]
    return octets.hex(":")
