"""Bad configuration: each kind is refused with file, line, column, field and what to do; all findings come at once."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config.compile import load_configuration
from orchestrator.config.findings import ConfigurationRefused
from orchestrator.contract.route import BackendProtocol, HealthKind
from orchestrator.contract.wire import Problem
from tests.orchestrator.fleets import PLATFORM, TEAM, TEAM_FILE, files, key_pair


def refused(given_files: dict[str, str]) -> tuple[Problem, ...]:
    with pytest.raises(ConfigurationRefused) as refusal:
        load_configuration(given_files)
    for problem in refusal.value.problems:
        assert problem.message
        assert problem.hint, f"{problem.code} does not say what to do"
    return refusal.value.problems


def test_the_example_is_accepted_and_compiled() -> None:
    configuration = load_configuration(files())
    assert [vip.name for vip in configuration.vips] == ["web-v4", "web-v6"]
    assert configuration.hosts[0].host.owner == "shop"
    assert configuration.hosts[0].source == f"{TEAM_FILE}:2:5"
    assert configuration.certificates[0].hosts == ("www.example.com",)
    assert str(configuration.nodes[0].bgp and configuration.nodes[0].bgp.router_id) == "198.18.1.11"
    assert load_configuration(dict(reversed(files().items()))).digest == configuration.digest


def platform(old: str, new: str) -> dict[str, str]:
    assert old in PLATFORM
    return files(PLATFORM.replace(old, new, 1))


def team(old: str, new: str) -> dict[str, str]:
    assert old in TEAM
    return files(team=TEAM.replace(old, new, 1))


BAD: dict[str, tuple[dict[str, str], str, str, str]] = {
    "unknown VIP mode": (
        platform("mode: terminate", "mode: terminat"),
        "unknown_value",
        "platform.yaml:12:60 vips[0].mode",
        "terminat",
    ),
    "mode that is not served": (
        platform("mode: terminate", "mode: passthrough-sni"),
        "mode_not_served",
        "platform.yaml:12:60 vips[0].mode",
        "not served by this version",
    ),
    "address and port in use twice": (
        platform('"2001:db8:203::10"', "203.0.113.10"),
        "address_in_use",
        "platform.yaml:13:29 vips[1].address",
        "web-v4 already, at platform.yaml:12:5",
    ),
    "VIP on a node's address": (
        platform("203.0.113.10", "198.18.2.11"),
        "address_in_use",
        "platform.yaml:12:29 vips[0].address",
        "proxy-1",
    ),
    "empty pool": (
        platform("[{node: proxy-1}, {node: proxy-2, weight: 2}, {node: proxy-3}]", "[]"),
        "empty_pool",
        "platform.yaml:9:14 pools[0].members",
        "no members",
    ),
    "guard above the number of members": (
        platform("min_active: 2", "min_active: 4"),
        "guard_too_high",
        "platform.yaml:10:17 pools[0].min_active",
        "min_active is 4, and the pool has 3 members",
    ),
    "unknown node": (
        platform("{node: proxy-3}", "{node: proxy-4}"),
        "unknown_node",
        "platform.yaml:9:67 pools[0].members[2].node",
        "proxy-4",
    ),
    "L4 node as a member": (
        platform("{node: proxy-3}", "{node: l4-1}"),
        "wrong_kind",
        "platform.yaml:9:67 pools[0].members[2].node",
        "L4 node",
    ),
    "unknown pool": (
        platform("pool: edge", "pool: edgy"),
        "unknown_pool",
        "platform.yaml:12:77 vips[0].pool",
        "edgy",
    ),
    "text for a number": (
        platform("port: 443", 'port: "443"'),
        "invalid_value",
        "platform.yaml:12:49 vips[0].port",
        "integer",
    ),
    "truth for a number": (
        platform("port: 443", "port: true"),
        "invalid_value",
        "platform.yaml:12:49 vips[0].port",
        "integer",
    ),
    "unknown field": (
        platform("mode: terminate", "mode: terminate, prot: 1"),
        "unknown_field",
        "platform.yaml:12:71 vips[0].prot",
        "prot",
    ),
    "missing field": (
        platform("port: 443, ", ""),
        "missing_field",
        "platform.yaml:12:5 vips[0].port",
        "port",
    ),
    "unknown section": (files(PLATFORM + "vipz: []\n"), "unknown_field", "platform.yaml:14:1 vipz", "vipz"),
    "duplicate key": (
        platform("min_active: 2", "min_active: 2\n    min_active: 1"),
        "duplicate_key",
        "platform.yaml:11:5",
        "min_active",
    ),
    "broken YAML": (platform("- name: edge", "- name: [edge"), "yaml_syntax", "platform.yaml:", ""),
    "rows that are not prime": (
        files(PLATFORM + "forwarding: {rows: 65536}\n"),
        "not_prime",
        "platform.yaml:14:20 forwarding.rows",
        "65536",
    ),
    "name that is not one": (
        platform("name: web-v4", "name: Web_v4"),
        "invalid_name",
        "platform.yaml:12:12 vips[0].name",
        "Web_v4",
    ),
    "two nodes of one name": (
        platform("name: proxy-2, kind", "name: proxy-1, kind"),
        "duplicate",
        "platform.yaml:5:5 nodes[3]",
        "platform.yaml:4:5",
    ),
    "multicast VIP": (
        platform("203.0.113.10", "224.0.0.1"),
        "invalid_address",
        "platform.yaml:12:29 vips[0].address",
        "announced",
    ),
    "unknown backend": (
        team("backend: shop-web", "backend: shop-wob"),
        "unknown_backend",
        f"{TEAM_FILE}:6:41 hosts[0].routes[0].backend",
        "shop-wob",
    ),
    "route with two paths": (
        team("prefix: /", "prefix: /, exact: /x"),
        "invalid_value",
        f"{TEAM_FILE}:6:9 hosts[0].routes[0]",
        "exactly one",
    ),
    "certificate file that is not there": (
        team("certs/www.pem", "certs/w.pem"),
        "file_missing",
        f"{TEAM_FILE}:3:18 hosts[0].certificate",
        "teams/shop/certs/w.pem",
    ),
    "certificate outside the directory": (
        team("certs/www.pem", "../../../etc/passwd"),
        "path_outside",
        f"{TEAM_FILE}:3:18 hosts[0].certificate",
        "outside",
    ),
    "key without certificate": (
        team("    certificate: certs/www.pem\n", ""),
        "missing_field",
        f"{TEAM_FILE}:2:5 hosts[0].certificate",
        "certificate",
    ),
    "host without a certificate behind TLS only": (
        team("    certificate: certs/www.pem\n    key: certs/www.key\n", ""),
        "certificate_missing",
        f"{TEAM_FILE}:2:5 hosts[0]",
        "no certificate",
    ),
    "key of another certificate": (
        files() | {"teams/shop/certs/www.key": key_pair("www.example.com")[1]},
        "key_mismatch",
        f"{TEAM_FILE}:4:10 hosts[0].key",
        "does not belong",
    ),
    "key that is none": (
        files() | {"teams/shop/certs/www.key": "no key"},
        "key_unreadable",
        f"{TEAM_FILE}:4:10 hosts[0].key",
        "private key",
    ),
    "certificate that is none": (
        files() | {"teams/shop/certs/www.pem": "no certificate"},
        "certificate_unreadable",
        f"{TEAM_FILE}:3:18 hosts[0].certificate",
        "not a PEM certificate",
    ),
    "certificate for another host": (
        team("name: www.example.com", "name: shop.example.com"),
        "certificate_not_for_host",
        f"{TEAM_FILE}:3:18 hosts[0].certificate",
        "www.example.com, not shop.example.com",
    ),
    "CA of clients that is none": (
        team("    routes:", "    client_certificate: {ca: certs/www.pem}\n    routes:"),
        "certificate_not_ca",
        f"{TEAM_FILE}:5:30 hosts[0].client_certificate.ca",
        "CN=www.example.com is not a CA's certificate",
    ),
    "CA of clients that is no certificate": (
        team("    routes:", "    client_certificate: {ca: certs/www.key}\n    routes:"),
        "certificate_unreadable",
        f"{TEAM_FILE}:5:30 hosts[0].client_certificate.ca",
        "not a file of PEM certificates",
    ),
    "CA of clients that is not there": (
        team("    routes:", "    client_certificate: {ca: certs/ca.pem}\n    routes:"),
        "file_missing",
        f"{TEAM_FILE}:5:30 hosts[0].client_certificate.ca",
        "certs/ca.pem",
    ),
    "client certificates without TLS": (
        files(
            PLATFORM.replace("pool: edge}", "pool: edge, tls: false}", 1),
            TEAM.replace(
                "    certificate: certs/www.pem\n    key: certs/www.key\n",
                "    client_certificate: {ca: certs/www.pem}\n",
            ),
        ),
        "client_certificate_without_tls",
        f"{TEAM_FILE}:3:25 hosts[0].client_certificate",
        "no certificate of its own",
    ),
    "two certificates of one kind": (
        team(
            "    certificate: certs/www.pem\n    key: certs/www.key\n",
            "    certificates:\n" + "      - {certificate: certs/www.pem, key: certs/www.key}\n" * 2,
        ),
        "certificate_kind_repeated",
        f"{TEAM_FILE}:5:23 hosts[0].certificates[1].certificate",
        f"with an ECDSA key already, at {TEAM_FILE}:4:23",
    ),
    "certificates in both ways of writing": (
        team(
            "    key: certs/www.key\n",
            "    key: certs/www.key\n    certificates: [{certificate: certs/www.pem, key: certs/www.key}]\n",
        ),
        "certificate_written_twice",
        f"{TEAM_FILE}:5:19 hosts[0].certificates",
        "beside `certificate`",
    ),
    "CA of a backend that is none": (
        team("    health:", "    tls: {ca: certs/www.pem, server_name: backend}\n    health:"),
        "certificate_not_ca",
        f"{TEAM_FILE}:10:15 backends[0].tls.ca",
        "not a CA's certificate",
    ),
    "backend without a name to verify": (
        team("    health:", "    tls: {ca: certs/www.pem}\n    health:"),
        "missing_field",
        f"{TEAM_FILE}:10:10 backends[0].tls.server_name",
        "'server_name' is missing",
    ),
    "key of another certificate towards a backend": (
        team(
            "    health:",
            "    tls:\n      client_certificate: {key: k.pem, certificate: certs/www.pem}\n"
            "      ca: certs/www.pem\n      server_name: b\n    health:",
        )
        | {"teams/shop/k.pem": key_pair("www.example.com")[1]},
        "key_mismatch",
        f"{TEAM_FILE}:11:33 backends[0].tls.client_certificate.key",
        "does not belong",
    ),
    "PROXY header on connections that clients share": (
        team("    health:", "    send_proxy_protocol: v2\n    protocol: h2\n    health:"),
        "proxy_protocol_with_h2",
        f"{TEAM_FILE}:10:26 backends[0].send_proxy_protocol",
        "shared by clients",
    ),
    "health by gRPC without HTTP/2": (
        team("    health: {", "    health: {kind: grpc, "),
        "grpc_health_without_h2",
        f"{TEAM_FILE}:10:20 backends[0].health.kind",
        "gRPC needs HTTP/2",
    ),
    "protocol that is none": (
        team("    health:", "    protocol: http2\n    health:"),
        "unknown_value",
        f"{TEAM_FILE}:10:15 backends[0].protocol",
        "'http2' is not known here",
    ),
    "host claimed twice": (
        files() | {"teams/other/a.yaml": TEAM.replace("certs/", "../shop/certs/").replace("shop-web", "other-web")},
        "host_claimed_twice",
        f"{TEAM_FILE}:2:11 hosts[0].name",
        "here and at teams/other/a.yaml:2:11",
    ),
    "backend of another team": (
        files() | {"teams/other/a.yaml": TEAM.split("backends:")[0].replace("certs/", "../shop/certs/")},
        "backend_of_another_team",
        "teams/other/a.yaml:6:41 hosts[0].routes[0].backend",
        "belongs to shop",
    ),
    "no platform.yaml": ({TEAM_FILE: "{}"}, "file_missing", "platform.yaml", "there is no platform.yaml"),
    "file in no place": (files() | {"owners.yaml": "{}"}, "unknown_file", "owners.yaml", "neither"),
    "file that is too large": (files() | {"a.pem": "x" * (1024 * 1024 + 1)}, "too_large", "a.pem", "bytes"),
    "nesting without end": (files(PLATFORM + "x: " + "[" * 200 + "]" * 200), "too_deep", "platform.yaml", "deeper"),
    "key that is a mapping": (files(PLATFORM + "x: {y: 1, [{z: 1}]}\n"), "wrong_shape", "platform.yaml", "a mapping"),
    "key that is a number": (files(PLATFORM + "7: x\n"), "wrong_shape", "platform.yaml", "not text"),
}


@pytest.mark.parametrize(("given_files", "code", "path", "words"), BAD.values(), ids=BAD.keys())
def test_refused(given_files: dict[str, str], code: str, path: str, words: str) -> None:
    found = [problem for problem in refused(given_files) if problem.code == code]
    assert found, refused(given_files)
    assert (found[0].path or "").startswith(path)
    assert words in found[0].message


def test_all_findings_come_at_once_in_the_order_of_the_files() -> None:
    broken = PLATFORM.replace("mode: terminate", "mode: terminat", 1).replace("min_active: 2", "min_active: 9")
    problems = refused(files(broken, TEAM.replace("backend: shop-web", "backend: x")))
    assert [problem.code for problem in problems] == ["guard_too_high", "unknown_value", "unknown_backend"]


def test_an_entry_that_is_wrong_elsewhere_can_still_be_referred_to() -> None:
    problems = refused(platform("min_active: 2", "min_active: two"))
    assert [problem.code for problem in problems] == ["invalid_value"]


def test_what_backends_speak_and_how_long_calls_may_take_comes_through() -> None:
    given = team("    health: {", "    protocol: h2\n    health: {kind: grpc, service: shop.Cart, ")
    text = given[TEAM_FILE].replace("prefix: /,", "prefix: /, grpc_max_deadline_s: 60,")
    config = load_configuration(given | {TEAM_FILE: text})
    backend = config.backends[0].backend
    assert backend.protocol is BackendProtocol.H2
    assert (backend.health.kind, backend.health.service) == (HealthKind.GRPC, "shop.Cart")
    assert config.hosts[0].host.routes[0].grpc_max_deadline_s == 60


def test_aliases_that_explode_are_stopped_early() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )
    began = time.monotonic()
    assert refused(files(bomb))[0].code == "too_large"
    assert time.monotonic() - began < 5


def test_a_certificate_with_a_wildcard_serves_one_label() -> None:
    pem, key = key_pair("*.example.com")
    load_configuration(files() | {"teams/shop/certs/www.pem": pem, "teams/shop/certs/www.key": key})
    deeper = team("name: www.example.com", "name: a.www.example.com")
    problems = refused(deeper | {"teams/shop/certs/www.pem": pem, "teams/shop/certs/www.key": key})
    assert problems[0].code == "certificate_not_for_host"


def test_no_finding_repeats_a_key() -> None:
    _, other = key_pair("www.example.com")
    problems = refused(files() | {"teams/shop/certs/www.key": other})
    assert "PRIVATE" not in str(problems).replace("-----BEGIN PRIVATE KEY-----", "")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(PLATFORM) - 1), st.text(max_size=6), st.integers(0, 12))
def test_any_damage_is_refused_with_findings_or_accepted_never_a_crash(at: int, text: str, cut: int) -> None:
    damaged = PLATFORM[:at] + text + PLATFORM[at + cut :]
    try:
        load_configuration(files(damaged))
    except ConfigurationRefused as refusal:
        assert all(problem.hint for problem in refusal.problems)
