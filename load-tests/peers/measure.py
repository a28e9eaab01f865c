#!/usr/bin/env python3
"""Measures the peers, each with batches of several sizes, to find its best.

    measure.py NATS_SQL_SINK [PEER …] [--events N] [--batch-rows N …] [--runs N] [--storage discard|postgres]

Prints for each the median of its runs: rows a second of time since the first pull, and microseconds of its processor time for a
row. The peers run one after another, turn by turn, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from stand import local
from stand.events import plain

PEERS = ["bulk_copy.py", "insert_many.py", "bulk_load.mjs"]
SEED = 1
STOP_AFTER_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: Path(text).resolve(), metavar="NATS_SQL_SINK")
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PEER")
    parser.add_argument("--events", type=int, default=300_000, metavar="N")
    parser.add_argument("--batch-rows", type=int, nargs="+", default=[25_000, 50_000, 100_000], metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--storage", choices=["discard", "postgres"], default="discard")
    arguments = parser.parse_args()
    results = defaultdict(list)
    with local.stack(arguments.program, arguments.storage) as running:
        asyncio.run(local.publish(running, plain(arguments.events, SEED)))
        for _ in range(arguments.runs):
            for peer in arguments.peers:
                for batch_rows in arguments.batch_rows:
                    results[peer, batch_rows].append(measure(running, peer, arguments.events, batch_rows))
    print("peer             batch rows   rows/s  µs/row  runs (rows/s)")
    for (peer, batch_rows), runs in results.items():
        rates, costs = zip(*runs)
        told = " ".join(f"{rate:.0f}" for rate in rates)
        print(f"{peer:<16} {batch_rows:>10} {statistics.median(rates):>8.0f} {statistics.median(costs):>7.1f}  {told}")
    return 0


def measure(running: local.Stack, peer: str, events: int, batch_rows: int) -> tuple[float, float]:
    """Rows a second, and microseconds of processor time for a row."""
    running.create_table("dbo.measured")
    asyncio.run(local.create_consumer(running, "measured"))
    command = running.peer(
        peer, "measured", "dbo.measured", events, STOP_AFTER_SECONDS, "--batch-rows", str(batch_rows)
    )  # fmt: skip
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    last = json.loads(result.stdout.splitlines()[-1])
    return last["rows"] / last["seconds"], last["cpu_seconds"] / last["rows"] * 1e6


if __name__ == "__main__":
    sys.exit(main())
