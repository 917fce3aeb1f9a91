"""`make bench-l7`: what a request costs our proxy, HAProxy and nginx, on one same core.

A table, and last one JSON line. The method is in docs/benchmarks.md.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tests.bench.l7.load import Clients, Load
from tests.bench.l7.peers import PROXIES, Running, running, servers
from tests.bench.l7.processes import cpu_seconds, process, resident_bytes
from tests.bench.l7.site import SERVERS, lay_out
from tests.bench.sandbox import own_network

ROUNDS = 3
SECONDS = 3.0
WARM_UP_S = 1.0
#: Until what was logged must be in the file.
LOG_DELAY_S = 5.0
OURS = "ours"
IDLE_CONNECTIONS = 10_000

Generate = Callable[[Clients, str, float], Load]

#: Rows of CPU time: how the load is made.
LOADS: Mapping[str, Generate] = {
    "h1_small": lambda clients, address, s: clients.wrk(address, "small", seconds=s),
    "h1_tls_small": lambda clients, address, s: clients.wrk(address, "small", tls=True, seconds=s),
    "h1_100k": lambda clients, address, s: clients.wrk(address, "large", connections=32, seconds=s),
    "h2_small": lambda clients, address, s: clients.h2load(address, connections=8, streams=32, seconds=s),
    "tls_full": lambda clients, address, s: clients.handshakes(address, resumed=False, seconds=s),
    "tls_resumed": lambda clients, address, s: clients.handshakes(address, resumed=True, seconds=s),
    "tls_h2_small": lambda clients, address, s: clients.h2load(address, connections=32, streams=2, seconds=s),
    "upload": lambda clients, address, s: clients.wrk(address, "upload", connections=32, seconds=s),
}
IDLE = "idle_connection_bytes"
ADDED = ("added_p50", "added_p99")
ROWS = (*LOADS, IDLE, *ADDED)

#: What is promised, as a ratio of the better peer's cost to ours.
GOALS = {
    "h1_small": 0.8,
    "h1_tls_small": 0.8,
    "h1_100k": 0.9,
    "h2_small": 0.5,
    "tls_full": 0.9,
    "tls_resumed": 0.8,
}


@dataclass
class Figures:
    """What was measured of one proxy in one row, by rounds."""

    cost: list[float] = field(default_factory=list)
    """CPU time in µs for each unit; bytes for each idle connection; µs of latency added."""
    per_second: list[float] = field(default_factory=list)
    p50_us: list[float] = field(default_factory=list)
    p99_us: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Share of its core."""

    def note(self, load: Load) -> None:
        """What its clients have seen."""
        self.per_second.append(load.per_second)
        self.p50_us.append(load.p50_us)
        self.p99_us.append(load.p99_us)

    def columns(self) -> tuple[list[float], list[float], list[float]]:
        """By rounds: throughput and latencies."""
        return self.per_second, self.p50_us, self.p99_us


Results = dict[str, dict[str, Figures]]


def measure(proxy: Running, generate: Generate, clients: Clients, seconds: float, figures: Figures) -> None:
    """One row of one proxy, once."""
    before, began = cpu_seconds(proxy.pid), time.monotonic()
    load = generate(clients, proxy.address, seconds)
    spent, wall = cpu_seconds(proxy.pid) - before, time.monotonic() - began
    figures.cost.append(spent / load.units * 1e6)
    figures.busy.append(spent / wall)
    figures.note(load)


