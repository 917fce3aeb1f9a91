"""How L4 nodes speak BGP: `nodes[].bgp`."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.document import Place
from orchestrator.config.entries import Placed
from orchestrator.config.findings import Findings
from orchestrator.config.referenced import referenced_text
from orchestrator.config.schema import BgpEntry, NeighborEntry, NodeEntry
from orchestrator.contract.base import Address
from orchestrator.contract.snapshot import Bgp, BgpNeighbor, BgpPassword

_PASSWORD: TypeAdapter[str] = TypeAdapter(BgpPassword)


def check_bgp(node: Placed[NodeEntry], findings: Findings) -> None:
    """Findings about what each field by itself does not tell."""
    bgp = node.value.bgp
    if bgp is None:
        return
    place = node.place.at("bgp")
    _check_neighbors(bgp, place, findings)
    if bgp.soft_med < bgp.med:
        findings.add(
            "soft_med_better",
            place.at("soft_med"),
            f"a MED of {bgp.soft_med} is better than {bgp.med}: routers would prefer the node while it drains",
            "leave `soft_med` out: it is then worse than any other",
        )


def compile_bgp(
    bgp: BgpEntry, address: Address, place: Place, files: Mapping[str, str], findings: Findings
) -> Bgp | None:
    """The speaker of a node with this address and entry; `place` is that of the entry. None after a finding."""
    neighbors = tuple(
        _neighbor(neighbor, place.at("neighbors", index), files, findings)
        for index, neighbor in enumerate(bgp.neighbors)
    )
    router_id = bgp.router_id or address
    if not isinstance(router_id, IPv4Address):
        return None  # of an L4 node without an IPv4 address, which is refused
    return Bgp(neighbors=neighbors, router_id=router_id, **bgp.model_dump(exclude={"neighbors", "router_id"}))


def _check_neighbors(bgp: BgpEntry, place: Place, findings: Findings) -> None:
    first: dict[Address, int] = {}
    for index, neighbor in enumerate(bgp.neighbors):
        at = place.at("neighbors", index)
        if neighbor.address in first:
            findings.add(
                "duplicate",
                at.at("address"),
                f"neighbour {neighbor.address} is there already, as number {first[neighbor.address] + 1}",
                "one session to a router's address is all that there can be",
            )
        first.setdefault(neighbor.address, index)
        if neighbor.address.is_multicast or neighbor.address.is_loopback or neighbor.address.is_unspecified:
            findings.add(
                "invalid_address",
                at.at("address"),
                f"{neighbor.address} is no router's own address",
                "use the router's address on the node's segment",
            )


def _neighbor(neighbor: NeighborEntry, place: Place, files: Mapping[str, str], findings: Findings) -> BgpNeighbor:
    password = None
    if neighbor.password_file is not None:
        text = referenced_text(place.at("password_file"), neighbor.password_file, files, findings)
        password = None if text is None else _password(text, place.at("password_file"), findings)
    return BgpNeighbor(address=neighbor.address, asn=neighbor.asn, password=password)


def _password(text: str, place: Place, findings: Findings) -> str | None:
    try:
        return _PASSWORD.validate_python(text.removesuffix("\n").removesuffix("\r"))
    except ValidationError:
        findings.add(
            "password_unusable",
            place,
            "the file does not hold one password on one line",
            "1 to 80 printable ASCII characters without double quotes, as TCP MD5 and BIRD take them",
        )
        return None
