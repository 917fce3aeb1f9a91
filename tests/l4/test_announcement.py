"""What may be announced: nothing that this node cannot forward, and nothing less."""

from ipaddress import ip_address

from l4.announcement import ForwardingConditions, networks_to_announce, reasons_to_withhold
from orchestrator.contract.vip import Vip, VipMode


def vip(name: str, address: str, port: int, pool: str) -> Vip:
    return Vip(name=name, id=port, address=ip_address(address), port=port, mode=VipMode.TERMINATE, pool=pool)


WEB = vip("web", "203.0.113.10", 443, "edge")
MAIL = vip("mail", "203.0.113.10", 993, "mail")
SIX = vip("six", "2001:db8:203::10", 443, "edge")
VIPS = (WEB, MAIL, SIX)


def conditions(*, is_attached: bool = True, **owned_rows: int) -> ForwardingConditions:
    return ForwardingConditions(is_attached=is_attached, interface="eth0", owned_rows=owned_rows)


def test_all_is_announced_when_all_is_there() -> None:
    withheld = reasons_to_withhold(VIPS, conditions(edge=101, mail=101))
    assert withheld == {}
    assert networks_to_announce(VIPS, withheld) == {WEB.network, SIX.network}


def test_nothing_is_announced_without_the_program() -> None:
    withheld = reasons_to_withhold(VIPS, conditions(is_attached=False, edge=101, mail=101))
    assert set(withheld) == {"web", "mail", "six"}
    assert "no XDP program on eth0" in withheld["web"]
    assert networks_to_announce(VIPS, withheld) == set()


def test_a_vip_waits_for_its_table_and_for_a_member() -> None:
    withheld = reasons_to_withhold(VIPS, conditions(mail=0))
    assert withheld["web"] == "the kernel holds no forwarding table of pool edge"
    assert withheld["mail"] == "pool mail has no reachable member"


def test_an_address_is_announced_as_long_as_one_of_its_vips_can_be_served() -> None:
    withheld = reasons_to_withhold(VIPS, conditions(edge=101))
    assert set(withheld) == {"mail"}
    assert networks_to_announce(VIPS, withheld) == {WEB.network, SIX.network}
