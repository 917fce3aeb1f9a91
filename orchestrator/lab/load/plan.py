"""What load to make: read by the generator from the first line of its stdin."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import Field

from orchestrator.contract.base import Address, Contract, Port
from orchestrator.lab.load.breakage import SILENCE_BOUND_S

#: Lanes of one generator. Each is a task and a descriptor; one Python process steps a thousand slow ones with ease.
MAX_LANES = 2_000


class FlowKind(StrEnum):
    """Kinds of long flows."""

    DOWNLOAD = "download"
    """One answer, sent slowly by the backend; its bytes are checked by hash."""
    KEEP_ALIVE = "keep-alive"
    """A connection with a request every now and then, each answer checked by hash."""
    UPLOAD = "upload"
    """One request whose body is sent slowly; what a backend stored is checked by hash."""


class Target(Contract):
    """A VIP, and the client addresses to reach it from."""

    address: Address
    port: Port
    sources: Annotated[tuple[Address, ...], Field(min_length=1)]


class LoadPlan(Contract):
    """Long flows in lanes (a lane begins a new flow when one ends), and short requests at a steady rate."""

    host: str
    """Host name asked for, and checked in the certificate."""
    ca_file: Path
    targets: Annotated[tuple[Target, ...], Field(min_length=1)]
    """Taken in turn, so that each kind runs over each family."""
    uploads_directory: Path
    """Where backends store what is uploaded: seen from here, so that it can be checked."""
    lanes: dict[FlowKind, Annotated[int, Field(ge=0, le=MAX_LANES)]]
    requests_per_second: Annotated[float, Field(ge=0, le=10_000)]
    requests_per_connection: Annotated[int, Field(ge=1, le=1_000)] = 3
    """A short connection asks a few times: browsers do, and each first one costs both ends a TLS handshake."""
    flow_seconds: tuple[float, float] = (10.0, 14.0)
    """Shortest and longest life of a download or an upload: random in between, so that they do not end as one herd."""
    upload_bytes_per_second: Annotated[int, Field(ge=16, le=50_000)] = 4096
    upload_interval_s: Annotated[float, Field(gt=0)] = 0.5
    """Between two pieces of an upload."""
    keep_alive_interval_s: tuple[float, float] = (1.0, 3.0)
    """Shortest and longest pause between two requests of a keep-alive connection."""
    ramp_s: Annotated[float, Field(ge=0)] = 4.0
    """Over which the first flows of all lanes are begun."""
    silence_bound_s: Annotated[float, Field(gt=0)] = SILENCE_BOUND_S
    seed: int = 1
