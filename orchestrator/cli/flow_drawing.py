"""A flow's way, drawn from the client to the backend."""

from rich.console import RenderableType
from rich.text import Text
from rich.tree import Tree

from orchestrator.cli.drawings import where
from orchestrator.cli.flow_tracing import Flow, Request
from orchestrator.cli.trace_drawing import add_path, labelled
from orchestrator.cli.tracing import Hop, Path
from orchestrator.contract.operator import ServerView
from orchestrator.contract.vip import FlowHash, VipMode

GOOD, CARE, BAD = "green", "yellow", "bold red"


def drawn(flow: Flow) -> RenderableType:
    """One tree: each step of the way below the one before."""
    probe = flow.traced.probe
    head = flow.paths[0].answer.steps[0].words if flow.paths else "nobody told"
    tree = Tree(Text(head, style="bold"))
    if flow.is_new and flow.vip.flow_hash is FlowHash.FLOW:
        tree.add(labelled("flow", f"a new one, from port {probe.source_port} (by way of example: others go elsewhere)"))
    tree.add(labelled("vip", f"{flow.vip.name}, {where(flow.vip)}, {flow.vip.mode} by pool {flow.vip.pool}"))
    _add_routers(tree.add(Text("routers", style="bold")), flow)
    for path in flow.paths if not flow.is_agreed else flow.paths[:1]:
        add_path(tree.add(Text(_l4_name(flow, path), style="bold")), path)
    for failure in flow.traced.failures.values():
        tree.add(Text(failure.message, style=CARE))
    if flow.last is not None:
        _add_service(tree, flow, flow.last)
    return tree


def _l4_name(flow: Flow, path: Path) -> str:
    if not flow.is_agreed or len(flow.paths) == 1:
        return path.node
    return f"{', '.join(one.node for one in flow.paths)}: all the same"


def _add_routers(branch: Tree, flow: Flow) -> None:
    if flow.candidates:
        words = f"any of {', '.join(flow.candidates)}" if len(flow.candidates) > 1 else flow.candidates[0]
        branch.add(labelled("choose", words + (", by their own hash" if len(flow.candidates) > 1 else "")))
    else:
        branch.add(labelled("choose", "nobody: no L4 node announces the VIP", BAD))
    for node, reason in flow.unable.items():
        branch.add(labelled("not", f"{node}: {reason}", CARE))
    if flow.brought_by is not None:
        branch.add(labelled("chose", f"{flow.brought_by}, when the flow began (its proxy remembers)", GOOD))
    if len(flow.paths) > 1 and flow.is_agreed:
        branch.add(labelled("matters", "not: each of them has the same row, owners and verdict", GOOD))
    elif len(flow.paths) > 1:
        branch.add(labelled("matters", "yes: they differ in what they would do, see below", BAD))


def _add_service(tree: Tree, flow: Flow, last: Hop) -> None:
    branch = tree.add(Text(f"{last.node}, the proxy", style="bold"))
    if flow.is_open:
        branch.add(labelled("flow", "open here", GOOD))
    elif flow.is_new:
        branch.add(labelled("flow", "would begin here"))
    else:
        branch.add(labelled("flow", "nobody on its way has it: the client is answered with a reset", CARE))
    if flow.vip.mode is not VipMode.TERMINATE:
        branch.add(labelled("service", f"whoever has the VIP's port on {last.node}: nothing is terminated"))
    elif flow.request is not None:
        _add_request(branch, flow.request, last.node)


def _add_request(branch: Tree, request: Request, proxy: str) -> None:
    if request.host is None:
        branch.add(labelled("request", "each request of a flow has its own backend, which proxies tell in access logs"))
        hosts = ", ".join(request.hosts[:5]) + (", ..." if len(request.hosts) > 5 else "")
        branch.add(labelled("", f"where one would go: --host NAME --path /...; served are {hosts or 'none'}"))
        return
    branch.add(labelled("request", f"{request.host} {request.path}"))
    if request.problem is not None:
        branch.add(labelled("route", request.problem, CARE))
        return
    branch.add(labelled("route", f"{request.route} → backend {request.backend.name if request.backend else '?'}"))
    for server in request.backend.servers if request.backend else ():
        branch.add(_server(server, proxy))


def _server(server: ServerView, proxy: str) -> Text:
    words = f"{server.name} {server.address}:{server.port}"
    if proxy in server.healthy_on:
        return labelled("server", f"{words}, healthy", GOOD)
    detail = server.unhealthy_on.get(proxy)
    return labelled("server", f"{words}, {detail or 'not looked at by this proxy yet'}", BAD if detail else CARE)
