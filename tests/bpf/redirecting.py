"""Running the redirector on one frame: what it decided, what came out, and what it counted."""

from typing import NamedTuple

from l4.entries import MemberEntry
from l4.redirector_program import RedirectorProgram
from tests.bpf.program_run import Verdict, run
from tests.bpf.tunnel_frames import UNDERLAYS, Underlay

OWNERS = (22, 33, 44)
MAC = bytes.fromhex("020000000002")  # tests.bpf.packets.NODE_MAC


class Judgement(NamedTuple):
    """The program's word on a frame."""

    verdict: Verdict
    frame: bytes
    counted: dict[str, int]


def judge(redirector: RedirectorProgram, frame: bytes) -> Judgement:
    """Runs the program once."""
    before = redirector.counters()
    outcome = run(redirector.descriptor, frame)
    after = redirector.counters()
    changed = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    return Judgement(outcome.verdict, outcome.frame, changed)


def prepare(redirector: RedirectorProgram) -> None:
    """Tunnel's ends of both families here, which the L4 node and the first owner may write to."""
    v4, v6 = UNDERLAYS["over-ipv4"], UNDERLAYS["over-ipv6"]
    redirector.set_settings(v4=v4.here, v6=v6.here, mac=MAC)  # type: ignore[arg-type]
    redirector.set_tunnel_sources([v4.node, v6.node, v4.member(22), v6.member(22)])


def members_on(underlay: Underlay, *members: int, live: bool = True) -> list[MemberEntry]:
    """Of one family."""
    return [MemberEntry(member, underlay.member(member), live=live) for member in members]
