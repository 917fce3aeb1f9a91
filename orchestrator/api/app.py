"""The table of paths."""

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator.api import guard_paths, inquiry_paths, node_paths, operator_paths
from orchestrator.api.answers import explain_http_error
from orchestrator.api.callers import ForOperators, for_agents, for_anybody, for_operators
from orchestrator.contract import operator, operator_guard, wire
from orchestrator.fleet.control import Control


def create_app(control: Control) -> ASGIApp:
    """The ASGI application. Only `CA` and `JOIN` are open to a caller without a certificate."""

    def operate(path: str, method: str, endpoint: ForOperators) -> Route:
        return Route(path, for_operators(control, endpoint), methods=[method])

    routes = [
        Route(wire.CA, for_anybody(control, node_paths.ca), methods=["GET"]),
        Route(wire.JOIN, for_anybody(control, node_paths.join), methods=["POST"]),
        Route(wire.NODE_SNAPSHOT, for_agents(control, node_paths.snapshot), methods=["GET"]),
        Route(wire.NODE_REPORT, for_agents(control, node_paths.report), methods=["POST"]),
        Route(wire.NODE_CERTIFICATE, for_agents(control, node_paths.certificate), methods=["POST"]),
        Route(wire.NODE_INQUIRY, for_agents(control, inquiry_paths.next_inquiry), methods=["GET"]),
        Route(wire.NODE_INQUIRY_PIECE, for_agents(control, inquiry_paths.piece), methods=["POST"]),
        operate(operator.CONFIGURATION, "POST", operator_paths.apply),
        operate(operator.STATUS, "GET", operator_paths.status),
        operate(operator.VIPS, "GET", operator_paths.vips),
        operate(operator.POOLS, "GET", operator_paths.pools),
        operate(operator.SITES, "GET", operator_paths.sites),
        operate(operator.NODES, "GET", operator_paths.nodes),
        operate(operator.HOSTS, "GET", operator_paths.hosts),
        operate(operator.BACKENDS, "GET", operator_paths.backends),
        operate(operator.DRAINS, "GET", operator_paths.drains),
        operate(operator.TABLES, "GET", operator_paths.tables),
        operate(operator.NODE_DRAIN, "POST", operator_paths.start_drain),
        operate(operator.NODE_DRAIN, "GET", operator_paths.get_drain),
        operate(operator.NODE_DRAIN_CANCEL, "POST", operator_paths.cancel_drain),
        operate(operator.NODE_UNDRAIN, "POST", operator_paths.undrain),
        operate(operator.SITE_DRAIN, "POST", operator_paths.start_site_drain),
        operate(operator.SITE_DRAIN, "GET", operator_paths.get_site_drain),
        operate(operator.SITE_DRAIN_CANCEL, "POST", operator_paths.cancel_site_drain),
        operate(operator.SITE_UNDRAIN, "POST", operator_paths.undrain_site),
        operate(operator.TOKENS, "POST", operator_paths.issue_token),
        operate(operator_guard.GUARD, "GET", guard_paths.show),
        operate(operator_guard.GUARD_LISTS, "POST", guard_paths.put_on_list),
        operate(operator_guard.GUARD_REMOVALS, "POST", guard_paths.take_off_list),
        operate(operator_guard.GUARD_LIMITS, "POST", guard_paths.set_limit),
        operate(operator_guard.GUARD_RESET, "POST", guard_paths.reset_limits),
        operate(operator.NODE_INQUIRIES, "POST", inquiry_paths.ask),
        operate(operator.INQUIRY, "GET", inquiry_paths.progress),
        operate(operator.INQUIRY, "DELETE", inquiry_paths.cancel),
    ]
    return without_lifespan(Starlette(routes=routes, exception_handlers={HTTPException: explain_http_error}))


def without_lifespan(app: ASGIApp) -> ASGIApp:
    """Answers the server's lifespan messages here: there is nothing to start or stop.

    Starlette's own answer takes trio's cancellation for a failed shutdown, and raises.
    """

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})

    return serve
