"""BIRD for real: two L4 nodes and two routers on one segment, and what the routers make of what they are told."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
from pyroute2 import netns

from l4.bgp import bird_configuration
from l4.bird import Bird
from l4.bird_control import BirdError
from orchestrator.contract.node import Announcement
from orchestrator.contract.snapshot import Bgp, BgpNeighbor

PREFIX = f"l4-bgp-{os.getpid()}"
VIP = "203.0.113.10"
SWITCH = "switch"
#: Last octets of the addresses on the segment.
ROUTERS = {"router-1": 1, "router-2": 2}
NODES = {"node-1": 11, "node-2": 12}
PASSWORD = "correct horse; {battery} 'staple'"

#: Seconds for what other processes do: sessions take some seconds to come up.
PATIENCE_S = 20.0


def run(*command: str) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, f"{' '.join(command)}: {finished.stderr}{finished.stdout}"
    return finished.stdout


def eventually(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (answer := look()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {what}"
        time.sleep(0.02)
    return answer


def namespace(host: str) -> str:
    return f"{PREFIX}-{host}"


def router_configuration(directory: Path, router: str) -> str:
    """The second router's neighbours share a password with it."""
    own = ROUTERS[router]
    password = f'password "{PASSWORD}";' if router == "router-2" else ""
    sessions = "".join(
        f"""
protocol bgp {node.replace("-", "_")} {{
  local 198.18.1.{own} as 64600; neighbor 198.18.1.{last} as {64590 + last}; {password} bfd on;
  connect delay time 1; connect retry time 1; error wait time 1, 1; ipv4 {{ import all; export none; }};
}}
"""
        for node, last in NODES.items()
    )
    return f"""
log "{directory}/bird.log" all;
router id 198.18.1.{own};
protocol device {{ scan time 1; }}
protocol kernel {{ merge paths yes; ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol bfd {{ interface "*" {{ interval 50 ms; multiplier 3; }}; }}
{sessions}"""


class Segment:
    """The namespaces, the routers' BIRDs, and the nodes' as the agent runs them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.birds = {node: Bird(directory / node) for node in NODES}
        self._stack = ExitStack()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def bgp(self, node: str, **chosen: Any) -> Bgp:
        passwords = {"router-2": chosen.pop("password", PASSWORD)}
        neighbors = tuple(
            BgpNeighbor(address=ip_address(f"198.18.1.{last}"), asn=64600, password=passwords.get(router))
            for router, last in ROUTERS.items()
        )
        last = NODES[node]
        return Bgp(asn=64590 + last, router_id=ip_address(f"198.18.1.{last}"), neighbors=neighbors, **chosen)

    def load(self, node: str, announcement: Announcement = Announcement.NORMAL, **chosen: Any) -> None:
        bird = self.birds[node]
        text = bird_configuration(self.bgp(node, **chosen), [ip_network(VIP)], bird.log_file, announcement)
        trio.run(bird.load, text)

    def established(self, node: str) -> dict[str, bool]:
        found: dict[str, bool] = trio.run(self.birds[node].sessions)
        return found

    def announcement(self, node: str) -> Announcement | None:
        found: Announcement | None = trio.run(self.birds[node].announcement)
        return found

    def told(self, router: str, node: str) -> dict[str, str]:
        """Attributes of the VIP's route from a node, as the router sees them; empty if it has none."""
        socket = str(self.directory / router / "bird.ctl")
        protocol = node.replace("-", "_")
        text = run("birdc", "-s", socket, "show", "route", "all", "protocol", protocol)
        return dict(re.findall(r"^\s+BGP\.(\w+): (.*?)\s*$", text, re.MULTILINE))

    def next_hops(self, router: str) -> set[str]:
        """Over which nodes the router's kernel sends the VIP's packets."""
        table = run("ip", "-n", namespace(router), "route", "show", VIP)
        return {node for node, last in NODES.items() if f"via 198.18.1.{last} " in table}

    def await_next_hops(self, *nodes: str) -> None:
        """Until both routers send the VIP's packets to these."""
        for router in ROUTERS:
            eventually(partial(lambda router: self.next_hops(router) == set(nodes), router), f"{router} uses {nodes}")

    def pid_of(self, node: str) -> int:
        """0 in the moment in which BIRD writes it."""
        return int(self.birds[node].pid_file.read_text() or 0)

    def program_for_nodes(self) -> Path:
        """A directory with a `bird` that starts in the namespace of the node whose directory it is told."""
        bird = shutil.which("bird", path="/usr/sbin:/usr/bin:/sbin")
        assert bird is not None
        choices = "".join(f"*/{node}/*) in={namespace(node)} ;; " for node in NODES)
        script = f'#!/bin/sh\ncase "$*" in {choices}esac\nexec ip netns exec $in {bird} "$@"\n'
        file = self.directory / "bin" / "bird"
        file.parent.mkdir()
        file.write_text(script)
        file.chmod(0o755)
        return file.parent

    def _build(self) -> None:
        hosts = {SWITCH: 0, **ROUTERS, **NODES}
        for host in hosts:
            (self.directory / host).mkdir()
            netns.create(namespace(host))
            self._stack.callback(netns.remove, namespace(host))
            run("ip", "-n", namespace(host), "link", "set", "lo", "up")
        run("ip", "-n", namespace(SWITCH), "link", "add", "br0", "type", "bridge")
        run("ip", "-n", namespace(SWITCH), "link", "set", "br0", "up")
        for host, last in (ROUTERS | NODES).items():
            here, there = namespace(host), namespace(SWITCH)
            run("ip", "-n", here, "link", "add", "eth0", "type", "veth", "peer", "name", host, "netns", there)
            run("ip", "-n", here, "address", "add", f"198.18.1.{last}/24", "dev", "eth0")
            run("ip", "-n", here, "link", "set", "eth0", "up")
            run("ip", "-n", there, "link", "set", host, "master", "br0", "up")
        for node in NODES:
            run("ip", "-n", namespace(node), "address", "add", f"{VIP}/32", "dev", "lo")
            self._stack.callback(self._end_bird_of, node)
        for router in ROUTERS:
            self._start_router(router)

    def _start_router(self, router: str) -> None:
        directory = self.directory / router
        (directory / "bird.conf").write_text(router_configuration(directory, router))
        command = ("bird", "-f", "-c", str(directory / "bird.conf"), "-s", str(directory / "bird.ctl"))
        bird = subprocess.Popen(["ip", "netns", "exec", namespace(router), *command])
        self._stack.callback(bird.wait)
        self._stack.callback(bird.terminate)

    def _end_bird_of(self, node: str) -> None:
        if self.birds[node].pid_file.exists():
            os.kill(self.pid_of(node), 15)


