"""What Prometheus sees of an agent: one family per kernel counter, and the state that reports carry.

Names follow https://prometheus.io/docs/practices/naming/. Kernel counters are exported as `edge_l4_<name>_total`.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from l4.balancer import BalancerAgent
from l4.redirector import RedirectorAgent
from orchestrator.contract.report import BalancerStatus, RedirectorStatus, TableStatus

Samples = Iterable[tuple[tuple[str, ...], float]]


async def balancer_metrics(agent: BalancerAgent) -> list[Metric]:
    """All families of a balancer, read now."""
    status = await agent.status()
    traffic = await agent.traffic()
    vips = agent.snapshot.vips if agent.snapshot else ()
    return [
        *_common(status, agent.snapshot.version if agent.snapshot else None),
        _counter("vip_packets", "Packets forwarded", ("vip",), _labelled(traffic.packets_of_vip)),
        _counter("vip_octets", "Octets of forwarded IP packets", ("vip",), _labelled(traffic.octets_of_vip)),
        _counter(
            "vip_dropped_packets",
            "Packets to a VIP that were dropped, by the counter that says why",
            ("vip", "reason"),
            traffic.dropped_of_vip.items(),
        ),
        _counter("member_packets", "Packets sent to a member", ("member",), _labelled(traffic.packets_to_member)),
        _gauge(
            "vip_announced",
            "1 if this node announces the VIP",
            ("vip",),
            (((vip.name,), float(vip.name in status.announced)) for vip in vips),
        ),
        _gauge(
            "bgp_session_established",
            "1 if the BGP session with the neighbour is established",
            ("neighbor",),
            (((neighbor,), float(is_up)) for neighbor, is_up in status.sessions.items()),
        ),
        *_tables(status.tables),
    ]


async def redirector_metrics(agent: RedirectorAgent) -> list[Metric]:
    """All families of a redirector, with a fresh census."""
    status = await agent.status()
    return [
        *_common(status, agent.snapshot.version if agent.snapshot else None),
        _gauge("flows", "Flows that this host holds", ("pool",), (((c.pool,), c.flows) for c in status.census)),
        _gauge(
            "flows_by_needed_generation",
            "Flows in rows that this member no longer owns, by the generation that brings them here",
            ("pool", "generation"),
            (((c.pool, str(number)), flows) for c in status.census for number, flows in c.needed.items()),
        ),
        _gauge(
            "orphan_flows",
            "Flows that no live generation brings here",
            ("pool",),
            (((c.pool,), c.orphans) for c in status.census),
        ),
    ]


def exposition(families: Iterable[Metric]) -> bytes:
    """The text format (version 0.0.4) of these families and of the process's own."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    ProcessCollector(registry=registry)
    return generate_latest(registry)


class _Families:
    """A collector of families that are read already: reading them takes awaiting, which a collector cannot."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        yield from self._families


def _common(status: BalancerStatus | RedirectorStatus, version: int | None) -> Iterator[Metric]:
    for name, value in sorted(status.counters.items()):
        yield _counter(name, f"Counter `{name}` of the {status.role}", (), [((), value)])
    yield _gauge("snapshot_version", "Version of the snapshot in service; 0 if none", (), [((), version or 0)])
    modes = ("native", "generic", "detached")
    yield _gauge(
        "xdp_mode",
        "1 for the mode in which the XDP program runs",
        ("interface", "mode"),
        (((status.interface, mode), float(mode == status.xdp_mode)) for mode in modes),
    )


def _tables(tables: Iterable[TableStatus]) -> Iterator[Metric]:
    tables = list(tables)
    names = "table_member_rows", "table_chain_rows", "table_overflowed_rows", "table_generations"
    yield _gauge(
        names[0],
        "Rows whose first owner the member is, by its id",
        ("pool", "member_id"),
        (((t.pool, str(member)), rows) for t in tables for member, rows in t.rows_of_member.items()),
    )
    yield _gauge(
        names[1],
        "Rows by the number of their owners",
        ("pool", "owners"),
        (((t.pool, str(owners)), rows) for t in tables for owners, rows in enumerate(t.chain_lengths)),
    )
    yield _gauge(
        names[2],
        "Rows with more owners in live generations than a chain holds",
        ("pool",),
        (((t.pool,), t.overflowed_rows) for t in tables),
    )
    yield _gauge(names[3], "Live generations", ("pool",), (((t.pool,), len(t.generations)) for t in tables))


def _labelled(values: Mapping[str, int]) -> Iterator[tuple[tuple[str, ...], float]]:
    for name, value in values.items():
        yield (name,), value


def _counter(name: str, documentation: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = CounterMetricFamily(f"edge_l4_{name}", documentation, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _gauge(name: str, documentation: str, labels: tuple[str, ...], samples: Samples) -> Metric:
    family = GaugeMetricFamily(f"edge_l4_{name}", documentation, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
