#!/usr/bin/env python3
"""Measures the ways in which clients of SQL Server for Python write rows, without NATS: which of them a peer should take.

    drivers.py NATS_SQL_SINK [WAY …] [--rows N] [--runs N] [--storage discard|postgres]

Prints for each the median of its runs: rows a second, and microseconds of processor time for a row. The rows are ready
beforehand; Arrow's table is made from them within the time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import mssql_python
import pyarrow as pa
import pymssql
import pytds

import insert_many
from pipeline.arrow_reader import SCHEMA
from pipeline.telemetry import COLUMNS, Row
from stand import local
from stand.events import plain

SEED = 1
TABLE = "dbo.drivers"
ROWS_OF_A_STATEMENT = insert_many.ROWS_OF_A_STATEMENT

Write = Callable[[list[Row]], None]


def main() -> int:
    full = ROWS_OF_A_STATEMENT
    ways: dict[str, Callable[[local.Stack], Iterator[Write]]] = {
        "mssql-python: bulkcopy": bulk_copy,
        "mssql-python: bulkcopy_arrow": bulk_copy_arrow,
        "mssql-python: executemany, a row a statement": lambda running: execute_many(running, 1),
        **{
            f"mssql-python: executemany, {rows} rows a statement": lambda running, rows=rows: execute_many(running, rows)
            for rows in (10, 25, 50, 100)
        },
        f"mssql-python: executemany, {full} rows a statement": lambda running: execute_many(running, full),
        "pymssql: executemany, a row a statement": lambda running: with_format(pymssql_connection(running), 1),
        f"pymssql: execute, {full} rows a statement": lambda running: with_format(pymssql_connection(running), full),
        "python-tds: executemany, a row a statement": lambda running: with_format(pytds_connection(running), 1),
        f"python-tds: execute, {full} rows a statement": lambda running: with_format(pytds_connection(running), full),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=lambda text: Path(text).resolve(), metavar="NATS_SQL_SINK")
    parser.add_argument("ways", nargs="*", metavar="WAY", help="those whose name contains one of these (default: all)")
    parser.add_argument("--rows", type=int, default=20 * ROWS_OF_A_STATEMENT, metavar="N")
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--storage", choices=["discard", "postgres"], default="discard")
    arguments = parser.parse_args()
    rows = [(*event.row, position) for position, event in enumerate(plain(arguments.rows, SEED), 1)]
    print("rows/s  µs/row  way")
    with local.stack(arguments.program, arguments.storage) as running:
        running.create_table(TABLE)
        for name, way in ways.items():
            if not arguments.ways or any(wanted in name for wanted in arguments.ways):
                rate, cost = measure(way(running), rows, arguments.runs)
                print(f"{rate:>6.0f} {cost:>7.1f}  {name}", flush=True)
    return 0


def measure(session: Iterator[Write], rows: list[Row], runs: int) -> tuple[float, float]:
    """Rows a second, and microseconds of processor time for a row: the medians, without a first run that warms up."""
    write = next(session)
    rates, costs = [], []
    for _ in range(runs + 1):
        started, busy = time.monotonic(), time.process_time()
        write(rows)
        rates.append(len(rows) / (time.monotonic() - started))
        costs.append((time.process_time() - busy) / len(rows) * 1e6)
    session.close()
    return statistics.median(rates[1:]), statistics.median(costs[1:])


def mssql_connection(running: local.Stack) -> mssql_python.Connection:
    return mssql_python.connect(
        f"Server=localhost,{running.sql_port};Database={local.DATABASE};UID={local.USER};"
        f"PWD={running.password_file.read_text().strip()};Encrypt=yes;TrustServerCertificate=yes"
    )


def bulk_copy(running: local.Stack) -> Iterator[Write]:
    """Tuples."""
    with mssql_connection(running) as connection:
        options = {"column_mappings": list(COLUMNS), "keep_nulls": True, "table_lock": True, "use_internal_transaction": True}
        yield lambda rows: connection.cursor().bulkcopy(TABLE, rows, timeout=0, **options)


def bulk_copy_arrow(running: local.Stack) -> Iterator[Write]:
    """A table of the same."""
    with mssql_connection(running) as connection:

        def write(rows: list[Row]) -> None:
            event_ids, *columns = zip(*rows)
            columns = [[str(event_id) for event_id in event_ids], *columns]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA)]
            connection.cursor().bulkcopy_arrow(
                TABLE, pa.Table.from_arrays(arrays, schema=SCHEMA), timeout=0, column_mappings=list(COLUMNS), keep_nulls=True,
                table_lock=True, use_internal_transaction=True,
            )  # fmt: skip

        yield write


def execute_many(running: local.Stack, rows_of_a_statement: int) -> Iterator[Write]:
    """As insert_many.py does it."""
    with mssql_connection(running) as connection:

        def write(rows: list[Row]) -> None:
            rows = [(str(event_id), *rest) for event_id, *rest in rows]
            with connection.cursor() as cursor:
                insert_many.insert(cursor, TABLE, rows_of_a_statement, parts(rows, rows_of_a_statement))
            connection.commit()

        yield write


def pymssql_connection(running: local.Stack) -> pymssql.Connection:
    return pymssql.connect(
        server="localhost", port=str(running.sql_port), user=local.USER, password=running.password_file.read_text().strip(),
        database=local.DATABASE, encryption="require", tds_version="7.4", use_datetime2=True, charset="UTF-8",
    )  # fmt: skip


def pytds_connection(running: local.Stack) -> pytds.Connection:
    return pytds.connect(
        dsn="localhost", port=running.sql_port, user=local.USER, password=running.password_file.read_text().strip(),
        database=local.DATABASE, cafile=str(running.folder / "ca.pem"), disable_connect_retry=True, timeout=60,
    )  # fmt: skip


def with_format(connection: pymssql.Connection | pytds.Connection, rows_of_a_statement: int) -> Iterator[Write]:
    """Of a client that has %s for a parameter."""
    values = ", ".join([f"({', '.join(['%s'] * len(COLUMNS))})"] * rows_of_a_statement)
    statement = f"INSERT INTO {TABLE} ({', '.join(COLUMNS)}) VALUES {values}"
    with connection:

        def write(rows: list[Row]) -> None:
            cursor = connection.cursor()
            if rows_of_a_statement == 1:
                cursor.executemany(statement, rows)
            else:
                for part in parts(rows, rows_of_a_statement):
                    cursor.execute(statement, tuple(chain.from_iterable(part)))
            connection.commit()

        yield write


def parts(rows: list[Row], size: int) -> list[list[Row]]:
    """All of this size: what is left over is left out."""
    return [rows[start : start + size] for start in range(0, len(rows) - size + 1, size)]


if __name__ == "__main__":
    sys.exit(main())