@pytest.fixture(scope="module")
def segment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Segment]:
    built = Segment(tmp_path_factory.mktemp("bgp"))
    path = os.environ["PATH"]
    try:
        os.environ["PATH"] = f"{built.program_for_nodes()}:{path}"
        for node in NODES:
            built.load(node)
        built.await_next_hops(*NODES)
        yield built
    finally:
        os.environ["PATH"] = path
        built.close()


def test_both_routers_spread_over_both_nodes_with_and_without_a_password(segment: Segment) -> None:
    assert segment.established("node-1") == {"neighbor_1": True, "neighbor_2": True}
    assert segment.announcement("node-1") is Announcement.NORMAL
    for router in ROUTERS:
        assert segment.told(router, "node-1")["as_path"] == "64601"


def test_routes_bear_communities_and_med(segment: Segment) -> None:
    segment.load("node-1", communities=("64600:7", "64600:1:2"), med=20)
    told = eventually(lambda: (t := segment.told("router-1", "node-1")).get("med") == "20" and t, "another MED")
    assert told["community"] == "(64600,7)"
    assert told["large_community"] == "(64600, 1, 2)"
    segment.load("node-1")
    eventually(lambda: "community" not in segment.told("router-1", "node-1"), "no communities")


def test_routers_take_others_first_and_a_withdrawn_route_is_gone(segment: Segment) -> None:
    """And no session is lost on the way: each change is a word about the routes."""
    established_at = since(segment, "node-1")
    segment.load("node-1", Announcement.SOFT)
    assert segment.announcement("node-1") is Announcement.SOFT
    segment.await_next_hops("node-2")
    for router in ROUTERS:
        told = segment.told(router, "node-1")
        assert told["community"] == "(65535,0)"
        assert told["med"] == "4294967295"
        assert told["as_path"] == "64601 64601 64601 64601"
    # A last resort it is: without the other, routers come back to it.
    segment.load("node-2", Announcement.NONE)
    segment.await_next_hops("node-1")
    segment.load("node-2")
    segment.load("node-1", Announcement.NONE)
    assert segment.announcement("node-1") is Announcement.NONE
    eventually(lambda: not any(segment.told(router, "node-1") for router in ROUTERS), "no router has a route to it")
    segment.await_next_hops("node-2")
    segment.load("node-1")
    segment.await_next_hops(*NODES)
    # BIRD reckons the time of day anew each time it is asked.
    assert since(segment, "node-1") == pytest.approx(established_at, abs=0.1)


