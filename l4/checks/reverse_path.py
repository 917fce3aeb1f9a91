"""Reverse path filtering (RFC 3704): strict, it drops packets that come in by another way than answers would go out."""

from collections.abc import Iterator

from l4.checks.check import Check, Subject
from l4.checks.sysctls import InterfaceSetting, key, read_setting
from orchestrator.contract.checkup import CheckResult
from orchestrator.contract.snapshot import BalancerSnapshot

OFF, STRICT, LOOSE = 0, 1, 2

ACCEPT_LOCAL = Check(
    "accept_local",
    "packets from own addresses",
    "answers to this node's probes come from VIPs, which are its own addresses on lo: the kernel drops packets from "
    "its own addresses unless told otherwise, and every member looks unreachable from here",
)

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
    else:
        yield check.failure(
            f"strict: {setting}",
            f"{LOOSE} (loose) on {subject.interface}, or {OFF} on both",
            mend=f"sysctl -w {key(subject.interface, 'rp_filter')}={LOOSE}",
            fixable=True,
        )
    if isinstance(subject.snapshot, BalancerSnapshot) and any(pool.probe for pool in subject.snapshot.pools):
        yield _accepts_own(read_setting(subject.interface, "accept_local"))


def _accepts_own(setting: InterfaceSetting) -> CheckResult:
    if setting.effective:
        return ACCEPT_LOCAL.ok("accepted")
    name = key(setting.interface, setting.name)
    return ACCEPT_LOCAL.failure(f"refused: {setting}", f"{name} is 1", mend=f"sysctl -w {name}=1", fixable=True)
