"""BGP in platform.yaml: what it becomes, and what is refused, in its place and with what to do."""

from pathlib import Path

import pytest

from orchestrator.cli.configuration_directory import read_directory
from orchestrator.config.compile import load_configuration
from orchestrator.config.difference import describe_change
from orchestrator.config.findings import ConfigurationRefused
from orchestrator.contract.snapshot import Bgp
from tests.orchestrator.fleets import PLATFORM, files

NEIGHBOR = "{address: 198.18.1.1, asn: 64600}"
SECOND = "{address: 198.18.1.2, asn: 64600, password_file: keys/router-2.txt}"
SECRET = "correct horse battery staple"


def with_bgp(old: str, new: str, **beside: str) -> dict[str, str]:
    assert old in PLATFORM
    return files(PLATFORM.replace(old, new, 1)) | {f"keys/{name}.txt": text for name, text in beside.items()}


def speaker(given: dict[str, str]) -> Bgp:
    bgp = load_configuration(given).nodes[0].bgp
    assert bgp is not None
    return bgp


def test_every_choice_comes_through() -> None:
    chosen = "communities: ['64600:7', 64600:1:002], med: 20, soft_med: 500, soft_prepend: 2, bfd: false"
    found = speaker(with_bgp("asn: 64601,", f"asn: 64601, {chosen},"))
    assert found.communities == ("64600:7", "64600:1:2")
    assert (found.med, found.soft_med, found.soft_prepend, found.bfd) == (20, 500, 2, False)


def test_what_is_not_said_makes_a_drained_node_the_last_resort() -> None:
    found = speaker(files())
    assert (found.med, found.soft_med, found.soft_prepend, found.bfd) == (0, 4294967295, 3, True)


def test_each_neighbour_has_a_password_of_its_own() -> None:
    given = with_bgp(NEIGHBOR, f"{NEIGHBOR}, {SECOND}", **{"router-2": f"{SECRET}\n"})
    found = speaker(given)
    assert [neighbor.password for neighbor in found.neighbors] == [None, SECRET]
    configuration = load_configuration(given)
    assert SECRET not in repr(configuration)
    said = describe_change(load_configuration(files()), configuration)
    assert said == ("node l4-1: bgp changed",)


def test_password_files_are_sent_along(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "router-2.txt").write_text(SECRET)
    (tmp_path / "keys" / "other.txt").write_text("nobody names it")
    (tmp_path / "platform.yaml").write_text(PLATFORM.replace(NEIGHBOR, f"{NEIGHBOR}, {SECOND}"))
    assert read_directory(tmp_path).keys() == {"platform.yaml", "keys/router-2.txt"}


BAD = {
    "a community out of range": (
        with_bgp("asn: 64601,", "asn: 64601, communities: [64600:1, 70000:1],"),
        "invalid_value nodes[0].bgp.communities[1]",
        "70000:1",
        "'70000:1' is no community",
    ),
    "a large community out of range": (
        with_bgp("asn: 64601,", "asn: 64601, communities: [64600:1:4294967296],"),
        "invalid_value nodes[0].bgp.communities[0]",
        "64600:1:4294967296",
        "is no community",
    ),
    "a community that is a number": (
        with_bgp("asn: 64601,", "asn: 64601, communities: [64600],"),
        "invalid_value nodes[0].bgp.communities[0]",
        "64600]",
        "64600 is no community",
    ),
    "graceful shutdown for ever": (
        with_bgp("asn: 64601,", "asn: 64601, communities: ['65535:0'],"),
        "invalid_value nodes[0].bgp.communities[0]",
        "'65535:0'",
        "about to go (RFC 8326)",
    ),
    "a black hole": (
        with_bgp("asn: 64601,", "asn: 64601, communities: [65535:0666],"),
        "invalid_value nodes[0].bgp.communities[0]",
        "65535:0666",
        "drop the VIP's packets (RFC 7999)",
    ),
    "a drain that attracts": (
        with_bgp("asn: 64601,", "asn: 64601, med: 100, soft_med: 50,"),
        "soft_med_better nodes[0].bgp.soft_med",
        "50,",
        "routers would prefer the node while it drains",
    ),
    "a neighbour twice": (
        with_bgp(NEIGHBOR, f"{NEIGHBOR}, {NEIGHBOR}"),
        "duplicate nodes[0].bgp.neighbors[1].address",
        "198.18.1.1,",
        "198.18.1.1 is there already, as number 1",
    ),
    "a neighbour that is no router": (
        with_bgp("198.18.1.1,", "224.0.0.5,"),
        "invalid_address nodes[0].bgp.neighbors[0].address",
        "224.0.0.5",
        "no router's own address",
    ),
    "no password file": (
        with_bgp(NEIGHBOR, SECOND),
        "file_missing nodes[0].bgp.neighbors[0].password_file",
        "keys/router-2",
        "there is no file keys/router-2.txt",
    ),
    "a password file that lies elsewhere": (
        with_bgp(NEIGHBOR, SECOND.replace("keys/", "../")),
        "path_outside nodes[0].bgp.neighbors[0].password_file",
        "../router-2",
        "outside the directory",
    ),
    "a password that BIRD cannot hold": (
        with_bgp(NEIGHBOR, SECOND, **{"router-2": 'a "quoted" one'}),
        "password_unusable nodes[0].bgp.neighbors[0].password_file",
        "keys/router-2",
        "one password on one line",
    ),
    "a password too long for the kernel": (
        with_bgp(NEIGHBOR, SECOND, **{"router-2": "x" * 81}),
        "password_unusable nodes[0].bgp.neighbors[0].password_file",
        "keys/router-2",
        "one password on one line",
    ),
}


@pytest.mark.parametrize(("given", "code_and_field", "value", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_refused_in_its_place(
    given: dict[str, str], code_and_field: str, value: str, words: str
) -> None:
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(given)
    (problem,) = refusal.value.problems
    code, field = code_and_field.split()
    column = given["platform.yaml"].splitlines()[1].rindex(value) + 1
    assert (problem.code, problem.path) == (code, f"platform.yaml:2:{column} {field}")
    assert words in problem.message
    assert problem.hint
    assert "quoted" not in f"{problem.message}{problem.hint}", "no password is in a finding"