def since(segment: Segment, node: str) -> list[float]:
    """When the node's sessions came to the state that they are in, in seconds of the day."""
    reply = trio.run(segment.birds[node].command, "show protocols")
    times = [datetime.strptime(text.split()[4], "%H:%M:%S.%f") for _, text in reply if " BGP " in text]
    return [(time - datetime.min.replace(year=1900)).total_seconds() for time in times]


def test_a_wrong_password_lets_no_session_come_up(segment: Segment) -> None:
    segment.load("node-1", password="not the one")
    eventually(lambda: segment.established("node-1") == {"neighbor_1": True, "neighbor_2": False}, "one session only")
    assert segment.told("router-2", "node-1") == {}
    time.sleep(3.0)  # three attempts of each side
    assert segment.established("node-1") == {"neighbor_1": True, "neighbor_2": False}
    segment.load("node-1")
    eventually(lambda: all(segment.established("node-1").values()), "the right password is taken")


def test_bird_runs_before_ordinary_work_with_all_its_threads(segment: Segment) -> None:
    threads = [int(path.name) for path in Path(f"/proc/{segment.pid_of('node-1')}/task").iterdir()]
    assert len(threads) > 1, "BFD has a thread of its own"
    assert {os.sched_getscheduler(thread) for thread in threads} == {os.SCHED_RR}


def test_a_killed_bird_is_started_again_with_what_was_loaded(segment: Segment) -> None:
    """By the one who watches it: nobody loads anything."""
    bird = segment.birds["node-2"]

    async def kill_it_while_it_is_watched() -> int:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bird.keep_running)
            await trio.sleep(0.2)  # until it is watched
            os.kill(killed, 9)
            with trio.fail_after(PATIENCE_S):
                while segment.pid_of("node-2") in (0, killed) or not await bird.answers():  # noqa: ASYNC110
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        return segment.pid_of("node-2")

    killed = segment.pid_of("node-2")
    assert trio.run(kill_it_while_it_is_watched) != killed
    eventually(lambda: segment.next_hops("router-1") == set(NODES), "it announces as before")


def test_what_bird_refuses_is_not_what_it_would_start_again_with(segment: Segment) -> None:
    bird = segment.birds["node-1"]
    before = bird.configuration_file.read_text()
    with pytest.raises(BirdError, match="refused `configure`"):
        trio.run(bird.load, "protocol of nothing;\n")
    assert bird.configuration_file.read_text() == before
    assert segment.established("node-1") == {"neighbor_1": True, "neighbor_2": True}
    segment.load("node-1")


def test_one_change_at_a_time_and_of_those_that_wait_the_newest(tmp_path: Path) -> None:
    """With a BIRD that is busy after each change, until it is let go."""
    bird = Bird(tmp_path)
    taken: list[str] = []

    async def change_while_it_is_busy() -> None:
        busy_looks, may_end, is_busy = 0, trio.Event(), False

        async def answer(stream: trio.SocketStream) -> None:
            nonlocal busy_looks, is_busy
            async with stream:
                await stream.send_all(b"0001 BIRD 2.0.12 ready.\n")
                while question := (await stream.receive_some()).decode().strip():
                    if question == "configure":
                        taken.append(bird.configuration_file.read_text())
                        is_busy = True
                        await stream.send_all(b"0004 Reconfiguration in progress\n")
                        continue
                    is_busy = is_busy and not may_end.is_set()
                    busy_looks += is_busy
                    words = "Reconfiguration in progress" if is_busy else "Daemon is up and running"
                    await stream.send_all(f"1000-BIRD 2.0.12\n0013 {words}\n".encode())

        async with trio.open_nursery() as nursery:
            listener = trio.socket.socket(trio.socket.AF_UNIX)
            await listener.bind(str(bird.control_socket))
            listener.listen()
            nursery.start_soon(partial(trio.serve_listeners, answer, [trio.SocketListener(listener)]))
            async with trio.open_nursery() as changes:
                changes.start_soon(bird.load, "first")
                while busy_looks < 2:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                for text in ("second", "third", "newest"):
                    changes.start_soon(bird.load, text)
                    await trio.lowlevel.checkpoint()
                while busy_looks < 4:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                assert taken == ["first"], "nothing is sent to a busy BIRD"
                may_end.set()
            nursery.cancel_scope.cancel()

    async def within_reason() -> None:
        with trio.fail_after(PATIENCE_S):
            await change_while_it_is_busy()

    trio.run(within_reason)
    assert taken == ["first", "newest"]
