"""Breaking things as the plan says, and mending what does not mend itself."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic, time

import psutil

from tests.acceptance.chaos import books
from tests.acceptance.chaos.ends import Ends
from tests.acceptance.chaos.plan import LEADER, Fault, Kind
from tests.acceptance.chaos.scene import Scene
from tests.patience import until

_BACK_WITHIN_S = 120
_POLL_S = 0.05


class Faults:
    """`run` breaks; `done` says what was broken, and when, for whoever reads a failure."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.done: list[str] = []
        self._begun = 0.0
        self.ends = Ends(are_of_several_nodes=scene.cluster is not None)
        self._broker = asyncio.Lock()
        """Held by what ends with a restart of NATS: one at a time, until it is back."""

    async def run(self, faults: Sequence[Fault], *, begun: float) -> None:
        self._begun = begun
        await self._all(faults, since=begun)

    async def restart_broker(self) -> None:
        """Kills and starts NATS, all nodes of it, when a trial is over: what it keeps in memory is gone."""
        async with self._broker:
            if (cluster := self._scene.cluster) is None:
                await self._kill_broker(self._now(Kind.KILL, "nats"))
            else:
                self._note(self._now(Kind.KILL, "nats"))
                await cluster.restart_nats()
                self._scene.note_processes()

    async def _all(self, faults: Sequence[Fault], *, since: float) -> None:
        async with asyncio.TaskGroup() as group:
            for fault in faults:
                group.create_task(self._at_its_time(fault, since=since), name=str(fault))

    async def _at_its_time(self, fault: Fault, *, since: float) -> None:
        await asyncio.sleep(max(0.0, since + fault.at_s - monotonic()))
        await self._break(fault)
        if fault.then:
            await self._all(fault.then, since=monotonic())

    async def _break(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.CUT:
                self._note(fault)
                self._scene.lines[fault.what].cut()
            case Kind.BLACK_HOLE:
                self._note(fault)
                self._scene.lines[fault.what].black_hole()
            case Kind.REFUSE:
                await self._refuse(fault)
            case Kind.STOP:
                async with self._stopped(fault):
                    await asyncio.sleep(fault.lasts_s)
            case Kind.AWAY:
                async with self._stopped(fault):
                    await asyncio.sleep(fault.lasts_s)
                    told = await books.tell_again(self._scene)
                self.done.append(f"         {told} usage records had come a second time by then")
            case Kind.FULL:
                async with self._broker:
                    await self._fill_disk(fault)
            case Kind.KILL if fault.what == "nats":
                async with self._broker:
                    await self._kill_broker(fault)
            case Kind.KILL if fault.what.startswith(LEADER):
                async with self._broker:
                    await self._kill_leader(fault)
            case Kind.KILL:
                await self._end(fault, signal.SIGKILL)
            case Kind.TERMINATE:
                await self._end(fault, signal.SIGTERM)

    def _now(self, kind: Kind, what: str) -> Fault:
        return Fault(monotonic() - self._begun, kind, what)

    def _note(self, fault: Fault) -> None:
        """That it happens now, which may be later than planned."""
        self._scene.note_processes()
        self.done.append(f"{monotonic() - self._begun:5.1f} s: {fault}")

    async def _refuse(self, fault: Fault) -> None:
        self._note(fault)
        line = self._scene.lines[fault.what]
        line.refusing = True
        line.cut()
        await asyncio.sleep(fault.lasts_s)
        line.refusing = False

    @asynccontextmanager
    async def _stopped(self, fault: Fault) -> AsyncGenerator[None]:
        process = await self._process(fault)
        self._note(fault)
        everybody = [process]
        with suppress(psutil.NoSuchProcess):  # another fault may just have ended it
            everybody += process.children(recursive=True)
        _signal(everybody, signal.SIGSTOP)
        since = time()
        try:
            yield
        finally:
            _signal(everybody, signal.SIGCONT)
            if fault.what == "nats":
                self.ends.broker_away.append((since, time()))

    async def _fill_disk(self, fault: Fault) -> None:
        """No file of NATS grows any more: to the server that is a full disk, also where we may mount none of our own.

        Once it could not write to a stream it stores nothing there until it is started again (nats-server 2.15.1), so
        that is what an operator does who has made room.
        """
        process = await self._process(fault)
        self._note(fault)
        since = time()
        usual = process.rlimit(psutil.RLIMIT_FSIZE)
        process.rlimit(psutil.RLIMIT_FSIZE, (0, usual[1]))
        await asyncio.sleep(fault.lasts_s)
        process.rlimit(psutil.RLIMIT_FSIZE, usual)
        await self._kill_broker(self._now(Kind.KILL, "nats"))
        self.ends.broker_away.append((since, time()))

    async def _kill_broker(self, fault: Fault) -> None:
        since = time()
        await self._end(fault, signal.SIGKILL)
        self._broker_is_back(since)

    async def _kill_leader(self, fault: Fault) -> None:
        """Its node is down for as long as the fault lasts. Returns when it is back and has caught up."""
        cluster = self._scene.cluster
        assert cluster is not None, f"{fault} needs several nodes"
        of = fault.what.removeprefix(LEADER)
        since = time()
        self._note(fault)
        async with cluster.without_leader(of):
            await asyncio.sleep(fault.lasts_s)
        self._scene.note_processes()
        self._broker_is_back(since)

    def _broker_is_back(self, since: float) -> None:
        self.ends.broker_killed.append((since, time()))
        self.ends.broker_away.append((since, time()))

    async def _end(self, fault: Fault, sig: signal.Signals) -> None:
        """Returns when another process has been put in its place."""
        process = await self._process(fault)
        self._note(fault)
        _signal([process], sig)
        self.ends.note(fault.what)
        await until(lambda: self._replaced(fault, process), within_s=_BACK_WITHIN_S)
        self._scene.note_processes()

    def _replaced(self, fault: Fault, process: psutil.Process) -> bool:
        now = self._scene.process(fault.what, fault.which)
        return now is not None and now != process and process.pid not in self._scene.fleet.pids(fault.what)

    async def _process(self, fault: Fault) -> psutil.Process:
        give_up = monotonic() + _BACK_WITHIN_S
        while (process := self._scene.process(fault.what, fault.which)) is None:
            assert monotonic() < give_up, f"{fault.what} did not come back"
            await asyncio.sleep(_POLL_S)
        return process


def _signal(processes: Sequence[psutil.Process], sig: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sig)
