"""Keys of TLS session tickets: made here, sent to all proxies, rotated by time.

A key is sent out one period before it issues, so that every proxy takes its tickets from the first one on, however
long a snapshot is on its way. Then it issues for one period, and is accepted for as many more as the configuration
says.

```
 next ──rotation──▶ issuing ──rotation──▶ older ─ ... ─▶ forgotten
```
"""

import secrets
from collections.abc import Callable

from orchestrator.config.configuration import Configuration
from orchestrator.contract.ticket import CIPHER_OCTETS, MAC_OCTETS, NAME_OCTETS, TicketKey, TicketKeys
from orchestrator.contract.vip import VipMode
from orchestrator.fleet.document import FleetState, TicketKeyChain

NewKey = Callable[[], TicketKey]


def new_key() -> TicketKey:
    """A key that nobody can guess."""
    return TicketKey(name=secrets.token_hex(NAME_OCTETS), secret=secrets.token_hex(MAC_OCTETS + CIPHER_OCTETS))


def rotated(fleet: FleetState, configuration: Configuration, *, wall: float, new_key: NewKey = new_key) -> FleetState:
    """The fleet with the keys that it should have at `wall` (Unix time); with its first ones if proxies end TLS."""
    chain = fleet.ticket_keys
    if chain is None:
        if not any(vip.mode is VipMode.TERMINATE and vip.tls for vip in configuration.vips):
            return fleet
        chain = TicketKeyChain(next=new_key(), issuing=new_key(), rotated_at=wall)
    # A clock that was put back by more than a period must not keep a key in use for as long.
    elif abs(wall - chain.rotated_at) >= configuration.ticket_key_s:
        older = (chain.issuing, *chain.older)[: configuration.older_ticket_keys]
        chain = TicketKeyChain(next=new_key(), issuing=chain.next, older=older, rotated_at=wall)
    elif len(chain.older) > configuration.older_ticket_keys:
        chain = chain.model_copy(update={"older": chain.older[: configuration.older_ticket_keys]})
    else:
        return fleet
    return fleet.model_copy(update={"ticket_keys": chain})


def ticket_keys(fleet: FleetState) -> TicketKeys | None:
    """As proxies are sent them."""
    chain = fleet.ticket_keys
    return None if chain is None else TicketKeys(issuing=chain.issuing, accepting=(chain.next, *chain.older))
