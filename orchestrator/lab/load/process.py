"""The load generator as a process in the client's namespace, seen from outside."""

import sys
from collections import deque
from collections.abc import Callable

import trio

from orchestrator.lab.child import Child, child_process, lines
from orchestrator.lab.errors import LabError
from orchestrator.lab.load.messages import FINISH, MESSAGE, BreakageSeen, SlowSeen, Tick
from orchestrator.lab.load.plan import LoadPlan
from orchestrator.lab.processes import NAMESPACES

#: Wait for the first tick: the interpreter, its imports and half a second.
START_S = 20.0

#: Lines of a failed generator's stderr that are quoted.
MAX_LINES_KEPT = 20


class LoadProcess:
    """A running generator: what it told last, and the commands that it takes."""

    def __init__(self, child: Child, told: Callable[[Tick | BreakageSeen], None]) -> None:
        self._child = child
        self._told = told
        self._news = trio.Event()
        self._complaints: deque[str] = deque(maxlen=MAX_LINES_KEPT)
        self._ended = False
        self.last: Tick | None = None
        self.breakages: list[BreakageSeen] = []
        self.slow: list[SlowSeen] = []

    async def until(self, reached: Callable[[Tick], bool], *, within_s: float, waiting_for: str) -> Tick:
        """The first tick of which this is true. Raises LabError if that takes too long or the generator ends."""
        with trio.move_on_after(within_s):
            while True:
                if self.last is not None and reached(self.last):
                    return self.last
                if self._ended:
                    raise LabError(f"no {waiting_for}: the load generator ended: {' '.join(self._complaints)}")
                await self._news.wait()
        raise LabError(f"no {waiting_for} within {within_s:g} s", hint=f"last seen: {self.last!r}")

    async def finish(self) -> None:
        """Nothing new is begun from now on."""
        await self._child.stdin.send_all(f"{FINISH}\n".encode())

    async def read(self) -> None:
        """Take what the generator tells, until it ends."""
        async for line in lines(self._child.stdout):
            message = MESSAGE.validate_json(line)
            if isinstance(message, SlowSeen):
                self.slow.append(message)
                continue
            if isinstance(message, Tick):
                self.last = message
            else:
                self.breakages.append(message)
            self._told(message)
            self._wake()
        self._ended = True
        self._wake()

    async def read_complaints(self) -> None:
        """Take what it says on stderr: nothing, unless it fails."""
        async for line in lines(self._child.stderr):
            self._complaints.append(line)

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


async def run_load(
    namespace: str,
    plan: LoadPlan,
    told: Callable[[Tick | BreakageSeen], None],
    task_status: trio.TaskStatus[LoadProcess] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a generator until it ends; cancelled, it is ended. Raises LabError if it does not begin to tell."""
    generator = ["nsenter", f"--net={NAMESPACES / namespace}", "--", sys.executable, "-m", "orchestrator.lab.load"]
    async with child_process(generator) as child, trio.open_nursery() as nursery:
        load = LoadProcess(child, told)
        nursery.start_soon(load.read_complaints)
        nursery.start_soon(load.read)
        await child.stdin.send_all(plan.model_dump_json().encode() + b"\n")
        await load.until(lambda _tick: True, within_s=START_S, waiting_for="sign of life from the load generator")
        task_status.started(load)
