"""`edgectl trace` against a real orchestrator, with agents that answer as told."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.failure import CommandFailed
from orchestrator.cli.flow_tracing import Asked, request_of, vip_of
from orchestrator.cli.main import main
from orchestrator.cli.trace import parts_of
from orchestrator.contract.inquiry import (
    OuterHeader,
    OwnerState,
    Question,
    Trace,
    TraceAnswer,
    TraceArrival,
    TraceArrivalAnswer,
    TracedStep,
    Verdict,
)
from orchestrator.contract.node import AgentRole
from orchestrator.contract.operator import HostView, VipView
from orchestrator.contract.respondent import Post, Respondent
from orchestrator.contract.route import PathMatchKind, Route
from orchestrator.contract.vip import Protocol, VipMode
from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.test_edgectl import all_up_to_date, eventually
from tests.orchestrator.test_edgectl_inside import SENT

#: L4 nodes that would send the flow somewhere else than the others; changed by tests.
dissenters: set[str] = set()
probes: list[tuple[int, str]] = []


@dataclass
class Balancer:
    """Sends everything to proxy-1, then proxy-2; a dissenter the other way round."""

    node: str

    async def respond(self, question: Question, post: Post) -> None:
        assert isinstance(question, Trace)
        probes.append((question.probe.source_port, question.probe.flags))
        order = (2, 1) if self.node in dissenters else (1, 2)
        await post(
            TraceAnswer(
                steps=(TracedStep(what="packet", words="a packet"), TracedStep(what="verdict", words="sent")),
                verdict=Verdict.SENT,
                reason="forwarded",
                counters={},
                row=123,
                chain=tuple(OwnerState(id=n, name=f"proxy-{n}", address=f"198.18.2.1{n}", live=True) for n in order),
                owner=f"proxy-{order[0]}",
                outer=OuterHeader(kind="gue", source="198.18.1.11", destination="198.18.2.11", source_port=50000),
                frame=SENT,
            )
        )


@dataclass
class Redirector:
    """proxy-2 has the socket, of a flow that l4-2 brought."""

    node: str

    async def respond(self, question: Question, post: Post) -> None:
        assert isinstance(question, TraceArrival)
        is_here = self.node != "proxy-1"
        await post(
            TraceArrivalAnswer(
                steps=(TracedStep(what="packet", words="a packet"), TracedStep(what="verdict", words="as it is")),
                verdict=Verdict.PASSED if is_here else Verdict.SENT,
                reason="local_socket" if is_here else "second_chance",
                counters={},
                next_owner=None if is_here else "proxy-2",
                brought_by="l4-2" if is_here else None,
                frame=b"" if is_here else SENT,
            )
        )


def respondent(node: str, role: AgentRole) -> Respondent | None:
    if role is AgentRole.BALANCER:
        return Balancer(node)
    return Redirector(node) if role is AgentRole.REDIRECTOR else None


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        made.respondent = respondent
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            eventually(lambda: all_up_to_date(made), "all agents are up to date")
            yield made


@pytest.fixture(autouse=True)
def nobody_dissents() -> None:
    dissenters.clear()
    probes.clear()


def edgectl(fleet: LiveFleet, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--context", str(fleet.operator), *arguments])


def traced(fleet: LiveFleet, *arguments: str, exit_code: int = 0) -> dict[str, Any]:
    result = edgectl(fleet, "trace", *arguments, "--json")
    assert result.exit_code == exit_code, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def test_an_open_flow_is_followed_to_the_proxy_that_has_it_and_to_who_brought_it(fleet: LiveFleet) -> None:
    told = traced(fleet, "198.51.100.7:40000", "203.0.113.10:443")
    assert told["router"] == {"candidates": ["l4-1", "l4-2"], "unable": {}, "agreed": True}
    assert (told["proxy"], told["open"], told["brought_by"], told["new"]) == ("proxy-2", True, "l4-2", False)
    assert [node["node"] for node in told["nodes"]] == ["l4-1", "l4-2"]
    assert probes == [(40000, "A")] * 2
    drawn = edgectl(fleet, "trace", "198.51.100.7:40000", "web-v4").stdout
    for words in ("any of l4-1, l4-2", "l4-2, when the flow began", "l4-1, l4-2: all the same", "open here"):
        assert words in drawn
    assert drawn.index("routers") < drawn.index("proxy-1") < drawn.index("proxy-2, the proxy")


def test_without_a_port_it_is_a_flow_that_begins(fleet: LiveFleet) -> None:
    assert traced(fleet, "198.51.100.7", "web-v4")["new"]
    assert probes == [(50000, "S")] * 2
    assert "a new one" in edgectl(fleet, "trace", "198.51.100.7", "web-v4").stdout


def test_a_request_is_followed_to_its_backend_by_the_routes_of_the_proxies(fleet: LiveFleet) -> None:
    request = traced(fleet, "198.51.100.7:40000", "web-v4", "--host", "www.example.com", "--path", "/cart")["request"]
    assert (request["route"], request["backend"]["name"], request["problem"]) == ("all", "shop-web", None)
    drawn = edgectl(fleet, "trace", "198.51.100.7:40000", "web-v4", "--host", "www.example.com").stdout
    assert "all → backend shop-web" in drawn
    assert "backend-1 198.18.3.11:8080, not looked at by this proxy yet" in drawn
    unknown = traced(fleet, "198.51.100.7:40000", "web-v4", "--host", "nobody.example.com")["request"]
    assert unknown["problem"] == "no route: answered with 404"
    assert "www.example.com" in edgectl(fleet, "trace", "198.51.100.7:40000", "web-v4").stdout, "says what can be asked"


def test_l4_nodes_that_differ_are_shown_each_and_end_with_1(fleet: LiveFleet) -> None:
    dissenters.add("l4-2")
    assert not traced(fleet, "198.51.100.7:40000", "web-v4", exit_code=1)["router"]["agreed"]
    drawn = edgectl(fleet, "trace", "198.51.100.7:40000", "web-v4").stdout
    assert "they differ in what they would do" in drawn
    assert "all the same" not in drawn


@pytest.mark.parametrize("arguments", [("198.51.100.7", "web-v9"), ("198.51.100.7", "203.0.113.77")])
def test_a_vip_that_is_none_is_refused_with_what_to_do(fleet: LiveFleet, arguments: tuple[str, str]) -> None:
    result = edgectl(fleet, "trace", *arguments)
    assert result.exit_code == 1
    assert "edgectl get vips" in result.stderr


def test_ends_of_two_families_are_refused(fleet: LiveFleet) -> None:
    assert "two families" in edgectl(fleet, "trace", "2001:db8::7", "web-v4").stderr


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("198.51.100.7", ("198.51.100.7", None)),
        ("198.51.100.7:40000", ("198.51.100.7", 40000)),
        ("2001:db8::7", ("2001:db8::7", None)),
        ("[2001:db8::7]", ("2001:db8::7", None)),
        ("[2001:db8::7]:443", ("2001:db8::7", 443)),
        ("web-v4:443", ("web-v4", 443)),
    ],
)
def test_ends_are_read_with_and_without_ports(text: str, parts: tuple[str, int | None]) -> None:
    assert parts_of(text) == parts


@pytest.mark.parametrize("text", ["", ":443", "198.51.100.7:0", "198.51.100.7:65536", "[2001::7", "[::1]443", "a:b"])
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no port"):
        parts_of(text)


def vip(name: str, address: str, port: int, *, length: int | None = None, last: int | None = None) -> VipView:
    return VipView(
        name=name,
        id=1,
        address=address,
        prefix_length=length,
        port=port,
        last_port=last,
        mode=VipMode.TERMINATE,
        tls=True,
        pool="edge",
        announced_by=(),
        withheld_by={},
    )


def asked(text: str, port: int | None = None) -> Asked:
    return Asked(ip_address("198.51.100.7"), None, text, port, Protocol.TCP, None, "/")


def test_the_narrowest_vip_counts_and_ports_may_be_ranges() -> None:
    vips = (vip("block", "203.0.113.0", 1, length=24, last=65535), vip("web", "203.0.113.10", 443))
    assert vip_of(vips, asked("203.0.113.10"))[0].name == "web"
    assert vip_of(vips, asked("203.0.113.10", 443))[0].name == "web"
    assert vip_of(vips, asked("203.0.113.10", 80)) == (vips[0], 80)
    assert vip_of(vips, asked("203.0.113.99", 80)) == (vips[0], 80)
    two = (vip("web", "203.0.113.10", 443), vip("plain", "203.0.113.10", 80))
    with pytest.raises(CommandFailed, match="say which"):
        vip_of(two, asked("203.0.113.10"))
    with pytest.raises(CommandFailed, match="has port 8443"):
        vip_of(two, asked("203.0.113.10", 8443))


def test_requests_that_no_proxy_takes_are_told() -> None:
    route = Route(name="all", kind=PathMatchKind.PREFIX, path="/shop", backend="gone")
    host = HostView(name="www.example.com", owner="shop", source="", certificate_expires_at=None, routes=(route,))
    assert request_of((host,), (), "www.example.com", "/shop/cart?x=1").route == "all"
    assert request_of((host,), (), "WWW.example.com", "/other").problem == "no route: answered with 404"
    assert "400" in (request_of((host,), (), "www.example.com", "/a%2Fb").problem or "")
