"""The way of a batch: pulled while the one before is written, acknowledged while the one after is."""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import nats.errors
import uvloop
from nats.aio.msg import Msg

from pipeline.arguments import Arguments
from pipeline.failure import Failure
from pipeline.intake import Intake


class Writer(Protocol):
    """What makes a peer."""

    # what its driver raises
    errors: tuple[type[Exception], ...]

    def open(self, arguments: Arguments) -> None:
        """Connects."""

    def write(self, messages: list[Msg]) -> int:
        """Decodes the events, writes the good ones in one transaction, and returns how many these are after its commit."""

    def close(self) -> None:
        """Lets go of the connection."""


class Progress:
    """What is told on stdout."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.rows = 0
        self.set_aside = 0

    def seconds(self) -> float:
        """Since the first pull."""
        return time.monotonic() - self.started

    def committed(self, rows: int, set_aside: int) -> None:
        """Tells of a batch."""
        self.rows += rows
        self.set_aside += set_aside
        print(json.dumps({"rows": self.rows, "seconds": round(self.seconds(), 6)}), flush=True)

    def done(self) -> None:
        """Tells how it ended."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        figures = {
            "done": True,
            "rows": self.rows,
            "seconds": round(self.seconds(), 6),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 6),
        }
        print(json.dumps(figures), flush=True)
        print(f"{self.set_aside} malformed events set aside", file=sys.stderr)


def main(arguments: Arguments, writer: Writer) -> int:
    """Runs a peer; the exit code of its process."""
    try:
        uvloop.run(run(arguments, writer))
    except (Failure, nats.errors.Error, OSError, *writer.errors) as error:
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


async def run(arguments: Arguments, writer: Writer) -> None:
    """Until there were so many events, or for so long."""
    intake = await Intake.open(arguments.nats_url, arguments.stream, arguments.consumer)
    # one thread, because a connection is one thread's
    with ThreadPoolExecutor(max_workers=1) as thread:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(thread, writer.open, arguments)
        try:
            await move(arguments, intake, lambda batch: loop.run_in_executor(thread, writer.write, batch))
        finally:
            await loop.run_in_executor(thread, writer.close)


async def move(arguments: Arguments, intake: Intake, write) -> None:
    """Pulls, writes and acknowledges, each of another batch."""
    progress = Progress()
    taken = 0
    written: list[Msg] = []
    writing = None
    while True:
        remaining = arguments.stop_after - progress.seconds()
        batch: list[Msg] = []
        if taken < arguments.events and remaining > 0:
            batch = await intake.batch(min(arguments.batch_rows, arguments.events - taken), remaining)
        rows = await writing if writing else 0
        settled, written = written, batch
        taken += len(batch)
        is_late = progress.seconds() >= arguments.stop_after
        if is_late:
            await intake.give_back(batch)
            written = []
        writing = write(written) if written else None
        if settled:
            progress.committed(rows, len(settled) - rows)
            await intake.acknowledge(settled)
        if not writing and (is_late or taken >= arguments.events):
            break
    await intake.close()
    progress.done()
