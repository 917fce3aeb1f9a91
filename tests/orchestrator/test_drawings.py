"""What `edgectl get` and `edgectl drain` say of VIPs, pools and drains, in their forms."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from orchestrator.cli import drawings
from orchestrator.cli.drain_words import in_words
from orchestrator.contract.operator import DrainView, MemberView, PoolView, VipView

VIP: Mapping[str, Any] = {
    "name": "web",
    "id": 1,
    "address": "203.0.113.10",
    "port": 443,
    "mode": "passthrough",
    "tls": True,
    "pool": "edge",
    "announced_by": (),
    "withheld_by": {},
}

#: Fields beside the usual ones, address and port, mode.
VIPS: dict[str, tuple[dict[str, Any], str, str]] = {
    "address and port": ({}, "203.0.113.10:443", "passthrough"),
    "terminated": ({"mode": "terminate"}, "203.0.113.10:443", "terminate, tls"),
    "terminated without TLS": ({"mode": "terminate", "tls": False}, "203.0.113.10:443", "terminate"),
    "IPv6": ({"address": "2001:db8::10"}, "[2001:db8::10]:443", "passthrough"),
    "block": ({"address": "203.0.113.0", "prefix_length": 28}, "203.0.113.0/28:443", "passthrough"),
    "IPv6 block": ({"address": "2001:db8::", "prefix_length": 64}, "[2001:db8::/64]:443", "passthrough"),
    "range": ({"port": 8000, "last_port": 8999}, "203.0.113.10:8000-8999", "passthrough"),
    "any port": ({"port": 1, "last_port": 65535}, "203.0.113.10:any", "passthrough"),
    "UDP": ({"protocol": "udp"}, "203.0.113.10:443 udp", "passthrough"),
    "QUIC": ({"protocol": "udp", "quic": True}, "203.0.113.10:443 udp", "passthrough, quic"),
    "behind others": ({"mode": "terminate", "trusted_hops": 2}, "203.0.113.10:443", "terminate, tls, 2 trusted hops"),
    "by source": ({"flow_hash": "source"}, "203.0.113.10:443", "passthrough, by source"),
}


@pytest.mark.parametrize(("fields", "where", "mode"), VIPS.values(), ids=VIPS)
def test_a_vip_in_one_line(fields: dict[str, Any], where: str, mode: str) -> None:
    view = VipView.model_validate({**VIP, **fields})
    assert (drawings.where(view), drawings.mode(view)) == (where, mode)


def member(name: str, weight: int | None) -> MemberView:
    return MemberView.model_validate(
        {
            "id": int(name[-1]),
            "name": name,
            "address": "198.18.2.11",
            "state": "active",
            "weight": weight,
            "reachable": True,
            "open_flows": None,
            "sockets": None,
        }
    )


@pytest.mark.parametrize(
    ("encapsulation", "redirectors", "words"),
    [
        ("gue", True, "gue, second chances"),
        ("gue", False, "gue, no redirectors"),
        ("ipip", False, "ipip, no redirectors"),
    ],
)
def test_a_pool_says_how_packets_travel_and_who_takes_none(encapsulation: str, redirectors: bool, words: str) -> None:
    view = PoolView.model_validate(
        {
            "name": "edge",
            "slot": 0,
            "min_active": 1,
            "active": 1,
            "encapsulation": encapsulation,
            "redirectors": redirectors,
            "members": (member("proxy-1", 1), member("proxy-2", 0), member("proxy-3", None)),
            "generations": (),
        }
    )
    console = Console(width=160, record=True, file=StringIO())
    console.print(drawings.pools([view]))
    text = console.export_text()
    assert words in text
    weights = [line.split()[-3] for line in text.splitlines() if "active  " in line and "proxy" in line]
    assert weights == ["1", "0", "gone"]


@pytest.mark.parametrize(
    ("uncounted", "words"),
    [
        ((), "proxy-1 is drained after 20.0 s"),
        (("dns",), "proxy-1 is drained after 20.0 s; flows of dns cannot be counted"),
    ],
)
def test_a_drain_says_at_its_end_what_it_could_not_count(uncounted: tuple[str, ...], words: str) -> None:
    view = DrainView.model_validate(
        {
            "node": "proxy-1",
            "state": "drained",
            "started_at": 100.0,
            "deadline_at": 120.0,
            "overdue": False,
            "force": False,
            "drained_at": 120.0,
            "flows_at_start": None,
            "flows_open": 0,
            "by_protocol": {},
            "blocked_by": (),
            "uncounted": uncounted,
        }
    )
    assert in_words(view) == words
