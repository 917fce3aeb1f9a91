"""What a proxy does with a request: listeners, hosts, routes, backends."""

import hashlib
from enum import StrEnum
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from orchestrator.contract.base import Address, Contract, Name, Port

#: An exact host name, or a wildcard that stands for one label on the left (RFC 6125 section 6.4.3). Lower case.
HostName = Annotated[
    str,
    StringConstraints(
        pattern=r"^(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$",
        max_length=253,
    ),
]

#: A host name as a server's certificate has it; one label is enough.
ServerName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$", max_length=253
    ),
]

Seconds = Annotated[float, Field(gt=0, le=86400)]


#: More proxies in a row than anyone has; Envoy's `xff_num_trusted_hops` has no bound.
TrustedHops = Annotated[int, Field(ge=0, le=8)]


#: As many as anyone has load balancers in front; each costs a look at every new address.
MAX_TRUSTED_SOURCES = 64

#: Whose word on the client's address is taken (PROXY protocol).
TrustedSources = Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=MAX_TRUSTED_SOURCES)]


class PathMatchKind(StrEnum):
    """How a route's path is compared (Gateway API: HTTPPathMatch)."""

    EXACT = "exact"
    PREFIX = "prefix"


class Listener(Contract):
    """An address on which a proxy accepts flows: one per `terminate` VIP."""

    vip: Name
    address: Address
    port: Port
    tls: bool
    trusted_hops: TrustedHops = 0
    """Proxies before this one whose word on the client's address is taken (X-Forwarded-For). 0: nobody's."""
    accept_proxy_protocol: TrustedSources = ()
    """Connections from these begin with a PROXY header, and others do not."""


class KeyKind(StrEnum):
    """What a certificate's key signs with."""

    ECDSA = "ecdsa"
    RSA = "rsa"
    EDDSA = "eddsa"


class Certificate(Contract):
    """A certificate chain and its key, with the host names that it serves.

    Several may serve one name, each with a key of another kind: a client gets the best of those that it understands.
    """

    hosts: Annotated[tuple[HostName, ...], Field(min_length=1)]
    chain_pem: str
    key_pem: Annotated[str, Field(repr=False)]
    kind: KeyKind | None = None
    """None: not known, as in snapshots of earlier versions."""


class ClientCertificatePolicy(Contract):
    """Which client certificates a host asks for."""

    ca_pem: str
    """CAs that sign them; each is trusted by itself, also if it is an intermediate."""
    required: bool = True
    """Without: a client may come without one, but not with a wrong one."""
    allowed: tuple[str, ...] = ()
    """Subject alternative names, of which a certificate must have one. Empty: whatever those CAs sign."""

    @cached_property
    def digest(self) -> str:
        """Equal policies have equal digests: a connection made under one is good for the other."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Route(Contract):
    """One rule of a host. Priority: exact path, then longest prefix (by path element), then name."""

    name: Name
    kind: PathMatchKind
    path: Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]*$", max_length=1024)]
    backend: Name
    timeout_s: Seconds = 15.0
    """From the whole request sent to the first byte of the answer (Envoy's route timeout default is 15 s)."""
    grpc_max_deadline_s: Seconds | None = None
    """The longest that a gRPC call may take, whatever its client asks for. None: as long as it asks for."""


class Host(Contract):
    """A host name and its routes."""

    name: HostName
    owner: Name
    """The team whose file claims the host."""
    routes: Annotated[tuple[Route, ...], Field(min_length=1)]
    client_certificate: ClientCertificatePolicy | None = None
    """None: clients are asked for none."""


class BackendServer(Contract):
    """One server of a backend."""

    name: Name
    address: Address
    port: Port


class HealthKind(StrEnum):
    """What a server is asked."""

    HTTP = "http"
    """GET, in the protocol that it speaks: 2xx and 3xx are healthy."""
    GRPC = "grpc"
    """`grpc.health.v1.Health/Check`: SERVING is healthy."""


class HealthCheck(Contract):
    """Active check of each server of a backend."""

    kind: HealthKind = HealthKind.HTTP
    service: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]*$", max_length=120)] = ""
    """`grpc`: which service is asked about; empty: the whole server."""
    path: Annotated[str, StringConstraints(pattern=r"^/[\x21-\x7e]*$", max_length=1024)] = "/"
    interval_s: Seconds = 2.0
    timeout_s: Seconds = 1.0
    healthy_after: Annotated[int, Field(ge=1, le=10)] = 2
    unhealthy_after: Annotated[int, Field(ge=1, le=10)] = 3


class CertificateAndKey(Contract):
    """A certificate chain and its key."""

    chain_pem: str
    key_pem: Annotated[str, Field(repr=False)]


class BackendTls(Contract):
    """How proxies speak TLS with a backend's servers."""

    ca_pem: str
    """CAs that sign the servers' certificates; each is trusted by itself, also if it is an intermediate."""
    server_name: ServerName
    """What servers are asked for (SNI), and what their certificates must be for."""
    client_certificate: CertificateAndKey | None = None
    """What proxies show, if they are asked."""


class ProxyProtocol(StrEnum):
    """Version of the PROXY protocol (HAProxy's proxy-protocol.txt)."""

    V1 = "v1"
    """One line of text: addresses and ports."""
    V2 = "v2"
    """Binary; with server name, ALPN and an id."""


class BackendProtocol(StrEnum):
    """What servers speak."""

    HTTP1 = "http1"
    """HTTP/1.1: a connection carries one request at a time."""
    H2 = "h2"
    """HTTP/2: many requests share a connection. With TLS by ALPN, without it by prior knowledge (RFC 9113 section
    3.3)."""


class Backend(Contract):
    """A named set of servers behind the proxies; each request picks one of them anew."""

    name: Name
    servers: Annotated[tuple[BackendServer, ...], Field(min_length=1)]
    health: HealthCheck = HealthCheck()
    tls: BackendTls | None = None
    """None: plain text."""
    send_proxy_protocol: ProxyProtocol | None = None
    """What connections to its servers begin with; each is then one client connection's alone. None: with HTTP."""
    protocol: BackendProtocol = BackendProtocol.HTTP1

    @model_validator(mode="after")
    def _protocols_fit(self) -> Self:
        if self.send_proxy_protocol is not None and self.protocol is BackendProtocol.H2:
            raise ValueError("a PROXY header names one client, and connections with HTTP/2 are shared by many")
        if self.health.kind is HealthKind.GRPC and self.protocol is not BackendProtocol.H2:
            raise ValueError("gRPC's health checks need `protocol: h2`")
        return self


class Goodbye(Contract):
    """How a draining proxy ends its flows. Absent while the proxy serves normally."""

    started_at: float
    """Unix time of the drain's start; the spread counts from here, also after a restart."""
    spread_s: Seconds = 10.0
    """Idle keep-alive connections are closed evenly over this time, so that clients do not reconnect as one herd."""
    reset: bool = False
    """An operator's `--force`: what is still open is reset now."""
