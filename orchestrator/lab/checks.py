"""What makes a lab complete. Each look says what is missing, in words, or None."""

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from orchestrator.contract.operator import StatusView
from orchestrator.contract.pool import MemberState
from orchestrator.contract.report import ProbeVerdict
from orchestrator.lab import router
from orchestrator.lab.commands import status_command, undrain_command
from orchestrator.lab.errors import LabError
from orchestrator.lab.fabric import run, run_in
from orchestrator.lab.lab import Lab
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import HOST_NAME, ORCHESTRATOR_PORT, VIP_PORT, VIP_V4, VIP_V6, HostKind, LabHost, Router

#: Seconds for one request of the final check, connection included.
REQUEST_TIMEOUT_S: Final = 5

#: State LISTEN in /proc/net/tcp (include/net/tcp_states.h).
_LISTEN: Final = "0A"


def orchestrator_listens(lab: Lab) -> str | None:
    """Read from the process's own view of its namespace, so that nobody has to connect."""
    control = lab.topology.control
    pid = lab.process(control.name, Role.ORCHESTRATOR).pid
    endpoint = f"{control.address}:{ORCHESTRATOR_PORT}"
    wanted = f"{int.from_bytes(control.address.packed, 'little'):08X}:{ORCHESTRATOR_PORT:04X}"
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()]
    except OSError:
        rows = []
    if any(row[1] == wanted and row[3] == _LISTEN for row in rows):
        return None
    return f"the orchestrator does not listen on {endpoint} yet"


def routes_are_complete(lab: Lab) -> str | None:
    """Every BGP session up, every L4 node a next hop of both VIPs in its router's kernel; and every site in the transit
    router's.
    """
    topology = lab.topology
    for each in topology.routers:
        try:
            sessions = router.sessions(lab.directory(each.name))
        except LabError as error:  # it opens its control socket a moment after it starts
            return f"BIRD on {each.name} does not answer: {error}"
        for session in sessions:
            if not session.established:
                return f"BGP session {session.name} on {each.name} is {session.state or 'down'}"
        leading = [
            below
            for below in topology.attached
            if below.network in each.networks and (isinstance(below, Router) or below.kind is HostKind.L4)
        ]
        for vip, wanted in (
            (VIP_V4, {str(below.v4[0].ip) for below in leading}),
            (VIP_V6, {str(below.v6[0].ip) for below in leading}),
        ):
            missing = wanted - router.next_hops(each.namespace, vip)
            if missing:
                return f"{each.name} has no route to {vip} by {', '.join(sorted(missing))}"
    return None


def agents_are_up_to_date(lab: Lab) -> str | None:
    """Every agent connected, with the newest revision acknowledged, as the orchestrator sees it."""
    return agents_in(lambda: fleet_status(lab))


def fleet_status(lab: Lab) -> StatusView:
    """The fleet as `edgectl status` shows it. Raises LabError."""
    try:
        return StatusView.model_validate_json(run_as_operator(lab, status_command()))
    except ValidationError as error:
        raise LabError(f"`edgectl status --json` is not understood: {error}") from error


def agents_in(ask: Callable[[], StatusView]) -> str | None:
    """The same, of a status that is asked for."""
    try:
        status = ask()
    except LabError as error:
        return str(error)
    for node in status.nodes:
        for agent in node.agents:
            who = f"{agent.role} on {node.name}"
            if agent.nack is not None:
                return f"{who} refused revision {agent.nack.version}: {agent.nack.reason}"
            if not agent.connected:
                return f"{who} is not connected"
            if not agent.up_to_date:
                return f"{who} runs revision {agent.applied_version}, not {status.revision}"
    return None


def members_serve(lab: Lab) -> str | None:
    """Every member of every pool is given new flows, and every L4 node that probes it sees it healthy.

    Whom damping keeps out after a fault is undrained, as an operator does who has mended the cause.
    """
    try:
        pools = fleet_status(lab).pools
    except LabError as error:
        return str(error)
    missing: list[str] = []
    for member in (member for pool in pools for member in pool.members if member.weight is not None):
        if member.held_for_s:
            with contextlib.suppress(LabError):  # it may have come back by itself in the meantime
                run_as_operator(lab, undrain_command(member.name))
        if member.state is not MemberState.ACTIVE or not member.healthy:
            missing.append(f"{member.name} is {member.state}{'' if member.healthy else ', and not healthy'}")
        unseen = [node for node, probe in member.seen_by.items() if probe.verdict is not ProbeVerdict.HEALTHY]
        missing += [f"{member.name} is not healthy as {node} sees it" for node in unseen]
        if not member.seen_by:
            missing.append(f"nobody has probed {member.name} yet")
    return ", ".join(missing) or None


def requests_are_answered(lab: Lab) -> str | None:
    """A request from every client address to the VIP of its family is answered by a backend, over verified TLS."""
    client = lab.topology.client
    backends = {host.name for host in lab.topology.backends}
    for source in (interface.ip for interface in client.addresses):
        vip = VIP_V4 if source.version == 4 else VIP_V6
        try:
            body = request(lab, client, source, vip).strip()
        except LabError as error:
            return f"no answer from {vip} to {source}: {error}"
        if body not in backends:
            return f"{vip} answered {source} with {body[:60]!r}, which is no backend's name"
    return None


def request(lab: Lab, client: LabHost, source: IPv4Address | IPv6Address, vip: IPv4Address | IPv6Address) -> str:
    """The body of one GET / over the VIP. Raises LabError with curl's words."""
    address = str(vip) if vip.version == 4 else f"[{vip}]"
    return run_in(
        client.namespace,
        [
            *("curl", "--silent", "--show-error", "--fail", "--max-time", str(REQUEST_TIMEOUT_S)),
            *("--interface", str(source), "--cacert", str(lab.ca)),
            *("--resolve", f"{HOST_NAME}:{VIP_PORT}:{address}", f"https://{HOST_NAME}:{VIP_PORT}/"),
        ],
    )


def run_as_operator(lab: Lab, argv: list[str]) -> str:
    """Runs `edgectl` with the lab's operator context. Raises LabError with what it wrote."""
    return run(argv, environment={"EDGECTL_CONTEXT": str(lab.operator)})
