"""Bringing a lab up, in the order in which each part finds what it needs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import trio

from orchestrator.contract.node import ROLES_OF_KIND, AgentRole, NodeKind
from orchestrator.contract.operator import OperatorContext
from orchestrator.lab import backends, certificates, checks, commands, configuration, content, fabric, processes, router
from orchestrator.lab.lab import Lab
from orchestrator.lab.processes import Role
from orchestrator.lab.topology import HOST_NAME, HostKind, LabHost, Router
from orchestrator.lab.waiting import together, until

Progress = Callable[[str, float | None], None]
"""Told what happens now, in a few words, and how much of the whole is done (0 to 1, None if unknown)."""

#: Seconds. On two quiet cores each of these takes a few; the bounds are for a machine that does something else, too.
ORCHESTRATOR_START_S: Final = 60.0
ROUTES_COMPLETE_S: Final = 60.0
AGENTS_UP_TO_DATE_S: Final = 60.0
REQUESTS_ANSWERED_S: Final = 60.0
MEMBERS_SERVE_S: Final = 60.0

#: `edge-orchestrator token` spends half a second of one core, most of it on starting Python.
TOKENS_AT_ONCE: Final = 2

ROLES_OF_HOST: Final[dict[HostKind, tuple[AgentRole, ...]]] = {
    HostKind.L4: ROLES_OF_KIND[NodeKind.L4],
    HostKind.PROXY: ROLES_OF_KIND[NodeKind.PROXY],
}


async def bring_up(lab: Lab, progress: Progress) -> None:
    """From an empty directory to a lab that answers. Raises LabError; what came up by then is left for the caller."""
    progress("network and identities", 0.0)
    await trio.to_thread.run_sync(_prepare_directories, lab)
    await together(
        partial(trio.to_thread.run_sync, _build_network, lab),
        partial(trio.to_thread.run_sync, _write_files, lab),
        partial(trio.to_thread.run_sync, _create_fleet, lab),
    )
    progress("router, backends and orchestrator", 0.2)
    await trio.to_thread.run_sync(_start_surroundings, lab)
    progress("agents and configuration", 0.3)
    await together(partial(_apply_configuration, lab), partial(trio.to_thread.run_sync, _start_agents, lab))
    progress("waiting for BGP and both next hops", 0.55)
    await until(lab, "routes", partial(checks.routes_are_complete, lab), ROUTES_COMPLETE_S)
    progress("waiting for the agents", 0.8)
    await until(lab, "agents", partial(checks.agents_are_up_to_date, lab), AGENTS_UP_TO_DATE_S)
    progress("requests over IPv4 and IPv6", 0.9)
    await until(lab, "requests", partial(checks.requests_are_answered, lab), REQUESTS_ANSWERED_S)
    progress("waiting until every proxy was seen healthy", 0.95)
    await until(lab, "health", partial(checks.members_serve, lab), MEMBERS_SERVE_S)
    lab.completion.touch()
    progress("up", 1.0)


def agents(lab: Lab) -> list[tuple[LabHost, AgentRole]]:
    """Every agent of the lab, with its host."""
    hosts = (*lab.topology.l4_nodes, *lab.topology.proxies)
    return [(host, role) for host in hosts for role in ROLES_OF_HOST[host.kind]]


def _prepare_directories(lab: Lab) -> None:
    lab.marker.write_text(lab.spec.model_dump_json(indent=2))
    for host in lab.topology.everyone:
        lab.directory(host.name).mkdir(parents=True)
    lab.uploads.mkdir()
    lab.ca.parent.mkdir()


def _build_network(lab: Lab) -> None:
    fabric.build(lab.topology, lab.root)
    for host in (*lab.topology.l4_nodes, *lab.topology.proxies):
        lab.bpffs(host.name).mkdir()
        fabric.mount_bpffs(lab.bpffs(host.name))


def _write_files(lab: Lab) -> None:
    root, leaf = certificates.issue(HOST_NAME)
    lab.ca.write_text(root)
    configuration.write_configuration(lab.configuration, lab.spec, lab.topology, leaf)
    content.write_content(lab.content)
    for each in lab.topology.routers:
        (lab.directory(each.name) / "bird.conf").write_text(router.bird_configuration(lab.topology, each))
    for host in lab.topology.backends:
        backends.write_nginx_configuration(host, lab.directory(host.name), lab.content, lab.uploads)


def _create_fleet(lab: Lab) -> None:
    """The orchestrator's store, the fleet's CA, the operator's credentials."""
    control = lab.topology.control
    fabric.run(commands.init_command(lab.directory(control.name) / "data", lab.operator, control.address))
    context = lab.operator / "context.json"
    written = OperatorContext.model_validate_json(context.read_text())
    context.write_text(written.model_copy(update={"network_namespace": control.namespace}).model_dump_json(indent=2))


def _start_surroundings(lab: Lab) -> None:
    def start(host: LabHost | Router, role: Role, argv: list[str]) -> None:
        processes.start(lab.directory(host.name), host.namespace, role, argv)

    topology = lab.topology
    data = lab.directory(topology.control.name) / "data"
    start(topology.control, Role.ORCHESTRATOR, commands.orchestrator_command(data, topology.control.address))
    for each in topology.routers:
        start(each, Role.BIRD, router.bird_command(lab.directory(each.name)))
    for host in topology.backends:
        start(host, Role.NGINX, backends.nginx_command(lab.directory(host.name)))
    for host in topology.proxies:
        start(host, Role.UDP_ECHO, commands.udp_echo_command(host))


async def _apply_configuration(lab: Lab) -> None:
    await until(lab, "orchestrator", partial(checks.orchestrator_listens, lab), ORCHESTRATOR_START_S)
    await trio.to_thread.run_sync(checks.run_as_operator, lab, commands.apply_command(lab.configuration))


def _start_agents(lab: Lab) -> None:
    """Each with a token of its own. One that is earlier than the orchestrator waits for it."""
    with ThreadPoolExecutor(TOKENS_AT_ONCE) as pool:
        for started in [pool.submit(_start_agent, lab, host, role) for host, role in agents(lab)]:
            started.result()


def _start_agent(lab: Lab, host: LabHost, role: AgentRole) -> None:
    directory = lab.directory(host.name)
    data = lab.directory(lab.topology.control.name) / "data"
    token = commands.token_path(directory, role)
    token.touch(0o600)
    token.write_text(fabric.run(commands.token_command(data, host.name, role)))
    argv = commands.agent_command(host, role, directory, lab.topology.control.address, lab.spec)
    processes.start(directory, host.namespace, Role(role.value), argv)
