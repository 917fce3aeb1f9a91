"""Programs on real interfaces: a veth pair between a client and a node, with traffic through the kernel."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from l4 import attachment
from l4.attachment import XdpMode
from l4.balancer_program import BalancerProgram
from l4.entries import MemberEntry
from l4.headers import kernel_headers
from l4.ingress import IngressMap
from l4.program_error import ProgramError
from l4.redirector_program import RedirectorProgram
from tests.bpf.packets import (
    CLIENT_MAC,
    FLOWS,
    NODE_ADDRESS,
    framed,
    host_vip,
    inner_packet,
    node_settings,
    tunnelled,
)

pytestmark = pytest.mark.kernel

CLIENT, NODE = "client0", "node0"
NODE_MAC = "02:00:00:00:00:02"
ETHERTYPE_ALL = 3
SO_RCVBUFFORCE = 33  # socket(7); Python has no name for it
PASS_EVERYTHING = b"int edge_test_pass(struct xdp_md *ctx) { return XDP_PASS; }"
BURST = 16  # the receive ring of a veth end holds 256 frames


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


@pytest.fixture
def pair(network_namespace: None) -> Iterator[None]:
    """Two ends of one cable; the client's has the XDP program that a veth end facing XDP_TX needs."""
    from bcc import BPF

    ip(f"link add {CLIENT} address {CLIENT_MAC} type veth peer name {NODE} address {NODE_MAC}")
    for end in (CLIENT, NODE):
        subprocess.run(["ethtool", "-K", end, "tx", "off", "rx", "off"], check=True, stdout=subprocess.DEVNULL)
        ip(f"link set {end} up")
    with kernel_headers():
        passing = BPF(text=PASS_EVERYTHING)
    attachment.attach(CLIENT, passing.load_func(b"edge_test_pass", BPF.XDP).fd, "edge_test_pass", XdpMode.NATIVE)
    yield
    ip(f"link del {CLIENT}")
    passing.cleanup()


