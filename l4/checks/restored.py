"""What the agent has put right lately. It is in order now; whoever changed it may do so again."""

from collections.abc import Iterator, Sequence
from typing import Final

from l4.checks.check import Check, Subject
from l4.restorations import Concern, Restoration
from orchestrator.contract.checkup import CheckResult

#: Seconds for which a single restoration is told, and within which several are the work of something that goes on.
NEWS_S: Final = 15.0
REPEATED_S: Final = 600.0
REPEATED: Final = 3

_TITLES: Final = {
    Concern.VIPS: (
        "VIPs on lo",
        "`ip monitor address` shows it; NetworkManager or keepalived do such things",
    ),
    Concern.ARP: ("ARP for VIPs", "look into /etc/sysctl.d and configuration management"),
    Concern.REVERSE_PATH: ("reverse path filter", "look into /etc/sysctl.d and configuration management"),
    Concern.MSS: ("advertised MSS", "`ip monitor route` shows it; DHCP clients and NetworkManager do that"),
    Concern.PROGRAM: ("XDP program", "`bpftool net` and the shell histories of this host may tell"),
    Concern.BIRD: ("BIRD", "its own log says why it ended, unless somebody killed it"),
}


def look(subject: Subject) -> Iterator[CheckResult]:
    for concern, (title, advice) in _TITLES.items():
        noted = [one for one in subject.restorations if one.concern is concern and one.ago_s <= REPEATED_S]
        if noted and (noted[-1].ago_s <= NEWS_S or len(noted) >= REPEATED):
            check = Check(
                concern.value,
                title,
                "it was wrong for a moment, in which packets may have been lost, and will be again: somebody and the "
                "agent undo each other's work",
            )
            yield check.warning(_in_words(noted), "nobody but the agent changes it", advice=f"find out who: {advice}")


def _in_words(noted: Sequence[Restoration]) -> str:
    newest = noted[-1]
    often = f", {len(noted)} times in {REPEATED_S / 60:.0f} minutes" if len(noted) > 1 else ""
    return f"in order, since the agent put it right {newest.ago_s:.0f} s ago{often}: {newest.words}"
