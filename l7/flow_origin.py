"""Which L4 node brought a flow, by name, for the access log: looked up once, at accept.

The redirector may start after the proxy, or be missing: then the name is unknown, that is counted, said once, and the
map is looked for again now and then.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from l4.ingress import Ingress, IngressUnavailable
from l7 import limits
from l7.telemetry.metrics import Counters

log = logging.getLogger(__name__)


class IngressLookup(Protocol):
    """A view of the redirector's map (`l4.ingress.IngressMap`)."""

    def lookup(self, client: str, client_port: int, vip: str, vip_port: int) -> Ingress | None:
        """None: not known. Raises OSError or IngressUnavailable."""


class FlowOrigin:
    """Names the L4 node of a flow, as far as that is known."""

    def __init__(self, open_map: Callable[[], IngressLookup] | None, counters: Counters) -> None:
        """`open_map` raises IngressUnavailable while there is no map. None: nothing is looked up."""
        self._open = open_map
        self._counters = counters
        self._map: IngressLookup | None = None
        self._try_again_at = 0.0
        self._said = False

    def name(self, client: tuple[str, int], vip: tuple[str, int], names: Mapping[int, str], now: float) -> str | None:
        """Name of the node that brought the flow between these ends; `now` in monotonic seconds."""
        if self._open is None:
            return None
        try:
            if self._map is None:
                if now < self._try_again_at:
                    return None
                self._map = self._open()
                self._said = False
            ingress = self._map.lookup(*client, *vip)
        except (IngressUnavailable, OSError) as error:
            self._map = None
            self._try_again_at = now + limits.INGRESS_RETRY_S
            self._counters.add("ingress_unavailable")
            if not self._said:
                self._said = True
                log.warning("access-log lines do not name L4 nodes: %s", error)
            return None
        if ingress is None:
            self._counters.add("ingress_unknown")
            return None
        return names.get(ingress.node_id)
