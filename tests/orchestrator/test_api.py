"""The HTTPS API: who may ask what, and what the refusals say. Real server, real TLS."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
import trio

from orchestrator.contract import operator, operator_guard, wire
from orchestrator.contract.connection import Connection, OrchestratorUnreachable, unverified_context, verified_context
from orchestrator.contract.keys import key_to_pem, new_key, signing_request
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.operator import DRAIN_LIST, NODE_LIST, POOL_LIST, VIP_LIST, Applied, DrainView, StatusView
from orchestrator.contract.report import Report
from orchestrator.contract.snapshot import SNAPSHOT, ProxySnapshot
from orchestrator.contract.wire import Problem, Problems
from orchestrator.fleet.authority import create_authority
from orchestrator.fleet.control import Control
from tests.orchestrator.fleets import PLATFORM, TEAM, balancer_status, files, proxy_status
from tests.orchestrator.live_orchestrator import LiveOrchestrator, create

PROXY = AgentIdentity(node="proxy-1", role=AgentRole.PROXY)


@pytest.fixture
async def live(tmp_path: Path) -> LiveOrchestrator:
    return await create(tmp_path)


@pytest.fixture
async def control(live: LiveOrchestrator) -> AsyncIterator[Control]:
    async with live.running() as control:
        yield control


@pytest.fixture
async def operate(live: LiveOrchestrator, control: Control) -> AsyncIterator[httpx2.AsyncClient]:
    async with live.operator_client() as client:
        yield client


def problem(response: httpx2.Response, status: int) -> Problem:
    assert response.status_code == status, response.text
    (found, *_) = Problems.model_validate_json(response.content).problems
    assert found.hint, "an error says what to do"
    return found


async def apply(client: httpx2.AsyncClient, given: dict[str, str] | None = None) -> httpx2.Response:
    return await client.post(operator.CONFIGURATION, json={"files": given or files()})


PATHS = [
    ("POST", operator.CONFIGURATION),
    ("GET", operator.STATUS),
    ("GET", operator.VIPS),
    ("GET", operator.POOLS),
    ("GET", operator.NODES),
    ("GET", operator.HOSTS),
    ("GET", operator.BACKENDS),
    ("GET", operator.DRAINS),
    ("GET", operator.TABLES),
    ("POST", operator.NODE_DRAIN.format(name="proxy-1")),
    ("GET", operator.NODE_DRAIN.format(name="proxy-1")),
    ("POST", operator.NODE_DRAIN_CANCEL.format(name="proxy-1")),
    ("POST", operator.NODE_UNDRAIN.format(name="proxy-1")),
    ("POST", operator.TOKENS),
    ("GET", operator_guard.GUARD),
    ("POST", operator_guard.GUARD_LISTS),
    ("POST", operator_guard.GUARD_REMOVALS),
    ("POST", operator_guard.GUARD_LIMITS),
    ("POST", operator_guard.GUARD_RESET),
    ("POST", operator.NODE_INQUIRIES.format(name="l4-1")),
    ("GET", operator.INQUIRY.format(id="0" * 32)),
    ("DELETE", operator.INQUIRY.format(id="0" * 32)),
    ("GET", wire.NODE_INQUIRY),
    ("POST", wire.NODE_INQUIRY_PIECE.format(id="0" * 32)),
    ("GET", wire.NODE_SNAPSHOT),
    ("POST", wire.NODE_REPORT),
    ("POST", wire.NODE_CERTIFICATE),
]


async def test_without_a_certificate_every_path_but_ca_and_join_is_refused(
    live: LiveOrchestrator, control: Control
) -> None:
    async with live.client() as anybody:
        for method, path in PATHS:
            assert problem(await anybody.request(method, path), 401).code == "certificate_missing", path
        assert (await anybody.get(wire.CA)).text == control.authority.pem
        assert problem(await anybody.post(wire.JOIN, content="{}"), 422).code == "invalid_body"
        assert problem(await anybody.get("/v1/nothing"), 404).code == "http_404"


async def test_a_certificate_of_another_ca_does_not_pass_the_handshake(
    live: LiveOrchestrator, control: Control, tmp_path: Path
) -> None:
    stranger = create_authority(datetime.now(UTC))
    key = new_key()
    (tmp_path / "x.pem").write_text(stranger.certify_operator(key.public_key(), "first", datetime.now(UTC)))
    (tmp_path / "x.key").write_bytes(key_to_pem(key))
    async with live.client((tmp_path / "x.pem", tmp_path / "x.key")) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get(operator.STATUS)
    async with live.operator_client() as operator_client:
        assert (await operator_client.get(operator.STATUS)).status_code == 200, "and the server serves on"


async def test_tls_below_1_3_is_refused(live: LiveOrchestrator, control: Control) -> None:
    old = unverified_context()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with httpx2.AsyncClient(base_url=live.url, verify=old, trust_env=False) as client:
        with pytest.raises(httpx2.TransportError):
            await client.get(wire.CA)


async def test_agents_and_operators_keep_to_their_paths(
    live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient
) -> None:
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    async with live.agent_client(state) as agent:
        for method, path in PATHS:
            client = operate if path.startswith("/v1/node/") else agent
            assert problem(await client.request(method, path), 403).code == "forbidden", path


async def test_bad_configuration_is_refused_and_nothing_changes(operate: httpx2.AsyncClient, control: Control) -> None:
    assert (await apply(operate)).status_code == 200
    before = control.present
    for broken, code, path in (
        (files(PLATFORM.replace("terminate", "terminat", 1)), "unknown_value", "platform.yaml:12:60 vips[0].mode"),
        (files() | {"teams/b/b.yaml": TEAM.replace("certs/", "../shop/certs/")}, "duplicate", "teams/shop/www.yaml"),
    ):
        found = problem(await apply(operate, broken), 422)
        assert (found.code, (found.path or "")[: len(path)]) == (code, path) or code == "duplicate"
    assert control.present == before
    rows = problem(await apply(operate, files(PLATFORM + "forwarding: {rows: 5003}\n")), 409)
    assert rows.code == "rows_fixed"
    assert control.present == before


async def test_apply_tells_what_changed_and_again_changes_nothing(operate: httpx2.AsyncClient) -> None:
    first = Applied.model_validate_json((await apply(operate)).content)
    assert (first.version, first.changed) == (1, True)
    assert "pool edge: added" in first.summary
    again = Applied.model_validate_json((await apply(operate)).content)
    assert (again.version, again.changed, again.summary) == (1, False, ())
    third = Applied.model_validate_json(
        (await apply(operate, files(PLATFORM.replace("weight: 2", "weight: 3")))).content
    )
    assert third.summary == ("pool edge: proxy-2 weight 2 → 3",)


async def test_lists_and_status_are_of_their_types(operate: httpx2.AsyncClient, control: Control) -> None:
    await apply(operate)
    status = StatusView.model_validate_json((await operate.get(operator.STATUS)).content)
    assert status.configured
    assert [vip.name for vip in VIP_LIST.validate_json((await operate.get(operator.VIPS)).content)] == [
        "web-v4",
        "web-v6",
    ]
    (pool,) = POOL_LIST.validate_json((await operate.get(operator.POOLS)).content)
    assert (pool.active, pool.min_active, [member.weight for member in pool.members]) == (3, 2, [1, 2, 1])
    assert len(NODE_LIST.validate_json((await operate.get(operator.NODES)).content)) == 5
    for path in (operator.HOSTS, operator.BACKENDS, operator.TABLES):
        assert (await operate.get(path)).status_code == 200
    control.take_report(
        AgentIdentity(node="l4-1", role=AgentRole.BALANCER),
        Report(applied_version=1, nack=None, status=balancer_status(["web-v4"])),
    )
    (first, _) = VIP_LIST.validate_json((await operate.get(operator.VIPS)).content)
    assert first.announced_by == ("l4-1",)


async def test_drain_guard_cancel_over_the_wire(operate: httpx2.AsyncClient) -> None:
    await apply(operate)
    path = operator.NODE_DRAIN.format(name="proxy-1")
    started = DrainView.model_validate_json((await operate.post(path, json={"deadline_s": 60})).content)
    assert (started.state, started.overdue) == ("draining", False)
    assert any("has not reported" in words for words in started.blocked_by)
    guard = problem(await operate.post(operator.NODE_DRAIN.format(name="proxy-2")), 409)
    assert guard.code == operator.CAPACITY_GUARD
    assert "would have 1, and its guard (min_active) is 2" in guard.message
    assert [view.node for view in DRAIN_LIST.validate_json((await operate.get(operator.DRAINS)).content)] == ["proxy-1"]
    assert problem(await operate.get(operator.NODE_DRAIN.format(name="nobody")), 404).code == "not_found"
    last = problem(await operate.post(operator.NODE_DRAIN.format(name="l4-1")), 409)
    assert last.code == operator.LAST_ANNOUNCER, "nobody has reported, so that nobody is known to announce"
    assert problem(await operate.post(operator.NODE_DRAIN.format(name="l4-2")), 409).code == "not_supported"
    back = await operate.post(operator.NODE_DRAIN_CANCEL.format(name="proxy-1"))
    view = DrainView.model_validate_json(back.content)
    assert view.state == "joining"
    assert view.blocked_by[0] == "the redirector of proxy-1 has not reported since this orchestrator started"
    assert problem(await operate.post(operator.NODE_UNDRAIN.format(name="proxy-1")), 409).code == "not_drained"


async def test_an_agent_is_served_as_itself(
    live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient
) -> None:
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    async with live.agent_client(state) as agent:
        early = await agent.get(wire.NODE_SNAPSHOT, params={"after": 0, "wait": 0})
        assert early.status_code == 204, "joined, and not configured yet"
        await apply(operate)
        answer = await agent.get(wire.NODE_SNAPSHOT, params={"after": 0, "wait": 5})
        snapshot = SNAPSHOT.validate_json(answer.content)
        assert isinstance(snapshot, ProxySnapshot)
        assert snapshot.node == "proxy-1"
        wrong = Report(applied_version=1, nack=None, status=balancer_status())
        assert problem(await agent.post(wire.NODE_REPORT, content=wrong.model_dump_json()), 409).code == "wrong_role"
        right = Report(applied_version=1, nack=None, status=proxy_status(3))
        assert (await agent.post(wire.NODE_REPORT, content=right.model_dump_json())).status_code == 204
        assert control.board.flows_open("proxy-1") == 3


async def test_a_watcher_is_answered_as_soon_as_something_changes(
    live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient
) -> None:
    await apply(operate)
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    async with live.agent_client(state) as agent, trio.open_nursery() as nursery:

        async def drain_soon() -> None:
            await operate.post(operator.NODE_DRAIN.format(name="proxy-1"))

        nursery.start_soon(drain_soon)
        with trio.fail_after(5):
            answer = await agent.get(wire.NODE_SNAPSHOT, params={"after": 1, "wait": 20}, timeout=30)
        snapshot = SNAPSHOT.validate_json(answer.content)
        assert isinstance(snapshot, ProxySnapshot)
        assert (snapshot.version, snapshot.goodbye is not None) == (2, True)


@pytest.mark.parametrize(
    "query", [{"after": "-1"}, {"after": "x"}, {"wait": "31"}, {"wait": "nan"}, {"after": "1e300"}]
)
async def test_senseless_queries_are_refused(live: LiveOrchestrator, control: Control, query: dict[str, str]) -> None:
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    async with live.agent_client(state) as agent:
        assert problem(await agent.get(wire.NODE_SNAPSHOT, params=query), 422).code == "invalid_query"


async def test_an_agent_that_is_ahead_of_a_restored_store_lifts_the_revision(
    live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient
) -> None:
    await apply(operate)
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    async with live.agent_client(state) as agent:
        answer = await agent.get(wire.NODE_SNAPSHOT, params={"after": 41, "wait": 5})
        assert SNAPSHOT.validate_json(answer.content).version == 42


async def test_bodies_are_bounded(operate: httpx2.AsyncClient) -> None:
    big = b'{"node": "' + b"x" * (2 * 1024 * 1024) + b'"}'
    assert problem(await operate.post(operator.TOKENS, content=big), 413).code == "too_large"
    assert problem(await operate.post(operator.TOKENS, content=b"{"), 422).code == "invalid_body"
    unknown = {"node": "proxy-1", "role": "proxy", "colour": "red"}
    assert problem(await operate.post(operator.TOKENS, json=unknown), 422).path == "colour"


async def test_join_tokens_over_the_wire(live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient) -> None:
    async def attempt(
        token: str, node: str = "proxy-1", role: str = "proxy", csr: str | None = None
    ) -> httpx2.Response:
        body = {"token": token, "node": node, "role": role, "csr_pem": csr or signing_request(new_key(), PROXY)}
        async with live.client() as anybody:
            return await anybody.post(wire.JOIN, json=body)

    answer = await operate.post(operator.TOKENS, json={"node": "proxy-1", "role": "proxy"})
    token = answer.json()["token"]
    assert problem(await attempt(token, node="proxy-2"), 403).code == "token_of_another_agent"
    assert problem(await attempt(token, role="redirector"), 403).code == "token_of_another_agent"
    assert problem(await attempt(token, csr="nonsense"), 422).code == "signing_request", "and the token is not spent"
    assert (await attempt(token)).status_code == 200
    assert problem(await attempt(token), 403).code == "token_used"
    assert problem(await attempt(token[:-4] + "AAAA"), 403).code == "token_unknown"
    assert problem(await attempt("ef1.x.y"), 422).code == "token_malformed"
    expired, _ = await control.issue_token(PROXY, -1)
    assert problem(await attempt(str(expired)), 403).code == "token_expired"


async def test_an_agent_renews_its_own_certificate_only_while_it_is_known(
    live: LiveOrchestrator, control: Control, operate: httpx2.AsyncClient
) -> None:
    state = await live.joined(control, "proxy-1", AgentRole.PROXY)
    request = {"csr_pem": signing_request(new_key(), AgentIdentity(node="l4-1", role=AgentRole.BALANCER))}
    async with live.agent_client(state) as agent:
        assert problem(await agent.post(wire.NODE_CERTIFICATE, json=request), 404).code == "not_found"
        await apply(operate)
        answer = await agent.post(wire.NODE_CERTIFICATE, json=request)
        pem = wire.JoinResponse.model_validate_json(answer.content).certificate_pem
        assert control.authority.identify(pem, datetime.now(UTC)) == PROXY, "whatever the request names"


async def test_the_servers_certificate_is_for_its_address_only(live: LiveOrchestrator, control: Control) -> None:
    context = verified_context(str(live.data.ca_file))
    async with Connection((f"https://localhost:{live.port}",), context, max_answer_bytes=4096) as connection:
        with pytest.raises(OrchestratorUnreachable, match=r"certificate verify failed: Hostname mismatch"):
            await connection.request("GET", wire.CA)
