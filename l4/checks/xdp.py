"""The XDP program: attached, ours, and in the driver."""

from collections.abc import Iterator

from l4.attachment import XdpMode, attached_program
from l4.balancer_program import BalancerProgram
from l4.checks.check import Check, Subject
from l4.checks.loopback import reload_command
from l4.redirector_program import RedirectorProgram
from orchestrator.contract.checkup import CheckResult

BALANCER = Check(
    "xdp",
    "XDP program",
    "without its program this node forwards nothing; its agent withholds the VIPs, and the other L4 nodes carry all",
)
REDIRECTOR = Check(
    "xdp",
    "XDP program",
    "without its program this host opens no encapsulated packet: its flows stand still, and it takes no new ones",
)
MODE = Check(
    "xdp_mode",
    "XDP mode",
    "the generic mode works on packets for which the kernel has already made buffers: several times slower, and a "
    "flood meets the guard only after most of its cost was paid",
)


def look(subject: Subject) -> Iterator[CheckResult]:
    check, function = (
        (BALANCER, BalancerProgram.FUNCTION) if subject.is_balancer else (REDIRECTOR, RedirectorProgram.FUNCTION)
    )
    interface = subject.interface
    attached = attached_program(interface)
    if attached is None:
        yield check.failure(
            f"no program on {interface}",
            f"{function} on {interface}",
            mend=reload_command(subject) if subject.is_agent else None,
            fixable=subject.is_agent,
            advice=None if subject.is_agent else f"start edge-l4 {subject.role}: it attaches its program",
        )
        return
    if attached.name != function:
        yield check.failure(
            f"{interface} runs {attached.name!r} (program {attached.program_id}), which is not ours",
            f"{function} on {interface}",
            mend=f"ip link set dev {interface} xdp off && {reload_command(subject)}",
            advice="find out first who runs it, and what for: `bpftool prog show id " + f"{attached.program_id}`",
        )
        return
    yield check.ok(f"{attached.name}, program {attached.program_id}")
    if attached.mode is XdpMode.NATIVE:
        yield MODE.ok("native")
    elif subject.place.xdp_mode is XdpMode.GENERIC:
        yield MODE.ok("generic, as --xdp-mode asks for")
    else:
        yield MODE.warning(
            f"generic on {interface}",
            "native",
            advice="use a driver with XDP of its own, or a smaller MTU or fewer queues if the driver refused for that: "
            f"`ip link set dev {interface} xdpgeneric off`, then restart edge-l4 {subject.role} with --xdp-mode native,"
            " whose log says what the driver answers. If it has to be generic, say so: --xdp-mode generic",
        )
