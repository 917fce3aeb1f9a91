"""A trace says what the program does: every answer is held against the program itself, and against its counters."""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from l4 import trace, trace_arrival
from l4.balancer_program import BalancerProgram
from l4.bpf_call import pin
from l4.entries import MemberEntry
from l4.guard import RateLimit, VipLimits
from l4.guard_lists import Listing
from l4.ingress import IngressMap
from l4.interface import Interface
from l4.pins import LAYOUTS
from l4.probe_frame import probe_frame
from l4.redirector_program import RedirectorProgram
from l4.rehearsal import SHARED, WRITTEN_BY_PACKETS, Rehearsal, remove_leftovers
from l4.snapshot_entries import vip_entries
from orchestrator.contract.inquiry import OuterHeader, Probe, TraceAnswer, TraceArrivalAnswer, Verdict
from orchestrator.contract.pool import (
    Encapsulation,
    ForwardingSettings,
    Generation,
    GenerationMember,
    Member,
    MemberState,
    PoolForwarding,
)
from orchestrator.contract.snapshot import BalancerSnapshot, RedirectorSnapshot
from orchestrator.contract.vip import Protocol, Vip, VipMode
from tests.bpf.packets import KEY, NODE_ADDRESS, NODE_MAC, node_settings
from tests.bpf.program_run import Verdict as Action
from tests.bpf.program_run import run

pytestmark = pytest.mark.kernel

SOURCE_V6 = IPv6Address("2001:db8:18::11")
LOOPBACK = Interface("lo", 1500, bytes.fromhex(NODE_MAC.replace(":", "")))
ACTIONS = {Action.TX: Verdict.SENT, Action.DROP: Verdict.DROPPED, Action.PASS: Verdict.PASSED}
OWNERS = (11, 22, 33)


def address_of(member: int) -> IPv4Address:
    return IPv4Address("198.18.0.0") + member


MEMBERS = tuple(
    Member(id=number, name=f"proxy-{number}", address=address_of(number), state=MemberState.ACTIVE) for number in OWNERS
)


SIX = Member(id=44, name="proxy-44", address="2001:db8:18::44", state=MemberState.ACTIVE)


def pool(
    name: str,
    slot: int,
    *,
    redirectors: bool,
    encapsulation: Encapsulation = Encapsulation.GUE,
    members: tuple[Member, ...] = MEMBERS,
) -> PoolForwarding:
    newest = Generation(number=1, members=(GenerationMember(id=OWNERS[0], weight=1),))
    return PoolForwarding(
        name=name,
        slot=slot,
        redirectors=redirectors,
        encapsulation=encapsulation,
        members=members,
        generations=(newest,),
    )


def vip(vip_id: int, address: str, port: int, pool_name: str, protocol: Protocol = Protocol.TCP) -> Vip:
    return Vip(
        name=f"vip-{vip_id}",
        id=vip_id,
        address=address,
        port=port,
        protocol=protocol,
        mode=VipMode.PASSTHROUGH,
        pool=pool_name,
    )


SNAPSHOT = BalancerSnapshot(
    version=1,
    node="l4-1",
    node_id=1,
    address=NODE_ADDRESS,
    forwarding=ForwardingSettings(hash_key=KEY.hex(), rows=997),
    vips=(
        vip(1, "203.0.113.10", 443, "edge"),
        vip(2, "2001:db8:203::10", 443, "edge"),
        vip(3, "203.0.113.11", 443, "alone"),
        vip(4, "203.0.113.12", 443, "empty"),
        vip(5, "203.0.113.13", 443, "none"),
        vip(6, "203.0.113.14", 53, "edge", Protocol.UDP),
        vip(7, "203.0.113.15", 443, "ipip"),
        vip(8, "203.0.113.16", 443, "l2"),
        vip(9, "203.0.113.17", 443, "six"),
    ),
    pools=(
        pool("edge", 1, redirectors=True),
        pool("alone", 2, redirectors=False),
        pool("empty", 3, redirectors=True),
        pool("none", 4, redirectors=True),
        pool("ipip", 5, redirectors=False, encapsulation=Encapsulation.IPIP),
        pool("l2", 6, redirectors=False, encapsulation=Encapsulation.L2),
        pool("six", 7, redirectors=True, members=(SIX,)),
    ),
)


