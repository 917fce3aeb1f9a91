"""The orchestrator's data directory, and the first operator's: made by `init`, opened by `run` and `token`.

| file | holds |
|---|---|
| `store.sqlite` | fleet, configuration, join tokens (hashes) |
| `ca.pem`, `ca.key` | the fleet's certificate authority |
| `server.pem`, `server.key` | the API's certificate |
| `lock` | held while an orchestrator runs on the directory |
"""

import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from cryptography import x509

from orchestrator.contract.durable import make_private_directory, write_private
from orchestrator.contract.keys import key_to_pem, new_key
from orchestrator.contract.operator import OperatorContext
from orchestrator.contract.renewal import is_due
from orchestrator.fleet.authority import Authority, create_authority, load_authority, save_authority
from orchestrator.fleet.ledger import create_fleet
from orchestrator.state.sqlite import SqliteStore

#: Name of the operator whose credentials `init` writes.
FIRST_OPERATOR = "first"
#: Bytes of the fleet's SipHash key.
HASH_KEY_BYTES = 16


class DataUnusable(Exception):
    """The directory cannot be made or opened; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """The files above, in `path`."""

    path: Path

    @property
    def store_file(self) -> Path:
        return self.path / "store.sqlite"

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def ca_key_file(self) -> Path:
        return self.path / "ca.key"

    @property
    def certificate_file(self) -> Path:
        return self.path / "server.pem"

    @property
    def key_file(self) -> Path:
        return self.path / "server.key"

    def authority(self) -> Authority:
        """Raises DataUnusable."""
        try:
            return load_authority(self.ca_file, self.ca_key_file)
        except (OSError, ValueError) as error:
            raise DataUnusable(
                f"{self.path}: no certificate authority ({error}): run edge-orchestrator init"
            ) from error

    def open_store(self) -> SqliteStore:
        """Raises DataUnusable if there is none, StoreUnusable if it cannot be read."""
        if not self.store_file.exists():
            raise DataUnusable(f"{self.store_file} does not exist: run edge-orchestrator init --data {self.path}")
        return SqliteStore.open(self.store_file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One orchestrator per directory; the kernel lets go when the process ends. Raises DataUnusable."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise DataUnusable(f"{self.path}: another orchestrator runs on this directory: stop it first") from error
        try:
            yield
        finally:
            os.close(descriptor)

    def renew_server_certificate_when_due(self, now: datetime) -> bool:
        """A new one with the same names, if less than a third of its life is left. Raises DataUnusable."""
        present, addresses, names = self._server_certificate()
        if not is_due(present, now):
            return False
        self.write_server_certificate(self.authority(), addresses, names, now)
        return True

    def _server_certificate(self) -> tuple[x509.Certificate, list[IPv4Address | IPv6Address], list[str]]:
        """The certificate, and the addresses and DNS names that it is for. Raises DataUnusable."""
        try:
            present = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())
            names = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (OSError, ValueError, x509.ExtensionNotFound) as error:
            raise DataUnusable(f"{self.certificate_file}: {error}: run edge-orchestrator init") from error
        addresses = [
            address
            for address in names.get_values_for_type(x509.IPAddress)
            if isinstance(address, IPv4Address | IPv6Address)
        ]
        return present, addresses, names.get_values_for_type(x509.DNSName)

    def write_server_certificate(
        self,
        authority: Authority,
        addresses: Sequence[IPv4Address | IPv6Address],
        names: Sequence[str],
        now: datetime,
    ) -> None:
        """Raises OSError."""
        key = new_key()
        write_private(self.key_file, key_to_pem(key))
        certificate = authority.certify_server(key.public_key(), addresses, names, now)
        write_private(self.certificate_file, certificate.encode())

    def write_operator(self, directory: Path, name: str, port: int, now: datetime) -> None:
        """Credentials and context for `edgectl`: a new key, certified for the operator `name`.

        An operator's directory that exists already gets the new ones in place of its old. Raises DataUnusable.
        """
        authority = self.authority()
        _, addresses, names = self._server_certificate()
        hosts = [f"[{address}]" if address.version == 6 else str(address) for address in addresses]
        context = OperatorContext(endpoints=tuple(f"https://{host}:{port}" for host in (*hosts, *names)))
        key = new_key()
        try:
            make_private_directory(directory)
            write_private(directory / "ca.pem", authority.pem.encode())
            write_private(directory / "operator.key", key_to_pem(key))
            certificate = authority.certify_operator(key.public_key(), name, now)
            write_private(directory / "operator.pem", certificate.encode())
            write_private(directory / "context.json", (context.model_dump_json(indent=2) + "\n").encode())
        except OSError as error:
            raise DataUnusable(f"{error.filename or directory}: {error.strerror or error}") from error


async def initialise(
    data: DataDirectory,
    operator: Path,
    addresses: Sequence[IPv4Address | IPv6Address],
    names: Sequence[str],
    port: int,
    now: datetime,
) -> None:
    """Make the store, the CA, the server's certificate and the first operator's credentials. Raises DataUnusable."""
    if data.store_file.exists():
        raise DataUnusable(f"{data.path} holds a fleet already: take another directory, or remove this one")
    try:
        make_private_directory(data.path)
        authority = create_authority(now)
        save_authority(authority, data.ca_file, data.ca_key_file)
        data.write_server_certificate(authority, addresses, names, now)
    except OSError as error:
        raise DataUnusable(f"{error.filename or data.path}: {error.strerror or error}") from error
    data.write_operator(operator, FIRST_OPERATOR, port, now)
    store = SqliteStore.open(data.store_file)
    try:
        await create_fleet(store, secrets.token_hex(HASH_KEY_BYTES))
    finally:
        store.close()
