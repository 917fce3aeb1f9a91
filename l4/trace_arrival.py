"""What a redirector would do with a frame that a balancer or a fellow member sends it, by a rehearsal."""

import socket
import struct
import time

from l4.frames import TCP, Layer, layers, network_layer
from l4.ingress import Ingress, IngressMap
from l4.interface import Interface
from l4.redirector_program import RedirectorProgram
from l4.rehearsal import Rehearsal
from l4.tcp_sockets import Flow, tcp_flows
from l4.trace_words import VERDICTS, reason_in_words
from orchestrator.contract.inquiry import (
    MAX_SNAP_LENGTH,
    OuterHeader,
    TraceArrivalAnswer,
    TracedStep,
    Verdict,
)
from orchestrator.contract.snapshot import RedirectorSnapshot

#: Counters that are not the reason, whatever else was counted.
_BESIDE = frozenset({"icmp_errors", "member_unknown", "owner_not_live"})


def rehearsal_of(program: RedirectorProgram) -> Rehearsal:
    """For traces on this program's maps. Raises ProgramError, OSError."""
    return Rehearsal(program.NAME, "redirect.c", program.FUNCTION, program.pins, {})


def trace_arrival(
    rehearsal: Rehearsal, snapshot: RedirectorSnapshot, interface: Interface, ingress: IngressMap, frame: bytes
) -> TraceArrivalAnswer:
    """What would become of the frame now. Raises OSError, SocketDumpError, ValueError."""
    arriving = _as_it_arrives(frame, interface.mac)
    rehearsal.forget()
    run = rehearsal.run(arriving, socket.if_nametoindex(interface.name))
    counters = rehearsal.counters()
    found = layers(arriving)
    verdict = VERDICTS.get(run.verdict, Verdict.ABORTED)
    reason = next((name for name in counters if name not in _BESIDE), None)
    outer, next_owner = None, None
    if verdict is Verdict.SENT and (sent := layers(run.frame)):
        outer = OuterHeader(
            kind="gue", source=sent[0].source, destination=sent[0].destination, source_port=sent[0].source_port
        )
        members = (member for pool in snapshot.pools for member in pool.members)
        next_owner = next((member.name for member in members if member.address == sent[0].destination), None)
    brought_by: str | None = None
    steps = [TracedStep(what="packet", words=" carrying ".join(str(layer) for layer in found))]
    if found and found[-1].protocol == TCP:
        steps.append(TracedStep(what="socket", words=_socket_in_words(found[-1])))
        if (came := _ingress_of(found[-1], ingress)) is not None:
            brought_by = snapshot.l4_nodes.get(came.node_id)
            who = brought_by or "an L4 node that does not say which it is"
            ago_s = (time.monotonic_ns() - came.arrived_ns) / 1e9
            steps.append(TracedStep(what="ingress", words=f"its first packet came by {who}, {ago_s:.0f} s ago"))
    words = f"{verdict}: {reason_in_words(reason)}" if reason else f"{verdict}: not for the tunnel's end on this host"
    steps.append(TracedStep(what="verdict", words=words + (f", {next_owner}" if next_owner else "")))
    return TraceArrivalAnswer(
        steps=tuple(steps),
        verdict=verdict,
        reason=reason,
        counters=counters,
        next_owner=next_owner,
        brought_by=brought_by,
        outer=outer,
        frame=run.frame[:MAX_SNAP_LENGTH] if verdict is Verdict.SENT else b"",
    )


def _as_it_arrives(frame: bytes, mac: bytes) -> bytes:
    """The frame as routers would hand it over: to this host's MAC address, without the sender's VLAN tags."""
    try:
        offset, version = network_layer(frame)
    except struct.error as error:
        raise ValueError("the frame is cut short") from error
    if not version:
        raise ValueError("the frame is not IP")
    return mac + frame[6:12] + frame[offset - 2 :]


def _ingress_of(inner: Layer, ingress: IngressMap) -> Ingress | None:
    if inner.source_port is None or inner.destination_port is None:
        return None
    return ingress.lookup(inner.source, inner.source_port, inner.destination, inner.destination_port)


def _socket_in_words(inner: Layer) -> str:
    """Whether this host's kernel lists a socket of the flow: what the program asks the kernel for as well."""
    if inner.source_port is None or inner.destination_port is None:
        return "the flow's ports cannot be read"
    flow = Flow(inner.destination.packed, inner.destination_port, inner.source.packed, inner.source_port)
    if flow in tcp_flows():
        return "this host has an open socket of this flow"
    return "this host has no open socket of this flow"
