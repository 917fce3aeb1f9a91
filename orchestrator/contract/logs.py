"""What processes of the fleet do not log."""

import logging
from typing import Final

#: The HTTP client's, which have a line at INFO for each request: an agent makes two a second.
_OF_EACH_REQUEST: Final = ("httpx2", "httpcore2")


def hush_requests() -> None:
    """To be called where a process sets its log up: requests to orchestrators that go well are not logged.

    Those that do not are told of by who made them (`orchestrator.contract.client`).
    """
    for name in _OF_EACH_REQUEST:
        logging.getLogger(name).setLevel(logging.WARNING)
