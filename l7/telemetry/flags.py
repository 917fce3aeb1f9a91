"""Response flags: why an answer is not simply the backend's. Names and meanings are Envoy's (%RESPONSE_FLAGS%)."""

from enum import StrEnum


class Flag(StrEnum):
    """One reason. A request may collect several, in the order in which they came up."""

    DOWNSTREAM_CONNECTION_TERMINATION = "DC"
    """The client went away before its response was complete."""
    DOWNSTREAM_PROTOCOL_ERROR = "DPE"
    """The client's request broke a rule; the detail names it."""
    DURATION_TIMEOUT = "DT"
    """The client took too long to send its request."""
    NO_ROUTE = "NR"
    """No route for host and path."""
    NO_HEALTHY_UPSTREAM = "UH"
    """The backend has no server to choose from."""
    UNAUTHORIZED = "UAEX"
    """The client may not do this; the detail names the rule."""
    UPSTREAM_CONNECTION_FAILURE = "UF"
    """Connecting to the server failed or took too long."""
    UPSTREAM_CONNECTION_TERMINATION = "UC"
    """The server closed before its response was complete."""
    UPSTREAM_OVERFLOW = "UO"
    """A bound on connections or waiting requests was reached."""
    UPSTREAM_PROTOCOL_ERROR = "UPE"
    """The server's response broke a rule; the detail names it."""
    UPSTREAM_REQUEST_TIMEOUT = "UT"
    """The response's first byte did not come within the route's timeout."""
    UPSTREAM_RETRY_LIMIT_EXCEEDED = "URX"
    """The request failed after its last retry."""
    STREAM_IDLE_TIMEOUT = "SI"
    """Nothing moved for too long in the middle of the response."""