def measure_idle(proxy: Running, core: int, figures: Figures) -> None:
    """Memory of a proxy that has done nothing before."""
    before = resident_bytes(proxy.pid)
    command = [sys.executable, "-m", "tests.bench.l7.idle", proxy.address, str(IDLE_CONNECTIONS)]
    with process(command, core=core, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        if client.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{proxy.name} does not hold {IDLE_CONNECTIONS} connections")
        figures.cost.append((resident_bytes(proxy.pid) - before) / IDLE_CONNECTIONS)
        client.stdin.close()
        if client.wait(30) != 0:
            raise RuntimeError(f"{proxy.name} has closed idle connections")
    time.sleep(0.5)


def measure_added(proxies: Sequence[Running], clients: Clients, rate: float, seconds: float, results: Results) -> None:
    """Latency over that of the servers themselves, at the same rate for all."""

    def at_rate(address: str, port: int) -> Load:
        return clients.h2load(address, connections=16, streams=1, seconds=seconds, rate=rate, port=port)

    direct = at_rate(*SERVERS[0])
    for proxy in proxies:
        load = at_rate(proxy.address, 80)
        added = {"added_p50": load.p50_us - direct.p50_us, "added_p99": load.p99_us - direct.p99_us}
        for row, cost in added.items():
            if row in results:
                figures = results[row][proxy.name]
                figures.cost.append(cost)
                figures.note(load)


def in_turns(proxies: Sequence[Running], number: int) -> list[Running]:
    """Each comes first once in as many rounds as there are proxies."""
    first = number % len(proxies)
    return [*proxies[first:], *proxies[:first]]


def bench(rows: Sequence[str], rounds: int, seconds: float) -> tuple[Results, float]:
    """Every row of every proxy, and how many small requests a second the servers answer without one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise click.ClickException("two cores are needed: one for the proxies, one for clients and servers")
    # Interrupts go to the first.
    proxy_core, client_core = cores[-1], cores[0]
    results: Results = {row: {name: Figures() for name in PROXIES} for row in rows}
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-bench-")))
        stack.enter_context(own_network())
        site = lay_out(directory)
        clients = Clients(site, client_core)
        stack.enter_context(servers(site, client_core))
        proxies = [stack.enter_context(running(name, site, proxy_core)) for name in PROXIES]
        if IDLE in rows:
            for proxy in proxies:
                say(f"{IDLE}: {proxy.name}")
                measure_idle(proxy, client_core, results[IDLE][proxy.name])
        say("warming up")
        alone = clients.wrk(SERVERS[0][0], "small", port=SERVERS[0][1], seconds=WARM_UP_S).per_second
        slowest = min(clients.wrk(proxy.address, "small", seconds=WARM_UP_S).per_second for proxy in proxies)
        for number in range(rounds):
            for row in [row for row in LOADS if row in rows]:
                say(f"round {number + 1} of {rounds}: {row}")
                for proxy in in_turns(proxies, number):
                    measure(proxy, LOADS[row], clients, seconds, results[row][proxy.name])
            if any(row in rows for row in ADDED):
                say(f"round {number + 1} of {rounds}: latency")
                measure_added(in_turns(proxies, number), clients, slowest / 2, seconds, results)
        for proxy in proxies:
            check_log(proxy, clients.requests[proxy.address])
    say("")
    return results, alone


def check_log(proxy: Running, requests: int) -> None:
    """Whatever it served, it has logged: a proxy that drops its log would look cheap."""
    until = time.monotonic() + LOG_DELAY_S
    while (lines := proxy.log.read_bytes().count(b"\n")) < requests:
        if time.monotonic() > until:
            raise RuntimeError(f"{proxy.name} has logged {lines} of {requests} requests")
        time.sleep(0.2)


def say(text: str) -> None:
    """What goes on, on one line that is written over."""
    sys.stderr.write(f"\r\033[K{text}")
    sys.stderr.flush()


def unit_of(row: str) -> str:
    """Of the figures of a row."""
    if row == IDLE:
        return "bytes"
    if row in ADDED:
        return "µs"
    return "CPU µs per handshake" if row.startswith("tls_") and "h2" not in row else "CPU µs per request"


def medians(results: Results) -> dict[str, dict[str, float]]:
    """Of the costs, by row and proxy."""
    return {
        row: {name: statistics.median(figures.cost) for name, figures in by_name.items()}
        for row, by_name in results.items()
    }


def ratio(costs: Mapping[str, float]) -> float:
    """The better peer's cost over ours: above 1, we are cheaper."""
    return min(cost for name, cost in costs.items() if name != OURS) / costs[OURS]


def drawn(results: Results) -> Table:
    table = Table(title="ours, HAProxy and nginx on one core: medians of the rounds", title_justify="left")
    for column in ("row", "proxy"):
        table.add_column(column)
    for column in ("cost", "× ours", "a second", "p50 µs", "p99 µs", "core used"):
        table.add_column(column, justify="right")
    table.add_column("unit; goal")
    for row, costs in medians(results).items():
        goal = GOALS.get(row)
        found = ratio(costs)
        mark = "" if goal is None else f"{found:.2f}, goal ≥ {goal:g} {'held' if found >= goal else 'MISSED'}"
        for name, figures in results[row].items():
            seen = [f"{statistics.median(column):,.0f}" if column else "" for column in figures.columns()]
            used = f"{100 * statistics.median(figures.busy):.0f} %" if figures.busy else ""
            last = {OURS: unit_of(row), "haproxy": mark}.get(name, "")
            cost, relative = f"{costs[name]:,.1f}", f"{costs[name] / costs[OURS]:.2f}"
            table.add_row(row if name == OURS else "", name, cost, relative, *seen, used, last)
        table.add_section()
    return table


@click.command()
@click.option("--only", "rows", multiple=True, type=click.Choice(ROWS), help="This row only; may be given again.")
@click.option("--rounds", default=ROUNDS, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=SECONDS, show_default=True, type=click.FloatRange(1), help="Of each load.")
def main(rows: tuple[str, ...], rounds: int, seconds: float) -> None:
    """Measure what a request costs our proxy, HAProxy and nginx. As root, on a quiet machine with two cores."""
    if os.geteuid() != 0:
        raise click.ClickException("this needs root: for a network namespace of its own")
    results, alone = bench(rows or ROWS, rounds, seconds)
    Console(width=140).print(drawn(results))
    click.echo(f"The servers without a proxy: {alone:,.0f} small requests a second, client and servers on one core.")
    costs = medians(results)
    figures = {
        "ratio": {row: round(ratio(by_name), 3) for row, by_name in costs.items()},
        "rows": {
            row: {name: round(cost, 1) for name, cost in by_name.items()} | {"unit": unit_of(row)}
            for row, by_name in costs.items()
        },
    }
    click.echo(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main()
