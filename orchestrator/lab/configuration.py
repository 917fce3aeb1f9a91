"""The configuration that a lab starts with: one pool behind TCP and UDP VIPs, one team with one host."""

from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from orchestrator.lab.certificates import IssuedCertificate
from orchestrator.lab.content import HEALTH_PATH
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import (
    BACKEND_PORT,
    FIRST_L4_ASN,
    HOST_NAME,
    UDP_PORT,
    VIP_PORT,
    VIP_V4,
    VIP_V6,
    Topology,
)

POOL = "edge"
BACKEND = "shop-web"

#: Where a proxy says itself whether it serves, and milliseconds between two requests of an L4 node for that.
PROXY_HEALTH_PATH = "/.well-known/edgefleet/health"
PROBE_MS = 500

#: Seconds that a drain leaves to datagrams. A fleet leaves minutes; here nobody waits for the end of a stream.
UNCOUNTED_S = 2.0


def write_configuration(directory: Path, spec: LabSpec, topology: Topology, certificate: IssuedCertificate) -> None:
    """A directory for `edgectl apply`. The key is readable by its owner alone."""
    team = directory / "teams" / "shop"
    (team / "certs").mkdir(parents=True)
    (directory / "platform.yaml").write_text(yaml_text(platform(spec, topology)))
    (team / "www.yaml").write_text(yaml_text(team_file(topology)))
    (team / "certs" / "www.pem").write_text(certificate.certificate)
    key = team / "certs" / "www.key"
    key.touch(0o600)
    key.write_text(certificate.key)


def platform(spec: LabSpec, topology: Topology) -> dict[str, Any]:
    """`platform.yaml`: nodes, the pool with its capacity guard, the VIPs; sites, if there are several."""
    has_sites = len(topology.sites) > 1
    asns = {node: asn for asn, node in enumerate(topology.l4_nodes, start=FIRST_L4_ASN)}
    l4_nodes = [
        {
            "name": node.name,
            "kind": "l4",
            "address": str(node.address),
            **({"site": site.name} if has_sites else {}),
            "bgp": {
                "asn": asns[node],
                "neighbors": [
                    {"address": str(gateway.ip), "asn": site.router.asn} for gateway in node.network.gateways
                ],
            },
        }
        for site in topology.sites
        for node in site.l4_nodes
    ]
    proxies = [
        {
            "name": node.name,
            "kind": "proxy",
            "address": str(node.address),
            **({"site": site.name} if has_sites else {}),
        }
        for site in topology.sites
        for node in site.proxies
    ]
    return {
        **({"sites": [{"name": site.name} for site in topology.sites]} if has_sites else {}),
        "nodes": l4_nodes + proxies,
        "pools": [
            {
                "name": POOL,
                "members": [{"node": node.name} for node in topology.proxies],
                "min_active": spec.capacity_guard,
                "probe": {
                    "kind": "https",
                    "vip": "web-v4",
                    "host": HOST_NAME,
                    "path": PROXY_HEALTH_PATH,
                    "interval_ms": PROBE_MS,
                    "timeout_ms": PROBE_MS,
                },
            }
        ],
        "vips": [
            *(
                {"name": name, "address": str(address), "port": VIP_PORT, "mode": "terminate", "pool": POOL}
                for name, address in (("web-v4", VIP_V4), ("web-v6", VIP_V6))
            ),
            *(
                {
                    "name": name,
                    "address": str(address),
                    "port": UDP_PORT,
                    "protocol": "udp",
                    "mode": "passthrough",
                    "pool": POOL,
                }
                for name, address in (("echo-v4", VIP_V4), ("echo-v6", VIP_V6))
            ),
        ],
        "forwarding": {"rows": spec.rows, "owners_per_row": spec.owners_per_row},
        "drain": {"spread_s": spec.drain_spread_s, "uncounted_s": UNCOUNTED_S},
    }


def team_file(topology: Topology) -> dict[str, Any]:
    """`teams/shop/www.yaml`: a host, its certificate, and the backend behind all of its paths."""
    return {
        "hosts": [
            {
                "name": HOST_NAME,
                "certificate": "certs/www.pem",
                "key": "certs/www.key",
                "routes": [{"name": "all", "prefix": "/", "backend": BACKEND}],
            }
        ],
        "backends": [
            {
                "name": BACKEND,
                "servers": [
                    {"name": host.name, "address": str(host.address), "port": BACKEND_PORT}
                    for host in topology.backends
                ],
                "health": {"path": HEALTH_PATH, "interval_s": 1, "timeout_s": 1},
            }
        ],
    }


def yaml_text(content: dict[str, Any]) -> str:
    """A file of a configuration, without anchors and aliases."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.representer.ignore_aliases = lambda _value: True
    text = StringIO()
    yaml.dump(content, text)
    return text.getvalue()
