"""`edgectl guard` against a real orchestrator: what it does, what it refuses, and with which exit code."""

import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from orchestrator.contract.guard import GuardLimits, Verdict
from orchestrator.contract.operator_guard import ListRequest
from orchestrator.fleet import guard
from tests.orchestrator.live_fleet import LiveFleet, agents, orchestrator
from tests.orchestrator.live_orchestrator import create
from tests.orchestrator.test_edgectl import answer, edgectl, eventually


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveFleet]:
    with orchestrator(tmp_path_factory.mktemp("fleet")) as made:
        assert edgectl(made, "apply", str(made.configuration)).exit_code == 0
        with agents(made):
            yield made


@pytest.fixture
def fleet(made: LiveFleet) -> Iterator[LiveFleet]:
    """Nobody listed, limits as they come."""
    yield made
    assert edgectl(made, "guard", "remove", "--all").exit_code == 0
    assert edgectl(made, "guard", "reset").exit_code == 0


def listed(fleet: LiveFleet) -> dict[str, str]:
    return {entry["prefix"]: entry["verdict"] for entry in answer(fleet, "guard", "show")["entries"]}


def test_blocked_and_allowed_prefixes_are_shown_and_removed(fleet: LiveFleet) -> None:
    done = edgectl(fleet, "guard", "block", "192.0.2.0/24", "2001:db8:66::/48", "--reason", "flood, ticket 4711")
    assert (done.exit_code, done.stdout) == (0, "blocked: 192.0.2.0/24, 2001:db8:66::/48\n")
    assert edgectl(fleet, "guard", "allow", "192.0.2.7").exit_code == 0
    assert listed(fleet) == {"192.0.2.0/24": "block", "192.0.2.7/32": "allow", "2001:db8:66::/48": "block"}
    drawn = edgectl(fleet, "guard", "show").stdout
    for words in ("2 blocked, 1 allowed", "192.0.2.0/24 (flood, ticket 4711)", "l4-1", "10,000"):
        assert words in drawn
    assert edgectl(fleet, "guard", "remove", "192.0.2.0/24").stdout == "no longer listed: 192.0.2.0/24\n"
    assert "192.0.2.0/24" not in listed(fleet)


def test_the_same_again_changes_nothing_and_says_so(fleet: LiveFleet) -> None:
    edgectl(fleet, "guard", "block", "192.0.2.0/24")
    again = edgectl(fleet, "guard", "block", "192.0.2.0/24")
    assert (again.exit_code, again.stdout) == (0, "nothing changed: it was so already\n")
    assert answer(fleet, "guard", "block", "192.0.2.0/24")["changed"] is False


def test_show_says_which_entry_decides(fleet: LiveFleet) -> None:
    edgectl(fleet, "guard", "block", "192.0.2.0/24", "--for", "1h", "--reason", "flood")
    edgectl(fleet, "guard", "allow", "192.0.2.7")
    blocked = edgectl(fleet, "guard", "show", "192.0.2.8").stdout
    assert "192.0.2.8 is blocked: its packets are dropped, by 192.0.2.0/24, for " in blocked
    assert "(flood)" in blocked
    assert "192.0.2.7 is allowed" in edgectl(fleet, "guard", "show", "192.0.2.7").stdout
    assert "is not listed" in edgectl(fleet, "guard", "show", "192.0.3.7").stdout
    found = answer(fleet, "guard", "show", "192.0.2.8")
    assert (found["verdict"], found["entry"]["prefix"]) == ("block", "192.0.2.0/24")
    assert edgectl(fleet, "guard", "show", "192.0.2.0/24").exit_code == 1


def test_prefixes_come_from_a_file(fleet: LiveFleet, tmp_path: Path) -> None:
    file = tmp_path / "botnet.txt"
    lines = [f"11.{number >> 8}.{number & 255}.0/24" for number in range(10_000)]
    file.write_text("# seen today\n\n" + "\n".join(f"{line}  # bot" for line in lines))
    assert edgectl(fleet, "guard", "block", "--file", str(file), "--for", "1d").exit_code == 0
    assert len(listed(fleet)) == 10_000
    assert "and 9980 more" in edgectl(fleet, "guard", "show").stdout
    assert edgectl(fleet, "guard", "remove", "--file", str(file)).exit_code == 0
    assert listed(fleet) == {}


