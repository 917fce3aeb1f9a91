"""ARP for VIPs: a host that holds VIPs on lo must neither answer nor announce them on its segment."""

from collections.abc import Iterator

from l4.checks.check import Check, Subject
from l4.checks.sysctls import InterfaceSetting, key, read_setting
from orchestrator.contract.checkup import CheckResult

ARP = Check(
    "arp",
    "ARP for VIPs",
    "a host that answers ARP for a VIP draws the VIP's traffic of its whole segment to itself, past routers and L4 "
    "nodes; one that announces a VIP in its own ARP requests does the same to its neighbours' caches",
)

#: Answer only for addresses of the interface that was asked; announce the interface's best address only
#: (kernel documentation, ip-sysctl: arp_ignore, arp_announce).
WANTED = {"arp_ignore": 1, "arp_announce": 2}


def look(subject: Subject) -> Iterator[CheckResult]:
    settings = [read_setting(subject.interface, name) for name in WANTED]
    wrong = [setting for setting in settings if setting.effective < WANTED[setting.name]]
    if not wrong:
        yield ARP.ok(", ".join(f"{setting.name} {setting.effective}" for setting in settings))
        return
    yield ARP.failure(
        "; ".join(map(str, wrong)),
        ", ".join(f"{setting.name} at least {WANTED[setting.name]}" for setting in wrong),
        mend="sysctl -w " + " ".join(_assignment(setting) for setting in wrong),
        fixable=True,
    )


def _assignment(setting: InterfaceSetting) -> str:
    return f"{key('all', setting.name)}={WANTED[setting.name]}"
