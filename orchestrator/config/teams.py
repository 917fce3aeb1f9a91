"""`teams/<team>/*.yaml`: hosts and backends. The folder names the owner."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.config.certificates import CertificateUnusable, KeyPair, check_authorities, check_pair, covers
from orchestrator.config.configuration import ConfiguredBackend, ConfiguredHost
from orchestrator.config.document import Document, Place
from orchestrator.config.entries import Placed, check_fields, names_in, read_list, refuse_repeats
from orchestrator.config.findings import Findings
from orchestrator.config.referenced import referenced_text
from orchestrator.config.schema import TEAM_SECTIONS, BackendEntry, HostEntry, KeyPairEntry, RouteEntry
from orchestrator.contract.route import (
    Backend,
    BackendProtocol,
    BackendServer,
    BackendTls,
    Certificate,
    CertificateAndKey,
    ClientCertificatePolicy,
    HealthKind,
    Host,
    KeyKind,
    PathMatchKind,
    Route,
)


@dataclass(slots=True)
class Teams:
    """The valid entries of all teams' files."""

    hosts: list[ConfiguredHost] = field(default_factory=list)
    certificates: list[Certificate] = field(default_factory=list)
    backends: list[ConfiguredBackend] = field(default_factory=list)


def read_teams(
    documents: tuple[tuple[str, Document], ...], files: Mapping[str, str], *, plaintext: bool, findings: Findings
) -> Teams:
    """All teams' files, as (team, document). `plaintext`: some VIP serves hosts without a certificate."""
    teams = Teams()
    all_hosts: list[Placed[HostEntry]] = []
    all_backends: list[Placed[BackendEntry]] = []
    owners: dict[str, set[str]] = {}
    for team, document in documents:
        for name in names_in(document, "backends"):
            owners.setdefault(name, set()).add(team)
    for team, document in documents:
        check_fields(document, TEAM_SECTIONS, findings)
        hosts = read_list(document, "hosts", HostEntry, findings)
        backends = read_list(document, "backends", BackendEntry, findings)
        all_hosts += hosts
        all_backends += backends
        for host in hosts:
            _check_routes(host, team, owners, findings)
            teams.certificates += _certificates(host, files, plaintext, findings)
            policy = _client_certificate(host, files, findings)
            teams.hosts.append(ConfiguredHost(host=_host(host.value, team, policy), source=host.place.position))
        for backend in backends:
            refuse_repeats(
                [Placed(server, backend.place.at("servers", i)) for i, server in enumerate(backend.value.servers)],
                lambda server: server.name,
                "a server",
                findings,
            )
            if not _protocols_fit(backend, findings):
                continue
            teams.backends.append(
                ConfiguredBackend(
                    backend=_backend(backend.value, _backend_tls(backend, files, findings)),
                    owner=team,
                    source=backend.place.position,
                )
            )
    _refuse_double_claims(all_hosts, findings)
    refuse_repeats(all_backends, lambda backend: backend.name, "a backend", findings)
    return teams


def _protocols_fit(backend: Placed[BackendEntry], findings: Findings) -> bool:
    """Whether what is asked of a backend goes with what its servers speak."""
    entry = backend.value
    is_h2 = entry.protocol is BackendProtocol.H2
    if is_h2 and entry.send_proxy_protocol is not None:
        findings.add(
            "proxy_protocol_with_h2",
            backend.place.at("send_proxy_protocol"),
            f"{entry.name} speaks HTTP/2, whose connections are shared by clients, and a PROXY header names one",
            "remove it: servers learn of clients from `Forwarded` and `X-Forwarded-For`",
        )
        return False
    if entry.health.kind is HealthKind.GRPC and not is_h2:
        findings.add(
            "grpc_health_without_h2",
            backend.place.at("health", "kind"),
            f"{entry.name} speaks HTTP/1.1, and gRPC needs HTTP/2",
            "add `protocol: h2`",
        )
        return False
    return True


def _refuse_double_claims(hosts: list[Placed[HostEntry]], findings: Findings) -> None:
    first: dict[str, Place] = {}
    for entry in hosts:
        name = entry.value.name
        if name in first:
            findings.add(
                "host_claimed_twice",
                entry.place.at("name"),
                f"{name} is claimed here and at {first[name].position}",
                "one team owns a host: remove one of the two",
            )
        else:
            first[name] = entry.place.at("name")


def _check_routes(host: Placed[HostEntry], team: str, owners: dict[str, set[str]], findings: Findings) -> None:
    routes = [Placed(route, host.place.at("routes", index)) for index, route in enumerate(host.value.routes)]
    refuse_repeats(routes, lambda route: route.name, "a route", findings)
    refuse_repeats(routes, _path_in_words, "a route for", findings)
    for route in routes:
        backend = route.value.backend
        if backend not in owners:
            findings.add(
                "unknown_backend",
                route.place.at("backend"),
                f"there is no backend {backend}",
                f"add it under `backends` in a file of teams/{team}",
            )
        elif team not in owners[backend]:
            findings.add(
                "backend_of_another_team",
                route.place.at("backend"),
                f"backend {backend} belongs to {', '.join(sorted(owners[backend]))}",
                "route to a backend of your own; grants between teams are not served by this version",
            )


