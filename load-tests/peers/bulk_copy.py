#!/usr/bin/env python3
"""nats-py and the bulk copy of Microsoft's mssql-python, in Arrow tables."""

from __future__ import annotations

import sys

import mssql_python
import pyarrow as pa
from nats.aio.msg import Msg

from pipeline import arrow_reader
from pipeline.arguments import Arguments
from pipeline.failure import Failure
from pipeline.run import main
from pipeline.telemetry import COLUMNS

BATCH_ROWS = 50_000


class BulkCopy:
    """Each batch is one bulk load in a transaction of its own, on a connection that `bulkcopy_arrow` opens for it."""

    errors = (mssql_python.Error, RuntimeError, ValueError, pa.ArrowException)

    def __init__(self) -> None:
        self.table = ""
        self.connection: mssql_python.Connection | None = None

    def open(self, arguments: Arguments) -> None:
        """The connection serves to hold the settings."""
        self.table = arguments.table
        self.connection = mssql_python.connect(arguments.connection_string())

    def write(self, messages: list[Msg]) -> int:
        """Decodes and loads."""
        table = arrow_reader.table(messages)
        if table.num_rows == 0:
            return 0
        with self.connection.cursor() as cursor:
            result = cursor.bulkcopy_arrow(
                self.table, table, timeout=0, column_mappings=list(COLUMNS), check_constraints=True, keep_nulls=True,
                table_lock=True, use_internal_transaction=True,
            )  # fmt: skip
        if result["rows_copied"] != table.num_rows:
            raise Failure(f"{table.num_rows} rows were sent, and {result['rows_copied']} were counted")
        return table.num_rows

    def close(self) -> None:
        """Closes it."""
        self.connection.close()


if __name__ == "__main__":
    sys.exit(main(Arguments.parse(__doc__, BATCH_ROWS), BulkCopy()))
