"""Fleets for tests: configuration files, a clock that is stepped, and reports as agents would send them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from orchestrator.config.compile import load_configuration
from orchestrator.config.configuration import Configuration
from orchestrator.contract.keys import key_to_pem, new_key
from orchestrator.contract.node import AgentIdentity, AgentRole, Announcement
from orchestrator.contract.report import BalancerStatus, PoolCensus, ProxyStatus, RedirectorStatus, Report
from orchestrator.fleet.document import FleetState
from orchestrator.fleet.holds import Holds
from orchestrator.fleet.membership import configure
from orchestrator.fleet.reports import ReportBoard
from orchestrator.fleet.retirement import advance

HASH_KEY = "00112233445566778899aabbccddeeff"

PLATFORM = """\
nodes:
  - {name: l4-1, kind: l4, address: 198.18.1.11, bgp: {asn: 64601, neighbors: [{address: 198.18.1.1, asn: 64600}]}}
  - {name: l4-2, kind: l4, address: 198.18.1.12}
  - {name: proxy-1, kind: proxy, address: 198.18.2.11}
  - {name: proxy-2, kind: proxy, address: 198.18.2.12}
  - {name: proxy-3, kind: proxy, address: 198.18.2.13}
pools:
  - name: edge
    members: [{node: proxy-1}, {node: proxy-2, weight: 2}, {node: proxy-3}]
    min_active: 2
vips:
  - {name: web-v4, address: 203.0.113.10, port: 443, mode: terminate, pool: edge}
  - {name: web-v6, address: "2001:db8:203::10", port: 443, mode: terminate, pool: edge}
"""

TEAM = """\
hosts:
  - name: www.example.com
    certificate: certs/www.pem
    key: certs/www.key
    routes:
      - {name: all, prefix: /, backend: shop-web}
backends:
  - name: shop-web
    servers: [{name: backend-1, address: 198.18.3.11, port: 8080}]
    health: {path: /healthz, interval_s: 1, timeout_s: 1}
"""

TEAM_FILE = "teams/shop/www.yaml"


def key_pair(*names: str, days: int = 90) -> tuple[str, str]:
    """A self-signed certificate for `names`, and its key, PEM."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode(), key_to_pem(key).decode()


WWW_PEM, WWW_KEY = key_pair("www.example.com")


def files(platform: str = PLATFORM, team: str = TEAM) -> dict[str, str]:
    """A configuration directory as `edgectl apply` sends it."""
    return {
        "platform.yaml": platform,
        TEAM_FILE: team,
        "teams/shop/certs/www.pem": WWW_PEM,
        "teams/shop/certs/www.key": WWW_KEY,
    }


def configuration(platform: str = PLATFORM, team: str = TEAM) -> Configuration:
    return load_configuration(files(platform, team))


def agent(node: str, role: AgentRole) -> AgentIdentity:
    return AgentIdentity(node=node, role=role)


def balancer_status(
    announced: Sequence[str] = (),
    *,
    announcement: Announcement = Announcement.NORMAL,
    forwarded: int = 0,
    withheld: Mapping[str, str] | None = None,
) -> BalancerStatus:
    return BalancerStatus(
        interface="eth0",
        xdp_mode="native",
        announced=tuple(announced),
        withheld=dict(withheld or {}),
        announcement=announcement,
        forwarded=forwarded,
        tables=(),
        counters={},
    )


def redirector_status(*census: PoolCensus, new_flows: int = 0, attached: bool = True) -> RedirectorStatus:
    xdp_mode: Literal["native", "detached"] = "native" if attached else "detached"
    return RedirectorStatus(interface="eth0", xdp_mode=xdp_mode, census=census, new_flows=new_flows, counters={})


def proxy_status(flows: int = 0) -> ProxyStatus:
    return ProxyStatus(
        workers=1, draining=False, open_flows={"http/1.1": flows}, requests_in_flight=0, health=(), counters={}
    )


@dataclass
class Playbook:
    """One fleet, its reports and its clock; each step is explicit."""

    config: Configuration = field(default_factory=configuration)
    now: float = 1000.0
    fleet: FleetState = field(init=False)
    board: ReportBoard = field(init=False)
    holds: Holds = field(default_factory=Holds)

    def __post_init__(self) -> None:
        self.board = ReportBoard(lambda: self.now)
        self.fleet = FleetState(hash_key=HASH_KEY)
        self.save(configure(self.fleet, Configuration(), self.config, self.now))

    def save(self, fleet: FleetState) -> None:
        """As the ledger does."""
        if fleet != self.fleet:
            self.fleet = fleet.model_copy(update={"revision": self.fleet.revision + 1})

    def restart(self) -> None:
        """The orchestrator forgets everything that is not in the store."""
        self.board = ReportBoard(lambda: self.now)
        self.holds = Holds()

    def report_balancers(self, *names: str, version: int | None = None) -> None:
        for name in names or ("l4-1", "l4-2"):
            self._report(name, AgentRole.BALANCER, balancer_status(), version)

    def report_balancer(self, name: str, status: BalancerStatus) -> None:
        self._report(name, AgentRole.BALANCER, status, None)

    def report_proxy(self, name: str, flows: int = 0, version: int | None = None) -> None:
        self._report(name, AgentRole.PROXY, proxy_status(flows), version)

    def report_census(
        self,
        name: str,
        flows: int = 0,
        needed: dict[int, int] | None = None,
        newest: int | None = None,
        version: int | None = None,
        new_flows: int = 0,
    ) -> None:
        census = PoolCensus(
            pool="edge", newest_generation=self.newest if newest is None else newest, flows=flows, needed=needed or {}
        )
        self._report(name, AgentRole.REDIRECTOR, redirector_status(census, new_flows=new_flows), version)

    def report_all(self, **flows: int) -> None:
        """Everybody is up to date; `proxy_1=5` gives flow counts."""
        self.report_balancers()
        for member in self.fleet.members:
            count = flows.get(member.name.replace("-", "_"), 0)
            self.report_proxy(member.name, count)
            self.report_census(member.name, count)

    def admit(self) -> None:
        """Everybody has applied what joining members wait for, and those come into a generation."""
        self.report_all()
        self.advance()

    def _report(
        self, name: str, role: AgentRole, status: BalancerStatus | RedirectorStatus | ProxyStatus, version: int | None
    ) -> None:
        applied = self.fleet.revision if version is None else version
        self.board.take(agent(name, role), Report(applied_version=applied, nack=None, status=status))

    def advance(self, seconds: float = 0.0) -> None:
        """Time passes, and the orchestrator looks."""
        self.now += seconds
        self.save(advance(self.fleet, self.config, self.board, self.holds, wall=self.now))

    @property
    def newest(self) -> int:
        return self.fleet.pools[0].newest.generation.number

    @property
    def live(self) -> list[int]:
        return [live.generation.number for live in self.fleet.pools[0].generations]

    def state(self, name: str) -> str:
        member = self.fleet.member(name)
        assert member is not None
        return str(member.state)