def _certificates(
    host: Placed[HostEntry], files: Mapping[str, str], plaintext: bool, findings: Findings
) -> Iterator[Certificate]:
    entry = host.value
    named = list(_named_pairs(host, findings))
    if not named and entry.certificate is None and entry.key is None and not plaintext:
        findings.add(
            "certificate_missing",
            host.place,
            f"{entry.name} has no certificate, and every VIP speaks TLS",
            "add `certificate:` and `key:`, paths relative to this file",
        )
    first: dict[KeyKind, Place] = {}
    for each in named:
        pair = _key_pair(each.place, each.value, files, findings)
        if pair is None:
            continue
        if not covers(pair.names, entry.name):
            findings.add(
                "certificate_not_for_host",
                each.place.at("certificate"),
                f"the certificate serves {', '.join(pair.names[:10]) or 'no DNS name'}, not {entry.name}",
                "request one with this name as subject alternative name",
            )
        elif pair.kind in first:
            findings.add(
                "certificate_kind_repeated",
                each.place.at("certificate"),
                f"{entry.name} has one with an {pair.kind.upper()} key already, at {first[pair.kind].position}",
                "keep one of each kind: clients choose by the kind of key, ECDSA or RSA",
            )
        else:
            first[pair.kind] = each.place.at("certificate")
            yield Certificate(hosts=(entry.name,), chain_pem=pair.chain_pem, key_pem=pair.key_pem, kind=pair.kind)


def _named_pairs(host: Placed[HostEntry], findings: Findings) -> Iterator[Placed[KeyPairEntry]]:
    """Certificates that a host names, in either way of writing."""
    entry = host.value
    if entry.certificates is not None:
        if entry.certificate is not None or entry.key is not None:
            findings.add(
                "certificate_written_twice",
                host.place.at("certificates"),
                f"{entry.name} has `certificates` beside `certificate` or `key`",
                "put all of them into `certificates`",
            )
        for index, each in enumerate(entry.certificates):
            yield Placed(each, host.place.at("certificates", index))
    elif entry.certificate is not None and entry.key is not None:
        yield Placed(KeyPairEntry(certificate=entry.certificate, key=entry.key), host.place)
    elif entry.certificate is not None or entry.key is not None:
        absent = "certificate" if entry.certificate is None else "key"
        findings.add("missing_field", host.place.at(absent), f"{absent!r} is missing", "give both or none")


def _client_certificate(
    host: Placed[HostEntry], files: Mapping[str, str], findings: Findings
) -> ClientCertificatePolicy | None:
    entry = host.value.client_certificate
    if entry is None:
        return None
    place = host.place.at("client_certificate")
    if host.value.certificate is None and host.value.certificates is None:
        findings.add(
            "client_certificate_without_tls",
            place,
            f"{host.value.name} has no certificate of its own, and asks clients for theirs",
            "add `certificate:` and `key:`: clients show theirs in a TLS handshake",
        )
    authorities = _authorities(place.at("ca"), entry.ca, files, findings)
    if authorities is None:
        return None
    return ClientCertificatePolicy(ca_pem=authorities, required=entry.required, allowed=tuple(sorted(entry.allowed)))


def _path_in_words(route: RouteEntry) -> str:
    return f"the exact path {route.exact}" if route.exact is not None else f"the prefix {route.prefix}"


def _host(entry: HostEntry, team: str, policy: ClientCertificatePolicy | None) -> Host:
    routes = tuple(
        Route(
            name=route.name,
            kind=PathMatchKind.PREFIX if route.exact is None else PathMatchKind.EXACT,
            path=route.exact or route.prefix or "/",
            backend=route.backend,
            timeout_s=route.timeout_s,
            grpc_max_deadline_s=route.grpc_max_deadline_s,
        )
        for route in entry.routes
    )
    return Host(name=entry.name, owner=team, routes=routes, client_certificate=policy)


def _backend_tls(backend: Placed[BackendEntry], files: Mapping[str, str], findings: Findings) -> BackendTls | None:
    entry = backend.value.tls
    if entry is None:
        return None
    place = backend.place.at("tls")
    authorities = _authorities(place.at("ca"), entry.ca, files, findings)
    shown: CertificateAndKey | None = None
    if entry.client_certificate is not None:
        pair = _key_pair(place.at("client_certificate"), entry.client_certificate, files, findings)
        if pair is not None:
            shown = CertificateAndKey(chain_pem=pair.chain_pem, key_pem=pair.key_pem)
    if authorities is None:
        return None
    return BackendTls(ca_pem=authorities, server_name=entry.server_name, client_certificate=shown)


def _authorities(place: Place, reference: str, files: Mapping[str, str], findings: Findings) -> str | None:
    text = referenced_text(place, reference, files, findings)
    if text is None:
        return None
    try:
        return check_authorities(text)
    except CertificateUnusable as error:
        findings.add(error.code, place, str(error), error.hint)
        return None


def _key_pair(place: Place, entry: KeyPairEntry, files: Mapping[str, str], findings: Findings) -> KeyPair | None:
    chain = referenced_text(place.at("certificate"), entry.certificate, files, findings)
    key = referenced_text(place.at("key"), entry.key, files, findings)
    if chain is None or key is None:
        return None
    try:
        return check_pair(chain, key)
    except CertificateUnusable as error:
        findings.add(error.code, place.at("key" if error.in_key else "certificate"), str(error), error.hint)
        return None


def _backend(entry: BackendEntry, tls: BackendTls | None) -> Backend:
    servers = tuple(
        BackendServer(name=server.name, address=server.address, port=server.port) for server in entry.servers
    )
    return Backend(
        name=entry.name,
        servers=servers,
        health=entry.health,
        tls=tls,
        send_proxy_protocol=entry.send_proxy_protocol,
        protocol=entry.protocol,
    )
