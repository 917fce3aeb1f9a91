"""Keeps a host as its policy wants it: what somebody takes away or changes is put right, and counted.

At once when the kernel tells of it, but not without end: see `Pace`. What is wanted anew, or no more, waits for no
pause.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Final

from l4.direct_return import Ipv4Settings, SettingChange, plan_settings
from l4.host_policy import Change, HostPolicy, carry_out, look_at_host, plan
from l4.interface_addresses import Network
from l4.pace import Pace
from l4.restorations import Concern, Restorations
from l4.rtnetlink import Rtnetlink
from l4.vips import LoopbackChange, look_at_loopback, plan_loopback, withdraw_all_but
from l4.vips import carry_out as carry_out_on_loopback

log = logging.getLogger(__name__)

#: Seconds between looks that no event has asked for. The kernel tells when a subscriber missed something; this is for
#: what nobody thought of.
SAFETY_LOOK_S: Final = 30.0

#: A lifetime is renewed when a third of it is over, as BGP speakers renew their sessions (RFC 4271 section 10: a
#: KEEPALIVE each third of the hold time): two renewals may fail.
RENEWALS_PER_LIFETIME: Final = 3

#: Seconds for which an agent without a snapshot prolongs what an earlier one left: the contract's default.
_LIFETIME_WITHOUT_SNAPSHOT_S = 30

#: Restorations that one line of the log names.
_MOST_TOLD = 10

#: Names of counters.
RESTORED: Final = ("vips_restored", "settings_restored", "mss_restored")
POSTPONED: Final = "restorations_postponed"


class HostKeeper:
    """For one thread at a time."""

    def __init__(self, counts: Counter[str], clock: Callable[[], float] = time.monotonic) -> None:
        """`counts` is where restorations are counted; `clock` in seconds."""
        self._counts = counts
        self._clock = clock
        self._pace = Pace(clock)
        self.restorations = Restorations(clock)
        """What was put right lately."""
        self._wanted: HostPolicy | None = None
        self._established: HostPolicy | None = None
        self._is_pending = False
        self._due_at = -math.inf
        self._obstacles: tuple[str, ...] = ()
        counts.update(dict.fromkeys((*RESTORED, POSTPONED), 0))

    def __repr__(self) -> str:
        vips = len(self._established.vips) if self._established else 0
        return f"<HostKeeper of {vips} networks{', something to restore' if self._is_pending else ''}, {self._pace}>"

    def establish(self, policy: HostPolicy) -> None:
        """Brings the host to `policy`, whatever was done before. Raises what `carry_out` does."""
        self._put_right(policy)

    def keep(self, policy: HostPolicy, *, heard: bool = False, is_beat: bool = False) -> float:
        """Sees to it that the host is as `policy` wants it, which may be another one than before.

        `heard`: whether the kernel told of a change; `is_beat`: whether to look at what it does not tell of. Returns
        the seconds after which to call again at the latest. Raises what `carry_out` does; it is tried again then.
        """
        is_new = policy != self._wanted
        if heard and not self._is_pending and self._pace.wait_s:
            self._counts[POSTPONED] += 1
        self._is_pending |= heard
        if is_new or self._clock() >= self._due_at or (self._is_pending and not self._pace.wait_s):
            if not is_new:
                self._pace.attempted()
            self._put_right(policy)
        elif is_beat:
            self._restore_settings(policy)
        return self._pace.wait_s if self._is_pending else max(0.0, self._due_at - self._clock())

    def withdraw_all_but(self, networks: Collection[Network]) -> None:
        """Takes other VIPs of ours off `lo`, whatever the policy. Raises VipError, OSError."""
        withdraw_all_but(networks)
        if self._established is not None:
            vips = {network: time for network, time in self._established.vips.items() if network in networks}
            self._wanted = self._established = replace(self._established, vips=vips)

    @staticmethod
    def prolong() -> None:
        """Renews the lifetimes of what an earlier agent left on `lo`. Raises VipError, OSError."""
        with Rtnetlink() as netlink:
            present = look_at_loopback(netlink)
            wanted = {
                network: None if left is None else max(left, _LIFETIME_WITHOUT_SNAPSHOT_S)
                for network, left in present.lifetimes.items()
            }
            renewals = [change for change in plan_loopback(wanted, present) if change.is_renewal]
            carry_out_on_loopback(renewals, netlink)

    def _put_right(self, policy: HostPolicy) -> None:
        self._wanted, self._is_pending = policy, True  # until it is done
        present = look_at_host(policy)
        planned = plan(policy, present)
        carry_out(planned.changes)
        if self._established is not None:
            # What the policy before asks for as well had been taken away or changed by somebody.
            lost = frozenset(plan(self._established, present).changes)
            self._count([change for change in planned.changes if change in lost])
        for obstacle in planned.obstacles:
            if obstacle not in self._obstacles:
                log.warning("%s", obstacle)
        self._obstacles = planned.obstacles
        self._established, self._is_pending = policy, False
        lifetimes = [lifetime for lifetime in policy.vips.values() if lifetime is not None]
        renewal_s = min(lifetimes, default=math.inf) / RENEWALS_PER_LIFETIME
        self._due_at = self._clock() + min(SAFETY_LOOK_S, renewal_s)

    def _restore_settings(self, policy: HostPolicy) -> None:
        changes = plan_settings(
            policy.interface,
            Ipv4Settings.read(policy.interface),
            takes_clients_packets=policy.takes_clients_packets,
            takes_own_addresses=policy.takes_own_addresses,
        )
        self._count(changes)
        carry_out(tuple(changes))

    def _count(self, restored: Collection[Change]) -> None:
        restored = [change for change in restored if not (isinstance(change, LoopbackChange) and change.is_renewal)]
        for change in restored:
            self._counts[_counter_of(change)] += 1
            self.restorations.note(_concern_of(change), change.words)
        if restored:
            words = [change.words for change in restored]
            more = f"; and {len(words) - _MOST_TOLD} more" if len(words) > _MOST_TOLD else ""
            log.warning("somebody changed this host; restored: %s%s", "; ".join(words[:_MOST_TOLD]), more)


def _concern_of(change: Change) -> Concern:
    if isinstance(change, LoopbackChange):
        return Concern.VIPS
    if isinstance(change, SettingChange):
        return Concern.ARP if change.name.startswith("arp_") else Concern.REVERSE_PATH
    return Concern.MSS


def _counter_of(change: Change) -> str:
    vips, settings, mss = RESTORED
    if isinstance(change, LoopbackChange):
        return vips
    return settings if isinstance(change, SettingChange) else mss
