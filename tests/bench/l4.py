"""`make bench-l4`: what a packet costs in the kernel programs, beside a reference.

A table, and last one JSON line. The method is in docs/benchmarks.md.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.bench.packet_rows import (
    Row,
    balancer_rows,
    guarded_rows,
    load_balancer,
    load_redirector,
    redirector_rows,
    reference_rows,
    through_the_tunnel,
)
from tests.bench.reference import ReferencePrograms
from tests.bench.run_time import nanoseconds_per_packet, run_time_statistics
from tests.bench.sandbox import one_core, own_bpffs, own_network
from tests.bench.tables import build_milliseconds, collateral_percent
from tests.bpf.open_flows import FlowState, add_addresses, flow_in
from tests.bpf.packets import FLOWS

#: How often everything is loaded. Where its maps come to lie in memory, and which of them fall on the cache lines that
#: frames need, is another matter of luck each time: up to a tenth of a row.
LOADS = 4
#: Rounds over all rows of all loads, and batches of each row in a round.
ROUNDS = 5
CALLS = 12
REFERENCE = "reference"

#: What is promised, as a ratio to the reference.
GOALS = {
    "gue_tcp_established": 1.5,
    "ipip_tcp_established": 1.3,
    "gue_tcp_established_10k_blocks": 2.2,
    "blocklist_drop": 1.0,
}
#: Milliseconds, by what is built.
BUILD_GOALS = {"one": 10.0, "four": 50.0}


@dataclass(frozen=True, slots=True)
class Load:
    """Programs as they were loaded once, with maps of their own, and the rows that run on them."""

    programs: tuple[object, ...]
    """They are unloaded with this."""
    rows: tuple[Row, ...]


def load(stack: ExitStack, local: bytes) -> Load:
    """`local` is a frame, through the tunnel, of a flow whose socket is here."""
    bpffs = stack.enter_context(own_bpffs())
    references = ReferencePrograms(FLOWS["ipv4"])
    balancer, redirector = load_balancer(bpffs), load_redirector(bpffs)
    guarded = load_balancer(stack.enter_context(own_bpffs()))
    return Load(
        programs=(references, balancer, redirector, guarded),
        rows=(
            *reference_rows(references),
            *balancer_rows(balancer),
            *guarded_rows(guarded),
            *redirector_rows(redirector, local),
        ),
    )


def measure(loads: Sequence[Load]) -> dict[str, list[float]]:
    """Nanoseconds a packet of each row, by rounds and loads, the rows taken in turn."""
    rows = [row for each in loads for row in each.rows]
    seen: dict[str, list[float]] = {row.name: [] for row in rows}
    for row in rows:
        nanoseconds_per_packet(row.descriptor, row.frame, 1)  # maps and caches are warm
    for number in range(ROUNDS):
        sys.stderr.write(f"\rround {number + 1} of {ROUNDS}")
        sys.stderr.flush()
        for row in rows:
            seen[row.name].append(nanoseconds_per_packet(row.descriptor, row.frame, CALLS))
    sys.stderr.write("\r")
    return seen


def net_medians(seen: dict[str, list[float]]) -> dict[str, float]:
    """Medians over rounds and loads of what a row costs beyond the empty program of the same round and load."""
    return {
        name: statistics.median(cost - empty for cost, empty in zip(costs, seen["empty"], strict=True))
        for name, costs in seen.items()
    }


def packet_costs() -> dict[str, float]:
    """Net nanoseconds by row."""
    with ExitStack() as stack:
        stack.enter_context(own_network())
        add_addresses()
        local = through_the_tunnel(stack.enter_context(flow_in(FlowState.ESTABLISHED, "ipv4")).packet)
        loads = [load(stack, local) for _ in range(LOADS)]
        stack.enter_context(one_core())
        stack.enter_context(run_time_statistics())
        return net_medians(measure(loads))


def drawn(net_ns: dict[str, float], ratio: dict[str, float]) -> Table:
    table = Table(title="net nanoseconds a packet", title_justify="left")
    table.add_column("row")
    for column in ("net ns", "× reference", "goal"):
        table.add_column(column, justify="right")
    for name, cost in net_ns.items():
        goal = GOALS.get(name)
        mark = "" if goal is None else f"≤ {goal:g} {'held' if ratio[name] <= goal else 'MISSED'}"
        table.add_row(name, f"{cost:.1f}", f"{ratio[name]:.2f}", mark)
    return table


def drawn_tables(build_ms: dict[str, float], collateral_pct: dict[str, dict[str, float]]) -> list[Table]:
    builds = Table(title="milliseconds to build the table of 1000 members, 65537 rows", title_justify="left")
    for column in ("generations", "ms", "goal"):
        builds.add_column(column, justify="right")
    for name, taken in build_ms.items():
        goal = BUILD_GOALS.get(name)
        mark = "" if goal is None else f"≤ {goal:g} {'held' if taken <= goal else 'MISSED'}"
        builds.add_row(name, f"{taken:.1f}", mark)
    collateral = Table(title="rows moved that need not move, % (1000 members, 65537 rows)", title_justify="left")
    collateral.add_column("members that leave")
    for column in collateral_pct:
        collateral.add_column(column, justify="right")
    for leaving in collateral_pct["ours"]:
        collateral.add_row(leaving, *(f"{figures[leaving]:.3f}" for figures in collateral_pct.values()))
    return [builds, collateral]


def main() -> None:
    net_ns = packet_costs()
    ratio = {name: cost / net_ns[REFERENCE] for name, cost in net_ns.items()}
    build_ms, collateral_pct = build_milliseconds(), collateral_percent()
    Console().print(drawn(net_ns, ratio), *drawn_tables(build_ms, collateral_pct), sep="\n")
    figures = {
        "net_ns": {name: round(cost, 1) for name, cost in net_ns.items()},
        "ratio": {name: round(value, 3) for name, value in ratio.items()},
        "build_ms": {name: round(taken, 1) for name, taken in build_ms.items()},
        "collateral_pct": collateral_pct,
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
