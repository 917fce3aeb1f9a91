"""Command lines of the product's own programs in the lab. They are started as an operator would start them."""

import shutil
import sys
from ipaddress import IPv4Address
from pathlib import Path

from orchestrator.contract.node import AgentRole
from orchestrator.lab import udp_echo
from orchestrator.lab.errors import LabError
from orchestrator.lab.spec import LabSpec
from orchestrator.lab.topology import (
    HOST_INTERFACE,
    METRICS_PORTS,
    ORCHESTRATOR_PORT,
    UDP_PORT,
    VIP_V4,
    VIP_V6,
    LabHost,
)


def program(name: str) -> str:
    """The entry point beside the interpreter that runs now (the same installation), else the one in PATH."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LabError(f"{name} is not installed", hint="`make setup` installs it into the virtual environment")
    return found


def init_command(data: Path, operator: Path, address: IPv4Address) -> list[str]:
    return [
        *(program("edge-orchestrator"), "init", "--data", str(data)),
        *("--operator", str(operator), "--address", str(address)),
    ]


def orchestrator_command(data: Path, address: IPv4Address) -> list[str]:
    listen = f"{address}:{ORCHESTRATOR_PORT}"
    return [program("edge-orchestrator"), "run", "--data", str(data), "--listen", listen]


def token_command(data: Path, node: str, role: AgentRole) -> list[str]:
    return [program("edge-orchestrator"), "token", "--data", str(data), node, role]


def agent_command(
    host: LabHost, role: AgentRole, directory: Path, orchestrator: IPv4Address, spec: LabSpec
) -> list[str]:
    """Joins at the first start; the same line starts the agent again later, when the token is not looked at."""
    common = [
        *("--state", str(directory / role), "--node", host.name),
        *("--orchestrator", f"https://{orchestrator}:{ORCHESTRATOR_PORT}"),
        *("--token-file", str(token_path(directory, role))),
        *("--bpffs", str(directory / "bpf"), "--metrics", f"{host.address}:{METRICS_PORTS[role]}"),
    ]
    xdp = ["--interface", HOST_INTERFACE, "--xdp-mode", "native"]
    match role:
        case AgentRole.BALANCER:
            bird = ["--bird-dir", str(directory / "bird")]
            return [program("edge-l4"), role, "run", *common, *xdp, *bird]
        case AgentRole.REDIRECTOR:
            return [program("edge-l4"), role, "run", *common, *xdp]
        case AgentRole.PROXY:
            access_log = ["--access-log", str(directory / "access.log")]
            return [program("edge-l7"), "run", *common, "--workers", str(spec.workers), *access_log]


def udp_echo_command(host: LabHost) -> list[str]:
    """Answers on both UDP VIPs."""
    addresses = (str(VIP_V4), str(VIP_V6))
    return [sys.executable, udp_echo.__file__, "--name", host.name, "--port", str(UDP_PORT), *addresses]


def token_path(directory: Path, role: AgentRole) -> Path:
    return directory / f"{role}.token"


def apply_command(configuration: Path) -> list[str]:
    return [program("edgectl"), "apply", str(configuration)]


def status_command() -> list[str]:
    return [program("edgectl"), "status", "--json"]


def undrain_command(name: str) -> list[str]:
    return [program("edgectl"), "undrain", name, "--no-wait", "--json"]
