"""The sender of numbered datagrams as a process in the client's namespace, seen from outside."""

import sys
from collections import deque
from collections.abc import Callable

import trio

from orchestrator.lab.child import Child, child_process, lines
from orchestrator.lab.errors import LabError
from orchestrator.lab.load.datagrams import DatagramPlan, DatagramsSeen
from orchestrator.lab.load.messages import FINISH
from orchestrator.lab.load.process import MAX_LINES_KEPT, START_S
from orchestrator.lab.processes import NAMESPACES

#: Seconds for the last line after `finish`: the wait for the last answers, and a busy machine.
END_S = 15.0


class DatagramProcess:
    """A running sender, and what it told last."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._news = trio.Event()
        self._complaints: deque[str] = deque(maxlen=MAX_LINES_KEPT)
        self._ended = False
        self.last: DatagramsSeen | None = None

    async def until(
        self, reached: Callable[[DatagramsSeen], bool], *, within_s: float, waiting_for: str
    ) -> DatagramsSeen:
        """The first line of which this is true. Raises LabError if that takes too long or the sender ends."""
        with trio.move_on_after(within_s):
            while True:
                if self.last is not None and reached(self.last):
                    return self.last
                if self._ended:
                    raise LabError(f"no {waiting_for}: the sender of datagrams ended: {' '.join(self._complaints)}")
                await self._news.wait()
        raise LabError(f"no {waiting_for} within {within_s:g} s", hint=f"last seen: {self.last!r}")

    async def finish(self) -> DatagramsSeen:
        """Send no more, and tell what became of all. Raises LabError if it does not."""
        await self._child.stdin.send_all(f"{FINISH}\n".encode())
        return await self.until(lambda seen: seen.finished, within_s=END_S, waiting_for="end of the datagrams")

    async def read(self) -> None:
        """Take what it tells, until it ends."""
        async for line in lines(self._child.stdout):
            self.last = DatagramsSeen.model_validate_json(line)
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


async def send_datagrams(
    namespace: str, plan: DatagramPlan, task_status: trio.TaskStatus[DatagramProcess] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run a sender until it ends; cancelled, it is ended. Raises LabError if it does not begin to tell."""
    module = "orchestrator.lab.load.datagrams"
    sender = ["nsenter", f"--net={NAMESPACES / namespace}", "--", sys.executable, "-m", module]
    async with child_process(sender) as child, trio.open_nursery() as nursery:
        process = DatagramProcess(child)
        nursery.start_soon(process.read_complaints)
        nursery.start_soon(process.read)
        await child.stdin.send_all(plan.model_dump_json().encode() + b"\n")
        await process.until(lambda _seen: True, within_s=START_S, waiting_for="sign of life from the sender")
        task_status.started(process)
