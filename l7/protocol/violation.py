"""What is refused, and why."""


class BadRequest(Exception):
    """The client broke a rule: its request is answered with an error and its connection closed, never repaired."""

    def __init__(self, status: int, reason: str) -> None:
        """`status`: of the answer. `reason`: a name for log and metrics, such as `content_length_duplicate`."""
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class BadResponse(Exception):
    """The server broke a rule: the client gets 502, or a visible cut if the response had begun."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BadBody(Exception):
    """A body's framing broke a rule; the codec that reads it turns this into one of the other two."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