@dataclass(frozen=True)
class Ends:
    source: str
    destination: str
    port: int = 443
    protocol: Protocol = Protocol.TCP


CASES = {
    "ipv4": Ends("198.51.100.7", "203.0.113.10"),
    "ipv6": Ends("2001:db8:51::7", "2001:db8:203::10"),
    "flow-table": Ends("198.51.100.7", "203.0.113.11"),
    "empty-row": Ends("198.51.100.7", "203.0.113.12"),
    "no-table": Ends("198.51.100.7", "203.0.113.13"),
    "udp": Ends("198.51.100.7", "203.0.113.14", 53, Protocol.UDP),
    "ipip": Ends("198.51.100.7", "203.0.113.15"),
    "l2": Ends("198.51.100.7", "203.0.113.16"),
    "six": Ends("198.51.100.7", "203.0.113.17"),
    "no-vip": Ends("198.51.100.7", "192.0.2.1"),
    "another-port": Ends("198.51.100.7", "203.0.113.10", 80),
}
LIVE = {"all": (True, True, True), "second": (False, True, True), "none": (False, False, False)}


@pytest.fixture
def fed(balancer: BalancerProgram) -> BalancerProgram:
    balancer.set_settings(node_settings(balancer.rows, source_v6=SOURCE_V6))
    balancer.set_vips(vip_entries(SNAPSHOT.vips, SNAPSHOT.pools))
    rows = [struct.pack("=4H", *OWNERS[n % 3 :], *OWNERS[: n % 3], 0) for n in range(balancer.rows)]
    balancer.swap_table(1, b"".join(rows))
    for slot in (2, 5, 6):
        balancer.swap_table(slot, b"".join(rows))
    balancer.swap_table(7, struct.pack("=4H", SIX.id, 0, 0, 0) * balancer.rows)
    balancer.swap_table(3, bytes(8 * balancer.rows))
    set_live(balancer, (True, True, True))
    return balancer


def set_live(balancer: BalancerProgram, live: tuple[bool, ...]) -> None:
    members = [MemberEntry(m, address_of(m), bit, mac_of(m)) for m, bit in zip(OWNERS, live, strict=True)]
    balancer.set_members([*members, MemberEntry(SIX.id, SIX.address, live=True)])


def mac_of(member: int) -> bytes:
    """Of a member on the node's own segment."""
    return bytes((2, 0, 0, 0, 1, member))


def probe(ends: Ends, flags: str, port: int = 40000, length: int = 0) -> Probe:
    return Probe(
        source=ends.source,
        source_port=port,
        destination=ends.destination,
        destination_port=ends.port,
        protocol=ends.protocol,
        flags=flags if ends.protocol is Protocol.TCP else "",
        length=length,
    )


