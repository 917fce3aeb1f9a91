"""A captured packet in one line: who to whom, and what became of it."""

from datetime import UTC, datetime

from l4.frames import layers
from orchestrator.contract.inquiry import CapturedPacket, Verdict


def fate(packet: CapturedPacket) -> str:
    """ "forwarded to proxy-1, row 123, then proxy-2", "dropped: bad_tcp_flags"."""
    row = f", row {packet.row}" if packet.row is not None else ""
    if packet.verdict is Verdict.SENT and packet.reason is None:
        behind = f", then {', '.join(packet.chain)}" if packet.chain else ""
        return f"forwarded to {packet.owner or 'an unknown member'}{row}{behind}"
    words = {Verdict.SENT: "answered", Verdict.PASSED: "passed to the L4 node itself"}.get(
        packet.verdict, str(packet.verdict)
    )
    return f"{words}: {packet.reason}{row}" if packet.reason else f"{words}{row}"


def line(node: str, packet: CapturedPacket) -> str:
    """For a terminal and for `grep`."""
    seconds, nanoseconds = divmod(packet.at_ns, 10**9)
    at = datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")
    found = layers(packet.octets)
    innermost = found[-1] if found else "not IP"
    return f"{at}.{nanoseconds:09d} {node}  {innermost}  {fate(packet)}"
