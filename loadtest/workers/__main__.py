"""A worker: obeys the coordinator on standard input, answers on standard output."""

from __future__ import annotations

import asyncio
import os
import sys

from ..client_clock import StampingSelector, new_event_loop
from .messages import LINE_LIMIT
from .worker import Worker


def main() -> None:
    """Work until standard input ends."""
    # What a library prints must not get between the messages.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    selector = StampingSelector()
    with asyncio.Runner(loop_factory=new_event_loop(selector)) as runner:
        runner.run(_work(answers, selector))


async def _work(answers: int, selector: StampingSelector) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with os.fdopen(answers, "wb") as file:
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, file)
        await Worker(reader, transport.write, selector).serve()
        transport.close()


main()
