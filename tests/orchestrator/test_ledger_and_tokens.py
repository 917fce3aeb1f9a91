"""What is kept in the store: no change is lost, a restored backup is passed, tokens are good once."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509

from orchestrator.config.configuration import Configuration
from orchestrator.contract.keys import new_key, signing_request
from orchestrator.contract.node import AgentIdentity, AgentRole
from orchestrator.contract.token import TokenMalformed, parse_token
from orchestrator.fleet.authority import IdentityUnknown, OperatorIdentity, RequestUnusable, create_authority
from orchestrator.fleet.document import FleetRefused, FleetState
from orchestrator.fleet.ledger import FLEET_KEY, Present, create_fleet, open_ledger
from orchestrator.fleet.membership import configure
from orchestrator.fleet.tokens import REMEMBERED_S, TokenRefused, issue_token, redeem_token
from orchestrator.state.sqlite import SqliteStore
from orchestrator.state.store import Conflict, StoreUnusable
from tests.orchestrator.fleets import HASH_KEY, PLATFORM, configuration

PROXY = AgentIdentity(node="proxy-1", role=AgentRole.PROXY)
OTHER = AgentIdentity(node="proxy-2", role=AgentRole.PROXY)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = SqliteStore.open(tmp_path / "store.sqlite")
    await create_fleet(opened, HASH_KEY)
    yield opened
    opened.close()


def put(wanted: Configuration, present: Present) -> tuple[FleetState, Configuration]:
    return configure(present.fleet, present.configuration, wanted, 0.0), wanted


async def test_configuration_and_fleet_change_together_or_not_at_all(store: SqliteStore) -> None:
    ledger = await open_ledger(store)
    wanted = configuration()
    present = await ledger.change(lambda present: put(wanted, present))
    assert (present.fleet.revision, len(present.fleet.members)) == (1, 3)
    again = await ledger.change(lambda present: put(wanted, present))
    assert again.fleet.revision == 1, "nothing new is no new revision"
    refused = configuration(PLATFORM + "forwarding: {rows: 5003}\n")
    with pytest.raises(FleetRefused):
        await ledger.change(lambda present: put(refused, present))
    reopened = await open_ledger(store)
    assert reopened.present.fleet == present.fleet
    assert reopened.present.configuration == wanted


async def test_two_writers_lose_no_change(store: SqliteStore) -> None:
    ledgers = [await open_ledger(store) for _ in range(2)]

    async def add(number: int) -> None:
        for step in range(20):
            name = f"vip-{number}-{step}"

            def decide(present: Present, name: str = name) -> tuple[FleetState, Configuration]:
                ids = present.fleet.vip_ids | {name: len(present.fleet.vip_ids) + 1}
                return present.fleet.model_copy(update={"vip_ids": ids}), present.configuration

            await ledgers[number].change(decide)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(add, 0)
        nursery.start_soon(add, 1)
    fleet = (await open_ledger(store)).present.fleet
    assert fleet.revision == 40
    assert sorted(fleet.vip_ids.values()) == list(range(1, 41))


async def test_waiters_wake_by_the_change_of_another_process(store: SqliteStore, tmp_path: Path) -> None:
    ledger = await open_ledger(store)
    other_store = SqliteStore.open(tmp_path / "store.sqlite")
    other = await open_ledger(other_store)
    wanted = configuration()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ledger.follow)
        nursery.start_soon(other.change, lambda present: put(wanted, present))
        with trio.fail_after(5):
            assert (await ledger.beyond(0)).configuration == wanted
        nursery.cancel_scope.cancel()
    other_store.close()


async def test_versions_go_on_beyond_what_agents_run_after_a_restored_backup(store: SqliteStore) -> None:
    ledger = await open_ledger(store)
    wanted = configuration()
    await ledger.change(lambda present: put(wanted, present))
    await ledger.pass_version(41)
    assert ledger.present.fleet.revision == 42
    newest = ledger.present.fleet.pools[0].newest
    assert (newest.generation.number, newest.revision) == (1, 42), "nobody has applied it in this history"
    await ledger.pass_version(41)
    assert ledger.present.fleet.revision == 42
    with pytest.raises(FleetRefused, match="never was one of this fleet"):
        await ledger.pass_version(10**9)


async def test_old_configurations_are_forgotten_but_the_previous_one(store: SqliteStore) -> None:
    ledger = await open_ledger(store)
    for weight in (2, 3, 4, 5):
        wanted = configuration(PLATFORM.replace("weight: 2", f"weight: {weight}"))
        await ledger.change(lambda present, wanted=wanted: put(wanted, present))  # type: ignore[misc]
    assert len(await store.keys("configuration/")) == 2


async def test_a_store_without_its_configuration_says_so(store: SqliteStore) -> None:
    fleet = FleetState(hash_key=HASH_KEY, configuration="00")
    entry = await store.get(FLEET_KEY)
    assert entry is not None
    await store.put_if_version(FLEET_KEY, fleet.model_dump_json().encode(), entry.version)
    with pytest.raises(StoreUnusable, match="configuration 00 is missing"):
        await open_ledger(store)
    with pytest.raises(Conflict):
        await create_fleet(store, HASH_KEY)


async def refusal(store: SqliteStore, text: str, identity: AgentIdentity, now: float) -> str:
    with pytest.raises(TokenRefused) as refused:
        await redeem_token(store, parse_token(text), identity, now)
    assert refused.value.hint
    return refused.value.code


async def test_a_token_is_good_once_for_its_agent_and_for_a_while(store: SqliteStore) -> None:
    token = await issue_token(store, "ab" * 32, PROXY, 60, now=1000)
    assert await refusal(store, str(token), OTHER, 1001) == "token_of_another_agent"
    await redeem_token(store, token, PROXY, 1002)
    assert await refusal(store, str(token), PROXY, 1003) == "token_used"
    late = await issue_token(store, "ab" * 32, PROXY, 60, now=1000)
    assert await refusal(store, str(late), PROXY, 1060) == "token_expired"
    assert await refusal(store, f"ef1.{'ab' * 32}.{'x' * 43}", PROXY, 1000) == "token_unknown"
    for key in await store.keys("token/"):
        entry = await store.get(key)
        assert entry is not None
        assert token.secret.encode() not in entry.value + key.encode(), "only the hash is kept"


async def test_of_two_that_redeem_one_token_at_once_one_is_refused(store: SqliteStore) -> None:
    token = await issue_token(store, "ab" * 32, PROXY, 60, now=1000)
    outcomes: list[str] = []

    async def redeem() -> None:
        try:
            await redeem_token(store, token, PROXY, 1001)
            outcomes.append("joined")
        except TokenRefused as refused:
            outcomes.append(refused.code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(redeem)
        nursery.start_soon(redeem)
    assert sorted(outcomes) == ["joined", "token_used"]


async def test_old_tokens_are_forgotten(store: SqliteStore) -> None:
    await issue_token(store, "ab" * 32, PROXY, 60, now=1000)
    await issue_token(store, "ab" * 32, PROXY, 60, now=1061 + REMEMBERED_S)
    assert len(await store.keys("token/")) == 1


@pytest.mark.parametrize("text", ["", "hunter2", f"ef2.{'a' * 64}.{'x' * 43}", f"ef1.{'a' * 63}.{'x' * 43}"])
def test_what_is_no_token_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(TokenMalformed) as refused:
        parse_token(text)
    assert not text or text not in str(refused.value)


def test_the_authority_believes_no_name_in_a_request() -> None:
    now = datetime.now(UTC)
    authority = create_authority(now)
    pem = authority.certify_agent(signing_request(new_key(), OTHER), PROXY, now)
    assert authority.identify(pem, now) == PROXY
    operator = authority.certify_operator(new_key().public_key(), "first", now)
    assert authority.identify(operator, now) == OperatorIdentity("first")
    with pytest.raises(RequestUnusable):
        authority.certify_agent("no request", PROXY, now)


def test_who_is_not_of_this_fleet_is_nobody() -> None:
    now = datetime.now(UTC)
    authority, stranger = create_authority(now), create_authority(now)
    foreign = stranger.certify_agent(signing_request(new_key(), PROXY), PROXY, now)
    with pytest.raises(IdentityUnknown, match="not one of this fleet's"):
        authority.identify(foreign, now)
    mine = authority.certify_agent(signing_request(new_key(), PROXY), PROXY, now)
    end = x509.load_pem_x509_certificate(mine.encode()).not_valid_after_utc
    with pytest.raises(IdentityUnknown, match="valid until"):
        authority.identify(mine, end + timedelta(seconds=1))
    server = authority.certify_server(new_key().public_key(), [], ["edge.example.com"], now)
    with pytest.raises(IdentityUnknown, match="neither an agent nor an operator"):
        authority.identify(server, now)
