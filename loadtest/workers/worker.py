"""The worker's side: sends its part of each level, and tells what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from ... import __version__
from ...core.errors import NemoDeployError
from ..client_clock import StampingSelector
from ..own_process import OwnProcess
from ..prompts import Work
from ..sample import Sample
from ..share import Share
from . import messages as say

_BEAT_EVERY_S: Final = 0.5


class Worker:
    """Obeys the messages that come through `reader`, and answers with `write`, in an event loop
    that polls with `selector`."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        write: Callable[[bytes], None],
        selector: StampingSelector,
    ) -> None:
        self._reader, self._write, self._selector = reader, write, selector
        self._sender: OwnProcess | None = None
        self._work: list[Work] = []
        self._share = Share(())
        self._end = asyncio.Event()
        self._level: asyncio.Task[None] | None = None
        self._untold: list[Sample] = []

    async def serve(self) -> None:
        """Obey until the coordinator is gone."""
        self._say(say.Hello(say.PROTOCOL, __version__))
        try:
            # What fails in a task ends the worker, with a traceback on standard error.
            async with asyncio.TaskGroup() as tasks:
                beat = tasks.create_task(self._beat())
                while data := await self._reader.readline():
                    await self._obey(say.read_by_worker(data), tasks)
                for task in (beat, self._level):
                    if task:
                        task.cancel()
        finally:
            if self._sender:
                await self._sender.close()

    async def _obey(self, message: say.ToWorker, tasks: asyncio.TaskGroup) -> None:
        match message:
            case say.Ping():
                self._say(say.Pong())
            case say.Connect():
                await self._connect(message)
            case say.Work():
                self._work.append(message.work)
            case say.Level():
                self._share = Share(tuple(self._work), tuple(message.due), tuple(message.starts))
                self._work = []
                await self._present.open(message.streams)
                self._say(say.Ready())
            case say.Start():
                self._end = asyncio.Event()
                self._level = tasks.create_task(self._hold(message.in_s))
            case say.Stop():
                self._end.set()

    async def _connect(self, message: say.Connect) -> None:
        try:
            self._sender = await OwnProcess.connected(message.destination, self._selector)
            model = await self._sender.check()
        except NemoDeployError as error:
            self._say(say.Refused(type(error).__name__, str(error)))
        else:
            self._say(say.Connected(self._sender.url, model))

    async def _hold(self, in_s: float) -> None:
        sender = self._present
        await asyncio.sleep(in_s)
        held = await sender.send(self._share, self._end, self._record)
        self._tell_samples()
        if sender.died.is_set():
            self._say(say.Died(sender.death))
        self._say(say.Ended.of(held))

    @property
    def _present(self) -> OwnProcess:
        assert self._sender is not None, "the coordinator connects first"
        return self._sender

    def _record(self, samples: Sequence[Sample]) -> None:
        self._untold += samples

    def _tell_samples(self) -> None:
        in_flight = self._sender.in_flight() if self._sender else ()
        self._say(say.Beat(self._untold, list(in_flight)))
        self._untold = []

    async def _beat(self) -> None:
        while True:
            self._tell_samples()
            await asyncio.sleep(_BEAT_EVERY_S)

    def _say(self, message: say.Message) -> None:
        self._write(say.line(message))
