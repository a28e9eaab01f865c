#!/usr/bin/env python3
"""The generic pipeline: nats-py, and INSERT with parameters through mssql-python."""

from __future__ import annotations

import sys
from itertools import chain

import mssql_python
from mssql_python.constants import ConstantsDDBC as odbc
from nats.aio.msg import Msg

from pipeline import telemetry
from pipeline.arguments import Arguments
from pipeline.intake import stream_sequence
from pipeline.run import main
from pipeline.telemetry import COLUMNS, Row

BATCH_ROWS = 10_450
# SQL Server takes 2,100 parameters of a statement, and two of them are the statement itself and what they are.
ROWS_OF_A_STATEMENT = (2_100 - 2) // len(COLUMNS)
# What the parameters are, so that the driver need not ask the server wherever it meets a NULL. A UUID is sent as text: with
# types given, the driver does not take Python's.
SIZES = [
    (odbc.SQL_VARCHAR.value, 36, 0),
    (odbc.SQL_WVARCHAR.value, telemetry.LONGEST_DEVICE, 0),
    (odbc.SQL_VARCHAR.value, telemetry.LONGEST_SITE, 0),
    (odbc.SQL_BIGINT.value, 0, 0),
    (odbc.SQL_DOUBLE.value, 0, 0),
    # sent as text, which with sign and point is longer than decimal(5,2) has digits
    (odbc.SQL_DECIMAL.value, 7, 2),
    (odbc.SQL_BIT.value, 0, 0),
    (odbc.SQL_TYPE_TIMESTAMP.value, 23, 3),
    (odbc.SQL_WVARCHAR.value, telemetry.LONGEST_MESSAGE, 0),
    (odbc.SQL_BIGINT.value, 0, 0),
]


class InsertMany:
    """Statements with as many rows as parameters allow, run with arrays of parameters."""

    errors = (mssql_python.Error, RuntimeError, ValueError)

    def __init__(self) -> None:
        self.table = ""
        self.connection: mssql_python.Connection | None = None

    def open(self, arguments: Arguments) -> None:
        """Connects, to begin transactions of its own."""
        self.table = arguments.table
        self.connection = mssql_python.connect(arguments.connection_string(), autocommit=False)

    def write(self, messages: list[Msg]) -> int:
        """Decodes, inserts and commits."""
        rows = list(good_rows(messages))
        full = len(rows) - len(rows) % ROWS_OF_A_STATEMENT
        with self.connection.cursor() as cursor:
            statements = [rows[start : start + ROWS_OF_A_STATEMENT] for start in range(0, full, ROWS_OF_A_STATEMENT)]
            if statements:
                insert(cursor, self.table, ROWS_OF_A_STATEMENT, statements)
            if rows[full:]:
                insert(cursor, self.table, len(rows) - full, [rows[full:]])
        self.connection.commit()
        return len(rows)

    def close(self) -> None:
        """Closes it; what is not committed is rolled back."""
        self.connection.close()


def good_rows(messages: list[Msg]) -> list[Row]:
    """In the order in which they came."""
    rows = []
    for message in messages:
        try:
            event_id, *rest = telemetry.row(message.data, stream_sequence(message))
        except telemetry.Malformed:
            continue
        rows.append((str(event_id), *rest))
    return rows


def insert(cursor: mssql_python.Cursor, table: str, rows: int, statements: list[list[Row]]) -> None:
    """Runs one statement of so many rows once for each of `statements`."""
    values = ", ".join([f"({', '.join('?' * len(COLUMNS))})"] * rows)
    cursor.setinputsizes(SIZES * rows)
    cursor.executemany(
        f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES {values}",
        [list(chain.from_iterable(statement)) for statement in statements],
    )


if __name__ == "__main__":
    sys.exit(main(Arguments.parse(__doc__, BATCH_ROWS), InsertMany()))