def test_a_bad_line_is_named_and_nothing_is_changed(fleet: LiveFleet, tmp_path: Path) -> None:
    file = tmp_path / "botnet.txt"
    file.write_text("192.0.2.0/24\n192.0.2.7/24\n")
    result = edgectl(fleet, "guard", "block", "--file", str(file))
    assert result.exit_code == 1
    assert "botnet.txt:2: 192.0.2.7/24 has host bits set" in result.stderr
    assert "192.0.2.0/24, if that is meant" in result.stderr
    assert listed(fleet) == {}


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "198.18.2.0/24"])
def test_what_would_hurt_the_fleet_takes_force(fleet: LiveFleet, prefix: str) -> None:
    refused = edgectl(fleet, "guard", "block", prefix)
    assert refused.exit_code == 3
    assert "--force" in refused.stderr
    assert listed(fleet) == {}
    assert edgectl(fleet, "guard", "block", prefix, "--force").exit_code == 0
    assert listed(fleet) == {prefix: "block"}


def test_entries_with_an_end_go_by_themselves(fleet: LiveFleet) -> None:
    edgectl(fleet, "guard", "block", "192.0.2.0/24", "--for", "1s")
    edgectl(fleet, "guard", "block", "192.0.3.0/24", "--for", "1h")
    eventually(lambda: listed(fleet) == {"192.0.3.0/24": "block"}, "the first entry is gone")


def test_limits_are_set_and_reset(fleet: LiveFleet) -> None:
    assert edgectl(fleet, "guard", "limit", "source", "500").stdout == "limit of source: 500 a second, bursts of 1000\n"
    assert edgectl(fleet, "guard", "limit", "new-flows", "none").stdout == "limit of new flows: none\n"
    edgectl(fleet, "guard", "limit", "vip", "5000", "--burst", "6000", "--vip", "web-v4")
    limits = answer(fleet, "guard", "show")["limits"]
    assert limits["source"] == {"per_second": 500, "burst": 1000}
    assert limits["new_flows"] is None
    assert limits["vips"] == {"web-v4": {"per_second": 5000, "burst": 6000}}
    drawn = edgectl(fleet, "guard", "show").stdout
    for words in ("VIP web-v4", "6,000", "usually 50,000", "no limit"):
        assert words in drawn
    assert edgectl(fleet, "guard", "limit", "vip", "usual", "--vip", "web-v4").exit_code == 0
    assert edgectl(fleet, "guard", "reset").exit_code == 0
    assert answer(fleet, "guard", "show")["limits"] == json.loads(GuardLimits().model_dump_json())


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("block",), 2, "no prefix was given"),
        (("block", "example.com"), 1, "198.51.100.0/24"),
        (("block", "192.0.2.0/24", "--for", "soon"), 2, "90s, 30m, 1h or 7d"),
        (("remove", "--all", "192.0.2.0/24"), 2, "goes without prefixes"),
        (("remove", "192.0.2.0/24"), 1, "not listed, so nothing was removed"),
        (("limit", "vip", "0"), 2, "from 1 on"),
        (("limit", "source", "5", "--vip", "web-v4"), 2, "--vip goes with"),
        (("limit", "vip", "usual"), 2, "`usual` goes with --vip"),
        (("limit", "vip", "5", "--vip", "web-v9"), 1, "there is no VIP web-v9"),
        (("limit", "vip", "none", "--burst", "5"), 2, "no limit has no burst"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    fleet: LiveFleet, arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    result = edgectl(fleet, "guard", *arguments)
    assert result.exit_code == exit_code, result.output
    assert words in result.stderr


async def test_the_guard_outlives_the_orchestrator(tmp_path: Path) -> None:
    live = await create(tmp_path)
    request = ListRequest(verdict=Verdict.BLOCK, prefixes=(ip_network("192.0.2.0/24"),))
    async with live.running() as control:
        await control.change_guard(
            lambda present: guard.put_on_list(present.fleet, present.configuration, request, control.wall())
        )
        before = control.present.fleet.guard
    async with live.running() as control:
        assert control.present.fleet.guard == before
        assert [entry.prefix for entry in before.entries] == list(request.prefixes)
