"""An agent's state directory: who it is, and the last good snapshot.

| file | holds |
|---|---|
| `ca.pem` | the fleet's CA, the only one that the agent trusts |
| `node.key` | the agent's private key; made here, never leaves the node |
| `node.pem` | the certificate that the CA made for it |
| `identity.json` | node, role, and the orchestrators' addresses; written last, so its presence means "joined" |
| `snapshot.json` | the last snapshot that was applied with success |
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from pydantic import Field, ValidationError

from orchestrator.contract.base import Contract
from orchestrator.contract.durable import make_private_directory, write_private
from orchestrator.contract.node import AgentIdentity
from orchestrator.contract.snapshot import SNAPSHOT, Snapshot

#: Largest snapshot that is read back from disk or taken from the network. Twice a fleet of 1000 hosts with a
#: certificate each (10 kB), so that a broken peer or file cannot take the node's memory.
MAX_SNAPSHOT_BYTES = 32 * 1024 * 1024


class NotJoined(Exception):
    """The directory holds no identity: the agent must join with a token first."""


class SnapshotUnreadable(Exception):
    """`snapshot.json` is there, and is not a snapshot of this version. The agent starts without it."""


class Enrolment(Contract):
    """Content of `identity.json`."""

    identity: AgentIdentity
    endpoints: tuple[str, ...] = Field(min_length=1)
    """Base addresses of all orchestrators that the agent knows: "https://198.18.4.10:7443"."""


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """The files above, in `path`. Reading and writing only; it holds no state of its own."""

    path: Path

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def certificate_file(self) -> Path:
        return self.path / "node.pem"

    @property
    def key_file(self) -> Path:
        return self.path / "node.key"

    @property
    def identity_file(self) -> Path:
        return self.path / "identity.json"

    @property
    def snapshot_file(self) -> Path:
        return self.path / "snapshot.json"

    def is_joined(self) -> bool:
        """Whether `join` has been through here."""
        return self.identity_file.exists()

    def enrolment(self) -> Enrolment:
        """Identity and orchestrators. Raises NotJoined if there are none, or if the file cannot be understood."""
        try:
            text = self.identity_file.read_bytes()
        except FileNotFoundError:
            raise NotJoined(
                f"{self.identity_file} does not exist: start once with --orchestrator, --token-file and --node"
            ) from None
        try:
            return Enrolment.model_validate_json(text)
        except ValidationError as error:
            raise NotJoined(
                f"{self.identity_file} is not an identity ({error.error_count()} findings): empty {self.path} and "
                "join again with a new token"
            ) from error

    def identity(self) -> AgentIdentity:
        """Who this agent is. Raises NotJoined."""
        return self.enrolment().identity

    def certificate(self) -> x509.Certificate:
        """The agent's present certificate. Raises OSError; ValueError if the file is not a certificate."""
        return x509.load_pem_x509_certificate(self.certificate_file.read_bytes())

    def save_enrolment(self, enrolment: Enrolment, *, ca_pem: str, certificate_pem: str, key_pem: bytes) -> None:
        """Write all that a join yields; the identity comes last. Raises OSError."""
        make_private_directory(self.path)
        write_private(self.key_file, key_pem)
        write_private(self.ca_file, ca_pem.encode())
        write_private(self.certificate_file, certificate_pem.encode())
        write_private(self.identity_file, enrolment.model_dump_json(indent=2).encode())

    def save_certificate(self, certificate_pem: str) -> None:
        """Replace the certificate by a renewed one for the same key. Raises OSError."""
        write_private(self.certificate_file, certificate_pem.encode())

    def save_snapshot(self, snapshot: Snapshot) -> None:
        """Make `snapshot` the last good one. Raises OSError; the one before is then still there."""
        write_private(self.snapshot_file, snapshot.model_dump_json().encode())

    def load_snapshot(self) -> Snapshot | None:
        """The last good snapshot, None if there never was one. Raises SnapshotUnreadable."""
        try:
            with self.snapshot_file.open("rb") as file:
                text = file.read(MAX_SNAPSHOT_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SnapshotUnreadable(f"{self.snapshot_file}: {error.strerror}") from error
        if len(text) > MAX_SNAPSHOT_BYTES:
            raise SnapshotUnreadable(f"{self.snapshot_file}: larger than {MAX_SNAPSHOT_BYTES} bytes")
        try:
            return SNAPSHOT.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise SnapshotUnreadable(f"{self.snapshot_file}: {where or 'file'}: {first['msg']}") from error
