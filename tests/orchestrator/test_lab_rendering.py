"""What the lab writes for BIRD, nginx and `edgectl apply`, and its certificates. No root needed."""

import stat
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from ruamel.yaml import YAML

from orchestrator.lab.backends import nginx_configuration
from orchestrator.lab.certificates import issue
from orchestrator.lab.configuration import write_configuration
from orchestrator.lab.content import content_of, downloads, small, write_content
from orchestrator.lab.router import bird_configuration
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import HOST_NAME, topology_of

SPEC = LabSpec(l4_nodes=3, proxies=4, backends=2, min_active=3, owners_per_row=1)
TOPOLOGY = topology_of(SPEC)


def test_the_router_has_a_session_of_each_family_with_each_l4_node() -> None:
    text = bird_configuration(TOPOLOGY, TOPOLOGY.entry)
    assert text.count("protocol bgp ") == 2 * SPEC.l4_nodes
    assert "local 198.18.1.1 as 64600;\n  neighbor 198.18.1.13 as 64603;\n  ipv4 {" in text
    assert "local 2001:db8:18:1::1 as 64600;\n  neighbor 2001:db8:18:1::13 as 64603;\n  ipv6 {" in text
    assert text.count("merge paths yes limit 3;") == 2


def test_the_router_takes_host_routes_of_vip_prefixes_only() -> None:
    text = bird_configuration(TOPOLOGY, TOPOLOGY.entry)
    assert "203.0.113.0/24{32,32}" in text
    assert "2001:db8:203::/64{128,128}" in text


def test_a_sites_router_gives_its_vips_to_the_transit_router_and_takes_none_from_there() -> None:
    topology = topology_of(LabSpec(sites=2))
    site = bird_configuration(topology, topology.sites[1].router)
    assert site.count("protocol bgp ") == 2 * 2 + 2
    assert "local 198.18.11.1 as 64650;\n  neighbor 198.18.11.11 as 64603;\n  ipv4 { import filter vips;" in site
    assert "local 198.18.15.2 as 64650;\n  neighbor 198.18.15.1 as 64512;\n  ipv4 { import where !is_vip();" in site
    assert 'interface "uplink"' in site
    transit = bird_configuration(topology, topology.entry)
    assert transit.count("protocol bgp ") == 2 * 2
    assert "neighbor 2001:db8:18:15::2 as 64650;\n  ipv6 { import filter vips_and_networks; export where" in transit
    assert transit.count("merge paths yes limit 2;") == 2, "it spreads over the sites"


def test_nodes_of_a_lab_with_sites_name_theirs(tmp_path: Path) -> None:
    _, leaf = issue(HOST_NAME)
    spec = LabSpec(sites=2)
    write_configuration(tmp_path, spec, topology_of(spec), leaf)
    platform = YAML(typ="safe").load(tmp_path / "platform.yaml")
    assert [site["name"] for site in platform["sites"]] == ["east", "west"]
    sites = {node["name"]: node["site"] for node in platform["nodes"]}
    assert sites == {
        **dict.fromkeys(("l4-1", "l4-2", "proxy-1", "proxy-2", "proxy-3"), "east"),
        **dict.fromkeys(("l4-3", "l4-4", "proxy-4", "proxy-5", "proxy-6"), "west"),
    }
    assert platform["nodes"][2]["bgp"]["neighbors"][0] == {"address": "198.18.11.1", "asn": 64650}
    assert platform["pools"][0]["min_active"] == 3, "a site may be missing"


def test_a_backend_names_itself_and_throttles_on_wish(tmp_path: Path) -> None:
    text = nginx_configuration(TOPOLOGY.backends[1], tmp_path, tmp_path / "content", tmp_path / "uploads")
    assert "listen 198.18.3.12:8080;" in text
    assert "add_header X-Backend backend-2 always;" in text
    assert "limit_rate $arg_rate;" in text
    assert "daemon off;" in text


def test_the_configuration_directory_reads_as_documented(tmp_path: Path) -> None:
    _, leaf = issue(HOST_NAME)
    write_configuration(tmp_path, SPEC, TOPOLOGY, leaf)
    yaml = YAML(typ="safe")
    platform = yaml.load(tmp_path / "platform.yaml")
    assert [node["name"] for node in platform["nodes"]] == [
        *("l4-1", "l4-2", "l4-3", "proxy-1", "proxy-2", "proxy-3", "proxy-4")
    ]
    assert platform["nodes"][1]["bgp"] == {
        "asn": 64602,
        "neighbors": [{"address": "198.18.1.1", "asn": 64600}, {"address": "2001:db8:18:1::1", "asn": 64600}],
    }
    assert platform["pools"][0]["min_active"] == 3
    assert platform["forwarding"] == {"rows": 65537, "owners_per_row": 1}
    vips = [(vip["address"], vip["port"], vip.get("protocol", "tcp")) for vip in platform["vips"]]
    assert vips == [
        *(("203.0.113.10", 443, "tcp"), ("2001:db8:203::10", 443, "tcp")),
        *(("203.0.113.10", 5353, "udp"), ("2001:db8:203::10", 5353, "udp")),
    ]
    team = yaml.load(tmp_path / "teams/shop/www.yaml")
    assert team["hosts"][0]["name"] == HOST_NAME
    assert (tmp_path / "teams/shop" / team["hosts"][0]["certificate"]).read_text() == leaf.certificate
    key = tmp_path / "teams/shop" / team["hosts"][0]["key"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(team["backends"][0]["servers"]) == SPEC.backends


def test_the_configuration_has_no_yaml_aliases(tmp_path: Path) -> None:
    """It is an example to learn from; anchors would be the first thing to explain."""
    _, leaf = issue(HOST_NAME)
    write_configuration(tmp_path, SPEC, TOPOLOGY, leaf)
    assert "&id" not in (tmp_path / "platform.yaml").read_text()


def test_the_leaf_is_signed_by_the_root_covers_the_host_and_matches_its_key() -> None:
    root_pem, leaf_pem = issue(HOST_NAME, now=datetime(2026, 1, 2, tzinfo=UTC))
    root = x509.load_pem_x509_certificate(root_pem.encode())
    leaf = x509.load_pem_x509_certificate(leaf_pem.certificate.encode())
    leaf.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST_NAME]
    assert load_pem_private_key(leaf_pem.key.encode(), None).public_key() == leaf.public_key()
    assert leaf.not_valid_before_utc < datetime(2026, 1, 2, tzinfo=UTC) < leaf.not_valid_after_utc


def test_content_on_disk_is_what_the_clients_expect(tmp_path: Path) -> None:
    write_content(tmp_path)
    for resource in (small(), *downloads()):
        body = (tmp_path / resource.path.strip("/")).read_bytes()
        assert (len(body), sha256(body).hexdigest()) == (resource.size, resource.sha256)


def test_shorter_content_is_the_beginning_of_longer_content() -> None:
    assert content_of(5000).startswith(content_of(1000))
