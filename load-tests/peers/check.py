#!/usr/bin/env python3
"""Checks that every peer does the sink's work: the same rows, of the same events, and nothing else.

    check.py NATS_SQL_SINK [PEER …]

For `make test-peers`. Starts the local stack with its PostgreSQL, publishes events of which some are malformed, runs each peer and
the sink itself, and compares their tables, cell by cell, with the rows that the events were made from.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pyarrow

from pipeline import arrow_reader
from stand import local
from stand.events import LARGEST_SEQUENCE, Made, plain, varied

PEERS = ["bulk_copy.py", "insert_many.py", "bulk_load.mjs"]
# with everything in them, and then such as the demo publishes
VARIED = 2_100
PLAIN = 1_200
MALFORMED_EVERY = 31
SEED = 20_260_301
# several batches, the last of them not full
BATCH_ROWS = 700
STOP_AFTER_SECONDS = 120
PATIENCE_SECONDS = 60

Row = tuple[Any, ...]


class Wrong(Exception):
    """What a peer did that it should not have."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: Path(text).resolve(), metavar="NATS_SQL_SINK")
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PEER")
    arguments = parser.parse_args()
    events = [*varied(VARIED, MALFORMED_EVERY, SEED), *plain(PLAIN, SEED)]
    expected = [(*event.row, position) for position, event in enumerate(events, 1) if event.row is not None]
    checks = [
        ("a changed cell, row or order is found", lambda: finds_what_is_wrong(expected)),
        ("bulk_copy.py: its two readers agree", lambda: readers_agree(events)),
    ]
    failed = 0
    with local.stack(arguments.program, "postgres") as running:
        asyncio.run(local.publish(running, events))
        checks.append(("the sink itself: the rows", lambda: sink_writes(running, expected)))
        for peer in arguments.peers:
            checks += [
                (f"{peer}: the rows", lambda peer=peer: peer_writes(running, peer, events, expected)),
                (f"{peer}: ends when its time is over", lambda peer=peer: stops_after(running, peer, len(events), len(expected))),
                (f"{peer}: says what is wrong", lambda peer=peer: fails_with_a_sentence(running, peer, len(events))),
            ]
        for name, check in checks:
            started = time.monotonic()
            try:
                check()
            except Wrong as wrong:
                failed += 1
                print(f"FAILED  {name}: {wrong}", flush=True)
            else:
                print(f"ok      {name} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def peer_writes(running: local.Stack, peer: str, events: list[Made], expected: list[Row]) -> None:
    """All good events are in the table, and all of them are acknowledged, once."""
    name = prepare(running, peer, "rows")
    command = running.peer(peer, name, f"dbo.{name}", len(events), STOP_AFTER_SECONDS, "--batch-rows", str(BATCH_ROWS))
    lines = run(command)
    compare(running.rows(f"dbo.{name}"), expected)
    *batches, last = lines
    check(last["done"] is True and last["rows"] == len(expected), f"the last line is {last}")
    check(last["cpu_seconds"] > 0, f"the last line is {last}")
    check(batches[-1]["seconds"] <= last["seconds"] < STOP_AFTER_SECONDS, f"the last line is {last}")
    check(len(batches) >= len(events) // BATCH_ROWS, f"{len(batches)} batches were told")
    check(batches[-1]["rows"] == len(expected), f"the last batch was told as {batches[-1]}")
    for one, next_one in zip(batches, batches[1:]):
        check(one["rows"] < next_one["rows"] and one["seconds"] < next_one["seconds"], f"{one} was told before {next_one}")
    info = asyncio.run(local.consumer_info(running, name))
    left = (info.num_pending, info.num_ack_pending, info.num_redelivered, info.delivered.consumer_seq)
    check(left == (0, 0, 0, len(events)), f"pending, unacknowledged, redelivered and delivered: {left}")


def stops_after(running: local.Stack, peer: str, events: int, rows: int) -> None:
    """More events are asked for than there are."""
    events *= 10
    name = prepare(running, peer, "time")
    lines = run(running.peer(peer, name, f"dbo.{name}", events, 4))
    check(lines[-1]["done"] is True and lines[-1]["rows"] == rows, f"the last line is {lines[-1]}")
    check(4 <= lines[-1]["seconds"] < 8, f"it ended after {lines[-1]['seconds']} s")
    check(len(running.rows(f"dbo.{name}")) == rows, "other rows than were told")


def fails_with_a_sentence(running: local.Stack, peer: str, events: int) -> None:
    """No consumer, no table, nobody who listens."""
    name = prepare(running, peer, "errors")
    good = running.peer(peer, name, f"dbo.{name}", 100, 20)
    for option, value in [
        ("--consumer", "missing"), ("--table", "dbo.missing"), ("--sql-user", "nobody"), ("--sql-port", str(local.free_port())),
    ]:  # fmt: skip
        command = list(good)
        command[command.index(option) + 1] = value
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        told = result.stderr.strip().splitlines()
        check(result.returncode == 1, f"{option} {value}: exit code {result.returncode}")
        check(any(line.startswith("error: ") for line in told), f"{option} {value}: it said {told}")
        check("Traceback" not in result.stderr, f"{option} {value}: it said {told}")
    check(running.rows(f"dbo.{name}") == [], "there are rows")
    # what could not be written is not acknowledged
    info = asyncio.run(local.consumer_info(running, name))
    check(info.num_pending + info.num_ack_pending == events, f"{info.num_ack_pending} unacknowledged, {info.num_pending} pending")


def readers_agree(events: list[Made]) -> None:
    """Of each event: the fast one gives its row, or leaves it to the thorough one, which gives it, or none."""
    fast = 0
    for position, event in enumerate(events, 1):
        message = SimpleNamespace(data=event.payload, reply=f"$JS.ACK.EVENTS.peer.1.{position}.{position}.0.0")
        wanted = [] if event.row is None else [(str(event.row[0]), *event.row[1:], position)]
        thorough = arrow_reader.one_by_one([message])
        check(table_rows(thorough) == wanted, f"the thorough reader: {table_rows(thorough)} and not {wanted}")
        together = arrow_reader.together([message])
        if together is not None:
            fast += 1
            check(table_rows(together) == wanted, f"the fast reader: {table_rows(together)} and not {wanted}")
    check(fast >= PLAIN, f"the fast reader took {fast} events and left even plain ones")


def table_rows(table: pyarrow.Table) -> list[Row]:
    """With UUIDs in lower case, as str writes them."""
    return [(row["event_id"].lower(), *list(row.values())[1:]) for row in table.to_pylist()]


def sink_writes(running: local.Stack, expected: list[Row]) -> None:
    """The same table by nats-sql-sink."""
    table = "dbo.sink_rows"
    running.create_table(table)
    with sink(running, table):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(running.rows(table)) < len(expected):
            check(time.monotonic() < deadline, f"{len(running.rows(table))} rows after {PATIENCE_SECONDS} s")
            time.sleep(0.2)
    compare(running.rows(table), expected)


@contextlib.contextmanager
def sink(running: local.Stack, table: str) -> Iterator[None]:
    """A worker, which is stopped at the end."""
    command = [running.program, "run", "--config", running.configuration(table)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def prepare(running: local.Stack, peer: str, purpose: str) -> str:
    """An empty table and a consumer at the stream's beginning, of one name."""
    name = f"{peer.replace('.', '_')}_{purpose}"
    running.create_table(f"dbo.{name}")
    asyncio.run(local.create_consumer(running, name))
    return name


def run(command: list[str]) -> list[dict[str, Any]]:
    """What it told, where it ended well."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=STOP_AFTER_SECONDS + PATIENCE_SECONDS)
    if result.returncode != 0:
        raise Wrong(f"exit code {result.returncode}: {result.stderr.strip()}")
    return [json.loads(line) for line in result.stdout.splitlines()]


def compare(rows: list[Row], expected: list[Row]) -> None:
    """Cell by cell."""
    differences = [f"{row} and not {wanted}" for row, wanted in zip(rows, expected) if row != wanted]
    if differences:
        raise Wrong(f"{len(differences)} rows differ, the first is {differences[0]}")
    check(len(rows) == len(expected), f"{len(rows)} rows and not {len(expected)}")


def finds_what_is_wrong(expected: list[Row]) -> None:
    """The comparison itself: of each column one cell is changed, then rows are left out, doubled and exchanged."""
    changes = {
        UUID: lambda value: UUID(int=value.int ^ 1),
        str: lambda value: value + "!",
        bool: lambda value: not value,
        int: lambda value: value + 1,
        float: lambda value: value + 1,
        Decimal: lambda value: value + Decimal("0.01"),
    }
    first, second, *others = expected
    wrong = [expected[1:], expected[:-1], [*expected[:-1], first], [*expected, first], [second, first, *others]]
    for column in range(len(expected[0])):
        row = next(row for row in expected if row[column] is not None)
        change = changes.get(type(row[column]), lambda value: value + timedelta(milliseconds=1))
        changed = (*row[:column], change(row[column]), *row[column + 1 :])
        missing = (*row[:column], None, *row[column + 1 :])
        wrong += [[other if one is row else one for one in expected] for other in (changed, missing)]
    for rows in wrong:
        with contextlib.suppress(Wrong):
            compare(rows, expected)
            raise AssertionError("a difference was not found")
    compare(list(expected), expected)
    # and there is something to find
    kinds = [{type(row[column]) for row in expected} for column in range(len(expected[0]))]
    check(all(type(None) in kinds[column] for column in (2, 4, 5, 8)), "no NULL is expected in a column that takes it")
    check(any(abs(row[3]) == LARGEST_SEQUENCE for row in expected), "no large number is expected")


def check(condition: bool, what: str) -> None:
    """Raises where it does not hold."""
    if not condition:
        raise Wrong(what)


if __name__ == "__main__":
    sys.exit(main())
