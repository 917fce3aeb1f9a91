"""Programs on real interfaces: a veth pair between a client and a node, with traffic through the kernel."""

import itertools
import json
import os
import socket
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from l4 import attachment
from l4.attachment import XdpMode
from l4.balancer_program import BalancerProgram
from l4.ingress import IngressMap
from l4.program_error import ProgramError
from l4.redirector_program import RedirectorProgram
from tests.bpf.conftest import ip
from tests.bpf.packets import CLIENT_MAC, FLOWS, NODE_ADDRESS, framed, inner_packet, node_settings, tunnelled
from tests.bpf.veth import CLIENT, NODE, feed, lost_during, numbers_returned, wire

pytestmark = pytest.mark.kernel


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
        assert len(numbers_returned(client, 10)) == 10
    assert BalancerProgram.detach(NODE)
    assert not BalancerProgram.detach(NODE)
    assert attachment.attached_program(NODE) is None


def test_twenty_replacements_and_a_hundred_table_swaps_under_traffic_lose_nothing(
    pair: None, bpffs: Path, balancer: BalancerProgram
) -> None:
    feed(balancer)
    balancer.attach(NODE, XdpMode.NATIVE)
    attached_ids = []

    def replace_and_swap() -> None:
        programs = [BalancerProgram(bpffs, rows=balancer.rows) for _ in range(3)]
        for program in (programs * 7)[:20]:
            program.attach(NODE, XdpMode.AUTO)
            attached = attachment.attached_program(NODE)
            assert attached is not None
            attached_ids.append(attached.program_id)
            for owner in (1, 2, 1, 2, 1):
                program.swap_table(0, (owner.to_bytes(2, "little") + bytes(6)) * program.rows)
                program.set_settings(node_settings(program.rows, node_id=owner))

    sent, lost = lost_during(replace_and_swap)
    assert len(set(attached_ids)) == 3
    assert all(now != before for before, now in itertools.pairwise(attached_ids))
    assert sent > 1000
    assert lost == 0
    BalancerProgram.detach(NODE)


def state_of(interface: str) -> tuple[object, ...]:
    """All that `ip` and `ethtool` say: programs, MTU, promiscuity, queues, offloads."""

    def ask(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    return json.loads(ask("ip", "-d", "-j", "link", "show", interface)), ask("ethtool", "-k", interface)


@pytest.mark.parametrize("mode", [XdpMode.NATIVE, XdpMode.GENERIC])
def test_detach_leaves_the_interface_as_it_was(pair: None, balancer: BalancerProgram, mode: XdpMode) -> None:
    feed(balancer)
    before = state_of(NODE)
    balancer.attach(NODE, mode)
    balancer.attach(NODE, XdpMode.AUTO)
    assert state_of(NODE) != before
    assert BalancerProgram.detach(NODE)
    assert state_of(NODE) == before


def test_program_stays_when_its_loader_exits(pair: None, bpffs: Path, balancer: BalancerProgram) -> None:
    feed(balancer)
    if (child := os.fork()) == 0:
        BalancerProgram(bpffs, rows=balancer.rows).attach(NODE, XdpMode.NATIVE)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with wire(CLIENT) as client:
        client.send(framed(inner_packet(FLOWS["ipv4"], "A")))
        assert len(numbers_returned(client, 1)) == 1
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
