"""A cable between a client and a node: frames go in at one end, and what the node's program sends comes back."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from tests.bpf.packets import FLOWS, framed, host_vip, inner_packet, node_settings

CLIENT, NODE = "client0", "node0"

_ETHERTYPE_ALL = 3
_SO_RCVBUFFORCE = 33  # socket(7); Python has no name for it
_BURST = 16  # the receive ring of a veth end holds 256 frames


@contextmanager
def wire(interface: str) -> Iterator[socket.socket]:
    """Sends and receives frames on an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE_ALL)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 256 << 20)
        opened.bind((interface, 0))
        opened.settimeout(5)
        yield opened


def feed(program: BalancerProgram, owner: int = 1) -> None:
    """The test flows' VIPs, two members, and a table of which one owns all rows."""
    program.set_settings(node_settings(program.rows, node_id=1))
    program.set_members([MemberEntry(n, IPv4Address("198.18.2.0") + n, live=True) for n in (1, 2)])
    program.swap_table(0, (owner.to_bytes(2, "little") + bytes(6)) * program.rows)
    program.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, flow_table=False) for ends in FLOWS.values()])


def numbers_returned(receiver: socket.socket, wanted: int, idle_s: float = 2.0) -> list[int]:
    """Sequence numbers (of TCP) of the packets that came back in the tunnel, until `wanted` did or none came for a
    while."""
    receiver.settimeout(idle_s)
    numbers: list[int] = []
    try:
        while len(numbers) < wanted:
            frame = receiver.recv(2048)
            if frame[12:14] == b"\x08\x00" and frame[36:38] == b"\x17\xc0":
                numbers.append(int.from_bytes(frame[58 + 24 : 58 + 28], "big"))
    except TimeoutError:
        pass
    return numbers


def lost_during(work: Callable[[], None]) -> tuple[int, int]:
    """Sends an established flow's numbered packets while `work` is done. Returns how many were sent and how many of
    them did not come back, or not once."""
    frame = framed(inner_packet(FLOWS["ipv4"], "A"))
    enough = threading.Event()
    sent = 0

    def send(client: socket.socket) -> None:
        nonlocal sent
        while not enough.wait(0.002):
            for _ in range(_BURST):
                client.send(frame[:38] + sent.to_bytes(4, "big") + frame[42:])
                sent += 1

    returned: list[int] = []

    def receive(receiver: socket.socket) -> None:
        # Meanwhile, because no receive buffer would hold what comes back in a minute.
        while not enough.is_set():
            returned.extend(numbers_returned(receiver, _BURST, idle_s=0.5))

    with wire(CLIENT) as receiver, wire(CLIENT) as sender:
        threads = [threading.Thread(target=send, args=(sender,)), threading.Thread(target=receive, args=(receiver,))]
        for thread in threads:
            thread.start()
        try:
            work()
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        returned += numbers_returned(receiver, sent - len(returned))
    return sent, sent - len(returned) if len(set(returned)) == len(returned) else sent