def moved(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


@dataclass
class Asked:
    """Traces, which must leave no trace. The rehearsals are made once: that takes a second each."""

    balancer: BalancerProgram
    rehearsal: Rehearsal
    redirector: RedirectorProgram
    rehearsal_of_redirector: Rehearsal

    def balance(self, asked: Probe) -> TraceAnswer:
        before = self.balancer.counters()
        answer = trace.trace(self.balancer, self.rehearsal, SNAPSHOT, LOOPBACK, asked)
        assert self.balancer.counters() == before
        return answer

    def redirect(self, frame: bytes) -> TraceArrivalAnswer:
        before = self.redirector.counters()
        with self.redirector.pins.open("ingress") as ingress:
            answer = trace_arrival.trace_arrival(
                self.rehearsal_of_redirector, REDIRECTOR_SNAPSHOT, LOOPBACK, IngressMap(ingress), frame
            )
        assert self.redirector.counters() == before
        return answer


@pytest.fixture(scope="module")
def told(balancer: BalancerProgram, redirector: RedirectorProgram) -> Iterator[Asked]:
    with trace.rehearsal_of(balancer) as first, trace_arrival.rehearsal_of(redirector) as second:
        yield Asked(balancer, first, redirector, second)


def outer_of(frame: bytes, kind: str) -> OuterHeader:
    """As scapy reads it."""
    parsed = Ether(frame)
    if kind == "l2":
        return OuterHeader(kind="l2")
    ip = parsed.payload
    port = parsed["UDP"].sport if kind == "gue" else None
    return OuterHeader(kind=kind, source=ip.src, destination=ip.dst, source_port=port)


def owner_of(frame: bytes) -> str:
    """Whom the frame is sent to, by its outermost addresses."""
    parsed = Ether(frame)
    by_mac = {":".join(f"{octet:02x}" for octet in mac_of(m)): f"proxy-{m}" for m in OWNERS}
    by_address = {str(member.address): member.name for member in (*MEMBERS, SIX)}
    return by_mac.get(parsed.dst) or by_address[parsed.payload.dst]


def slot_of(name: str) -> int:
    pool_name = next(one.pool for one in SNAPSHOT.vips if str(one.address) == CASES[name].destination)
    return next(one.slot for one in SNAPSHOT.pools if one.name == pool_name)


@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize(("name", "flags"), [*itertools.product(CASES, ("S", "A")), ("ipv4", "SF"), ("ipv6", "")])
def test_the_explanation_is_what_the_program_does(
    fed: BalancerProgram, told: Asked, name: str, flags: str, live: str
) -> None:
    set_live(fed, LIVE[live])
    asked = probe(CASES[name], flags)
    answer = told.balance(asked)
    before = fed.counters()
    done = run(fed.descriptor, probe_frame(asked, LOOPBACK.mac))
    assert answer.verdict is ACTIONS[done.verdict]
    assert answer.counters == moved(before, fed.counters())
    assert answer.steps[-1].what == "verdict"
    if done.verdict is Action.TX:
        assert answer.frame == done.frame
        assert answer.reason == "forwarded"
        assert answer.outer is not None
        assert answer.outer == outer_of(done.frame, answer.outer.kind)
        assert answer.owner == owner_of(done.frame)
        assert answer.row is not None
        if name != "six":
            assert [owner.live for owner in answer.chain] == [LIVE[live][OWNERS.index(one.id)] for one in answer.chain]
        assert tuple(owner.id for owner in answer.chain) == fed.read_row(slot_of(name), answer.row)
    elif done.verdict is Action.DROP:
        assert answer.reason in answer.counters


@pytest.mark.parametrize(("flags", "packets"), [("S", 1), ("A", 1), ("S", 3), ("A", 3)])
def test_the_guard_is_asked_and_its_limits_are_as_they_stand(
    fed: BalancerProgram, told: Asked, flags: str, packets: int
) -> None:
    """One SYN is admitted; a further one of its source is not, and a trace of it uses nothing up."""
    fed.guard.set_limits(VipLimits(), {1: VipLimits(source=RateLimit(0.001, burst=2))})
    try:
        for number in range(packets):
            asked = probe(CASES["ipv4"], flags, port=43000 + number)
            answers = [told.balance(asked) for _ in range(3)]
            before = fed.counters()
            done = run(fed.descriptor, probe_frame(asked, LOOPBACK.mac))
            for answer in answers:
                assert answer.verdict is ACTIONS[done.verdict]
                assert answer.counters == moved(before, fed.counters())
        assert done.verdict is (Action.DROP if (flags, packets) == ("S", 3) else Action.TX)
    finally:
        fed.guard.set_limits(VipLimits(), {})


@pytest.mark.parametrize(("source", "is_blocked"), [("198.51.100.7", True), ("198.51.101.7", False)])
def test_a_blocked_source_is_told(fed: BalancerProgram, told: Asked, source: str, is_blocked: bool) -> None:
    fed.guard.set_lists({ip_network("198.51.100.0/24"): Listing.BLOCKED})
    fed.set_settings(node_settings(fed.rows, lists_ipv4=True))
    try:
        answer = told.balance(probe(replace(CASES["ipv4"], source=source), "A"))
    finally:
        fed.guard.set_lists({})
    assert (answer.reason == "blocked") == is_blocked
    assert (answer.verdict is Verdict.DROPPED) == is_blocked
    assert answer.vip == "vip-1"


@pytest.mark.parametrize("flags", ["S", "A"])
def test_a_flow_that_the_flow_table_remembers_goes_where_it_went(fed: BalancerProgram, told: Asked, flags: str) -> None:
    asked = probe(CASES["flow-table"], flags, port=41000)
    first = run(fed.descriptor, probe_frame(replace_flags(asked, "S"), LOOPBACK.mac))
    member = OWNERS[[str(address_of(m)) for m in OWNERS].index(Ether(first.frame)["IP"].dst)]
    # Its row moves on to others; the flow does not.
    other = next(m for m in OWNERS if m != member)
    fed.swap_table(2, struct.pack("=4H", other, 0, 0, 0) * fed.rows)
    answer = told.balance(asked)
    done = run(fed.descriptor, probe_frame(asked, LOOPBACK.mac))
    assert answer.frame == done.frame
    assert answer.owner == f"proxy-{other if flags == 'S' else member}"
    hit = f"the flow table knows this flow: it goes to proxy-{member}"
    assert flow_table_step(answer) == (None if flags == "S" else hit)


def replace_flags(asked: Probe, flags: str) -> Probe:
    return asked.model_copy(update={"flags": flags})


def flow_table_step(answer: TraceAnswer) -> str | None:
    return next((step.words for step in answer.steps if step.what == "flow_table"), None)


def test_a_trace_of_a_new_flow_is_not_remembered(fed: BalancerProgram, told: Asked) -> None:
    asked = probe(CASES["flow-table"], "S", port=42000)
    told.balance(asked)
    answer = told.balance(replace_flags(asked, "A"))
    assert answer.counters["flow_table_misses"] == 1
    assert flow_table_step(answer) == "the flow table does not know this flow: by its row"


@pytest.mark.parametrize(("name", "reason"), [("ipv4", "too_big_answered"), ("ipv6", "too_big_answered")])
def test_too_large_for_the_path_is_told(fed: BalancerProgram, told: Asked, name: str, reason: str) -> None:
    asked = probe(CASES[name], "A", length=1440)
    answer = told.balance(asked)
    before = fed.counters()
    done = run(fed.descriptor, probe_frame(asked, LOOPBACK.mac))
    assert answer.verdict is ACTIONS[done.verdict]
    assert answer.counters == moved(before, fed.counters())
    assert answer.reason == "too_big_answered"


def test_nothing_is_left_in_the_bpffs(fed: BalancerProgram, told: Asked, bpffs: Path) -> None:
    before = sorted(path.name for path in bpffs.rglob("*"))
    with trace.rehearsal_of(fed):
        told.balance(probe(CASES["ipv4"], "A"))
    assert sorted(path.name for path in bpffs.rglob("*")) == before


def test_what_a_dead_agent_left_in_the_bpffs_is_removed_and_nothing_else(fed: BalancerProgram, bpffs: Path) -> None:
    before = sorted(path.name for path in bpffs.rglob("*"))
    left = bpffs / "edgefleet" / "rehearsal-balancer-left"
    of_the_other = bpffs / "edgefleet" / "rehearsal-redirector-left"
    left.mkdir()
    of_the_other.mkdir()
    with fed.pins.open("counters") as counters:
        pin(counters.descriptor, left / "counters")
    remove_leftovers(fed.pins)
    assert not left.exists()
    of_the_other.rmdir()
    assert sorted(path.name for path in bpffs.rglob("*")) == before


@pytest.mark.parametrize("program", LAYOUTS)
def test_every_map_is_known_to_be_read_or_written_by_packets(program: str) -> None:
    """A map that is neither would be empty in a rehearsal, and the rehearsal perhaps wrong."""
    assert SHARED[program] | WRITTEN_BY_PACKETS[program] == set(LAYOUTS[program])
    assert not SHARED[program] & WRITTEN_BY_PACKETS[program]


def test_a_probe_is_the_packet_that_it_says(subtests: pytest.Subtests) -> None:
    for name, ends in CASES.items():
        for length in (0, 1, 100):
            with subtests.test(name=name, length=length):
                frame = probe_frame(probe(ends, "SA", length=length), LOOPBACK.mac)
                parsed = Ether(frame)
                rebuilt = parsed.copy()
                for layer in rebuilt.layers():
                    for field in ("chksum", "len", "plen"):
                        if field in rebuilt[layer].fields:
                            del rebuilt[layer].fields[field]
                assert bytes(rebuilt) == frame, "checksums and lengths are scapy's own"
                ip = parsed[IPv6 if ":" in ends.source else IP]
                assert (ip.src, ip.dst, ip.payload.sport, ip.payload.dport) == (
                    ends.source,
                    ends.destination,
                    40000,
                    ends.port,
                )


# --- redirector


@pytest.fixture
def member(redirector: RedirectorProgram) -> RedirectorProgram:
    redirector.set_settings(v4=address_of(OWNERS[0]))
    redirector.set_members([MemberEntry(m, address_of(m), live=True) for m in OWNERS])
    redirector.set_tunnel_sources([NODE_ADDRESS, *map(address_of, OWNERS)])
    return redirector


REDIRECTOR_SNAPSHOT = RedirectorSnapshot(
    version=1,
    node="proxy-11",
    member_id=OWNERS[0],
    address=address_of(OWNERS[0]),
    forwarding=SNAPSHOT.forwarding,
    vips=SNAPSHOT.vips[:2],
    pools=SNAPSHOT.pools[:1],
    tunnel_sources=(NODE_ADDRESS,),
    l4_nodes={1: "l4-1"},
)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
@pytest.mark.parametrize(("flags", "reason"), [("S", "local_syn"), ("A", "second_chance")])
def test_a_redirector_tells_what_it_does_with_what_a_balancer_sends(
    fed: BalancerProgram, told: Asked, member: RedirectorProgram, family: str, flags: str, reason: str
) -> None:
    fed.swap_table(1, struct.pack("=4H", *OWNERS, 0) * fed.rows)
    sent = told.balance(probe(CASES[family], flags)).frame
    before = member.counters()
    answer = told.redirect(sent)
    done = run(member.descriptor, LOOPBACK.mac + sent[6:])
    assert (answer.verdict, answer.reason) == (ACTIONS[done.verdict], reason)
    assert answer.counters == moved(before, member.counters())
    if flags == "A":
        assert (answer.next_owner, answer.frame) == ("proxy-22", done.frame)
        assert any("no open socket" in step.words for step in answer.steps)


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_who_brought_a_flow_is_told_once_its_first_packet_came(
    fed: BalancerProgram, told: Asked, member: RedirectorProgram, family: str
) -> None:
    fed.swap_table(1, struct.pack("=4H", *OWNERS, 0) * fed.rows)
    later = told.balance(probe(CASES[family], "A", port=44000)).frame
    assert told.redirect(later).brought_by is None
    first = told.balance(probe(CASES[family], "S", port=44000)).frame
    run(member.descriptor, LOOPBACK.mac + first[6:])
    answer = told.redirect(later)
    assert answer.brought_by == "l4-1"
    assert any(step.what == "ingress" and "came by l4-1, 0 s ago" in step.words for step in answer.steps)
    assert told.redirect(told.balance(probe(CASES[family], "A", port=44001)).frame).brought_by is None, "another flow"


def test_a_stranger_is_refused_in_words(fed: BalancerProgram, told: Asked, member: RedirectorProgram) -> None:
    fed.swap_table(1, struct.pack("=4H", *OWNERS, 0) * fed.rows)
    member.set_tunnel_sources([IPv4Address("198.18.9.9")])
    answer = told.redirect(told.balance(probe(CASES["ipv4"], "A")).frame)
    assert (answer.verdict, answer.reason) == (Verdict.DROPPED, "source_refused")
    assert "fellow member" in answer.steps[-1].words


@pytest.mark.parametrize("frame", [b"", bytes(13), bytes(60)])
def test_what_is_no_frame_is_refused(told: Asked, frame: bytes) -> None:
    with pytest.raises(ValueError, match="the frame is"):
        told.redirect(frame)
