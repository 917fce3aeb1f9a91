"""Numbers in queries, read with bounds."""

from starlette.requests import Request

from orchestrator.api.answers import Refused
from orchestrator.contract.wire import Problem


def number(request: Request, name: str, least: float, most: float) -> float:
    """The query's number of that name, 0 if there is none. Raises Refused."""
    text = request.query_params.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value <= most:  # NaN is not between, either
        message = f"{name}={text[:40]!r} is not a number from {least:.0f} to {most:.0f}"
        raise Refused(422, Problem(code="invalid_query", message=message, path=name, hint="see the contract"))
    return value
