"""What may be announced: nothing that this node cannot forward, and nothing less."""

from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from l4.announcement import NOT_IN_SERVICE, ForwardingConditions, decide
from orchestrator.contract.node import Announcement
from orchestrator.contract.vip import Vip, VipMode
from tests.l4.edge import ACTIVE, balancer_snapshot


def vip(name: str, address: str, port: int, pool: str) -> Vip:
    return Vip(name=name, id=port, address=ip_address(address), port=port, mode=VipMode.TERMINATE, pool=pool)


WEB = vip("web", "203.0.113.10", 443, "edge")
MAIL = vip("mail", "203.0.113.10", 993, "mail")
SIX = vip("six", "2001:db8:203::10", 443, "edge")
SNAPSHOT = balancer_snapshot(1, ACTIVE).model_copy(update={"vips": (WEB, MAIL, SIX), "dead_man_s": 12})
FULL = {"edge": 101, "mail": 101}


def conditions(
    owned_rows: Mapping[str, int], live: tuple[str, ...] = ("edge", "mail"), *, is_attached: bool = True
) -> ForwardingConditions:
    return ForwardingConditions(
        is_attached=is_attached,
        interface="eth0",
        owned_rows=owned_rows,
        pools_with_live_members=frozenset(live),
    )


def test_all_is_announced_for_a_time_when_all_is_there() -> None:
    decision = decide(SNAPSHOT, conditions(FULL))
    assert decision.withheld == {}
    assert decision.networks == {WEB.network: 12, SIX.network: 12}


def test_without_a_dead_mans_timer_addresses_stay() -> None:
    snapshot = SNAPSHOT.model_copy(update={"dead_man_s": None})
    assert decide(snapshot, conditions(FULL)).networks == {WEB.network: None, SIX.network: None}


def test_nothing_is_announced_without_the_program() -> None:
    decision = decide(SNAPSHOT, conditions(FULL, is_attached=False))
    assert set(decision.withheld) == {"web", "mail", "six"}
    assert "no balancer on eth0" in decision.withheld["web"]
    assert decision.networks == {}


def test_a_vip_waits_for_its_table_and_for_a_member() -> None:
    withheld = decide(SNAPSHOT, conditions({"mail": 0})).withheld
    assert withheld["web"] == "the kernel holds no forwarding table of pool edge"
    assert withheld["mail"] == "pool mail has no reachable member"


def test_a_vip_waits_for_a_member_that_answers_probes() -> None:
    decision = decide(SNAPSHOT, conditions(FULL, ("mail",)))
    assert decision.withheld == dict.fromkeys(("web", "six"), "no member of pool edge answers this node's probes")
    assert decision.networks == {MAIL.network: 12}


def test_an_address_is_announced_as_long_as_one_of_its_vips_can_be_served() -> None:
    decision = decide(SNAPSHOT, conditions({"edge": 101}))
    assert set(decision.withheld) == {"mail"}
    assert set(decision.networks) == {WEB.network, SIX.network}


@pytest.mark.parametrize("anyway", [("mail",), ("mail", "web")])
def test_what_nobody_else_announces_is_announced_for_ever_and_the_reason_told(anyway: tuple[str, ...]) -> None:
    snapshot = SNAPSHOT.model_copy(update={"announce_anyway": anyway})
    decision = decide(snapshot, conditions(FULL, is_attached=False))
    assert decision.networks == {MAIL.network: None}
    assert set(decision.despite) == set(anyway)
    assert set(decision.withheld) == {"web", "mail", "six"} - set(anyway)
    assert decide(snapshot, conditions(FULL)).despite == {}
    assert decide(snapshot, conditions(FULL)).networks == {MAIL.network: None, SIX.network: 12}


def test_a_soft_announcement_is_one() -> None:
    snapshot = SNAPSHOT.model_copy(update={"announcement": Announcement.SOFT})
    assert decide(snapshot, conditions(FULL)) == decide(SNAPSHOT, conditions(FULL))


def test_a_node_that_is_told_to_announce_nothing_does_so_whoever_else_announces() -> None:
    snapshot = SNAPSHOT.model_copy(update={"announcement": Announcement.NONE, "announce_anyway": ("web",)})
    decision = decide(snapshot, conditions(FULL))
    assert decision.networks == {}
    assert decision.withheld == dict.fromkeys(("web", "mail", "six"), NOT_IN_SERVICE)