@contextmanager
def wire(interface: str) -> Iterator[socket.socket]:
    """Sends and receives frames on an interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE_ALL)) as opened:
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 256 << 20)
        opened.bind((interface, 0))
        opened.settimeout(5)
        yield opened


def feed(program: BalancerProgram, owner: int = 1) -> None:
    program.set_settings(node_settings(program.rows, node_id=1))
    program.set_members([MemberEntry(n, IPv4Address("198.18.2.0") + n, live=True) for n in (1, 2)])
    program.swap_table(0, (owner.to_bytes(2, "little") + bytes(6)) * program.rows)
    program.set_vips([host_vip(ends.vip, ends.vip_port, 1, 0, flow_table=False) for ends in FLOWS.values()])


def count_returned(receiver: socket.socket, wanted: int, idle_s: float = 2.0) -> int:
    """How many tunnel packets came back, until all did or none came for a while."""
    receiver.settimeout(idle_s)
    returned = 0
    try:
        while returned < wanted:
            frame = receiver.recv(2048)
            returned += frame[12:14] == b"\x08\x00" and frame[36:38] == b"\x17\xc0"
    except TimeoutError:
        pass
    return returned


@pytest.mark.parametrize("mode", [XdpMode.NATIVE, XdpMode.GENERIC, XdpMode.AUTO])
def test_attached_balancer_returns_packets_in_the_tunnel(pair: None, balancer: BalancerProgram, mode: XdpMode) -> None:
    feed(balancer)
    assert balancer.attach(NODE, mode) == ("native" if mode is XdpMode.AUTO else mode)
    attached = attachment.attached_program(NODE)
    assert attached is not None
    assert (attached.name, attached.mode) == ("edge_balancer", mode if mode is not XdpMode.AUTO else XdpMode.NATIVE)
    with wire(CLIENT) as client:
        for _ in range(10):
            client.send(framed(inner_packet(FLOWS["ipv4"], "A")))
        assert count_returned(client, 10) == 10
    assert BalancerProgram.detach(NODE)
    assert not BalancerProgram.detach(NODE)
    assert attachment.attached_program(NODE) is None


def test_program_replaced_and_table_swapped_under_traffic_lose_nothing(
    pair: None, bpffs: Path, balancer: BalancerProgram
) -> None:
    feed(balancer)
    balancer.attach(NODE, XdpMode.NATIVE)
    frame = framed(inner_packet(FLOWS["ipv4"], "A"))
    enough = threading.Event()
    sent: list[int] = []

    def send(client: socket.socket) -> None:
        packets = 0
        while not enough.wait(0.002):
            for _ in range(BURST):
                client.send(frame)
            packets += BURST
        sent.append(packets)

    with wire(CLIENT) as receiver, wire(CLIENT) as sender:
        sending = threading.Thread(target=send, args=(sender,))
        sending.start()
        try:
            for _ in range(3):
                program = BalancerProgram(bpffs, rows=balancer.rows)
                program.attach(NODE, XdpMode.AUTO)
                for owner in (1, 2) * 5:
                    program.swap_table(0, (owner.to_bytes(2, "little") + bytes(6)) * program.rows)
                    program.set_settings(node_settings(program.rows, node_id=owner))
        finally:
            enough.set()
            sending.join()
        assert sent[0] > 1000
        assert count_returned(receiver, sent[0]) == sent[0]
    BalancerProgram.detach(NODE)


def test_program_stays_when_its_loader_exits(pair: None, bpffs: Path, balancer: BalancerProgram) -> None:
    feed(balancer)
    if (child := os.fork()) == 0:
        BalancerProgram(bpffs, rows=balancer.rows).attach(NODE, XdpMode.NATIVE)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with wire(CLIENT) as client:
        client.send(framed(inner_packet(FLOWS["ipv4"], "A")))
        assert count_returned(client, 1) == 1
    BalancerProgram.detach(NODE)


def test_foreign_program_is_neither_replaced_nor_taken_off(pair: None, balancer: BalancerProgram) -> None:
    with pytest.raises(ProgramError, match=r"already runs the XDP program 'edge_test_pass', which is not ours"):
        balancer.attach(CLIENT, XdpMode.AUTO)
    with pytest.raises(ProgramError, match="left as it is"):
        BalancerProgram.detach(CLIENT)


def test_mode_can_be_changed_by_asking_for_it(pair: None, balancer: BalancerProgram) -> None:
    assert balancer.attach(NODE, XdpMode.GENERIC) == "generic"
    assert balancer.attach(NODE, XdpMode.AUTO) == "generic"
    assert balancer.attach(NODE, XdpMode.NATIVE) == "native"
    BalancerProgram.detach(NODE)


def test_driver_without_xdp_gets_generic_by_auto_and_a_hint_by_native(
    network_namespace: None, balancer: BalancerProgram
) -> None:
    assert balancer.attach("lo", XdpMode.AUTO) == "generic"
    BalancerProgram.detach("lo")
    with pytest.raises(ProgramError, match=r"cannot attach to lo: .*try --xdp-mode generic"):
        balancer.attach("lo", XdpMode.NATIVE)


def test_interface_that_is_not_there_is_named(balancer: BalancerProgram) -> None:
    with pytest.raises(ProgramError, match="there is no interface 'nosuch0'"):
        balancer.attach("nosuch0", XdpMode.AUTO)


def test_flow_through_the_tunnel_is_accepted_by_a_real_socket(
    pair: None, bpffs: Path, redirector: RedirectorProgram
) -> None:
    here = IPv4Address("198.18.2.11")
    ends = FLOWS["ipv4"]
    ip(f"address add {here}/24 dev {NODE}")
    ip(f"address add {ends.vip} dev lo")
    ip(f"route add {ends.client} via 198.18.2.1 dev {NODE} onlink")
    ip(f"neighbor add 198.18.2.1 lladdr {CLIENT_MAC} dev {NODE}")
    redirector.set_settings(v4=here)
    redirector.set_tunnel_sources([NODE_ADDRESS])
    assert redirector.attach(NODE, XdpMode.NATIVE) == "native"
    try:
        with socket.create_server((str(ends.vip), ends.vip_port)) as listener, wire(CLIENT) as client:
            listener.settimeout(5)

            def send(flags: str, seq: int, ack: int, payload: bytes = b"") -> None:
                inner = inner_packet(ends, flags, payload)
                inner[TCP].seq, inner[TCP].ack = seq, ack
                outer = tunnelled(
                    inner, source=NODE_ADDRESS, destination=here, source_port=0xC000, node_id=77, hops=(1,)
                )
                client.send(framed(outer))

            send("S", 1000, 0)
            while TCP not in (answer := Ether(client.recv(2048))) or answer[TCP].flags != "SA":
                pass
            assert (answer[IP].src, answer[IP].dst) == (str(ends.vip), str(ends.client))
            send("A", 1001, answer[TCP].seq + 1)
            send("PA", 1001, answer[TCP].seq + 1, b"hello")
            connection, peer = listener.accept()
            connection.settimeout(5)
            assert peer == (str(ends.client), ends.client_port)
            assert connection.recv(100) == b"hello"
            record = IngressMap.open(bpffs).lookup(peer[0], peer[1], ends.vip, ends.vip_port)
            assert record is not None
            assert record.node_id == 77
            connection.close()
    finally:
        RedirectorProgram.detach(NODE)
        ip(f"address del {ends.vip}/32 dev lo")
