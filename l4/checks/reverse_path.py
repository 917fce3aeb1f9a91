"""Reverse path filtering (RFC 3704): strict, it drops packets that come in by another way than answers would go out."""

from collections.abc import Iterator

from l4.checks.check import Check, Subject
from l4.checks.sysctls import key, read_setting
from orchestrator.contract.checkup import CheckResult

OFF, STRICT, LOOSE = 0, 1, 2

MEMBER = Check(
    "rp_filter",
    "reverse path filter",
    "packets come out of the tunnel with clients' addresses: wherever the way back to a client is by another "
    "interface, strict filtering drops them without a word (TcpExt: IPReversePathFilter in `nstat`)",
)
L4_NODE = Check(
    "rp_filter",
    "reverse path filter",
    "answers to this node's probes come from VIPs, which are its own addresses on lo: strict filtering drops them, "
    "and every member looks unreachable from here",
)


def look(subject: Subject) -> Iterator[CheckResult]:
    check = L4_NODE if subject.is_balancer else MEMBER
    setting = read_setting(subject.interface, "rp_filter")
    if setting.effective != STRICT:
        yield check.ok("loose" if setting.effective == LOOSE else "off")
        return
    yield check.failure(
        f"strict: {setting}",
        f"{LOOSE} (loose) on {subject.interface}, or {OFF} on both",
        mend=f"sysctl -w {key(subject.interface, 'rp_filter')}={LOOSE}",
        fixable=True,
    )
