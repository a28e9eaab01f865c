"""The command line that all peers have in common."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from pipeline.failure import Failure


@dataclass(frozen=True)
class Arguments:
    """What a peer is told."""

    nats_url: str
    stream: str
    consumer: str
    sql_host: str
    sql_port: int
    sql_user: str
    sql_password_file: Path
    sql_database: str
    sql_encrypt: str
    table: str
    events: int
    stop_after: float
    batch_rows: int

    @classmethod
    def parse(cls, description: str, batch_rows: int) -> Arguments:
        """Reads the process' arguments."""
        parser = argparse.ArgumentParser(description=description)
        parser.add_argument("--nats-url", required=True, metavar="URL")
        parser.add_argument("--stream", required=True, metavar="NAME")
        parser.add_argument("--consumer", required=True, metavar="NAME", help="a durable pull consumer with explicit acks")
        parser.add_argument("--sql-host", required=True, metavar="HOST")
        parser.add_argument("--sql-port", type=int, default=1433, metavar="PORT")
        parser.add_argument("--sql-user", required=True, metavar="USER")
        parser.add_argument("--sql-password-file", type=Path, required=True, metavar="FILE")
        parser.add_argument("--sql-database", required=True, metavar="NAME")
        parser.add_argument(
            "--sql-encrypt", choices=["required", "trust", "off"], default="required",
            help="trust: encrypted, with any certificate. off: the login alone is encrypted (default: %(default)s)",
        )  # fmt: skip
        parser.add_argument("--table", required=True, metavar="NAME")
        parser.add_argument("--events", type=positive, required=True, metavar="N", help="end after so many")
        parser.add_argument("--stop-after", type=float, required=True, metavar="SECONDS", help="end after so long")
        parser.add_argument(
            "--batch-rows", type=positive, default=batch_rows, metavar="N", help="rows of a transaction (default: %(default)s)"
        )
        return cls(**vars(parser.parse_args()))

    def connection_string(self) -> str:
        """For mssql-python."""
        encrypt = "no" if self.sql_encrypt == "off" else "yes"
        trust = "no" if self.sql_encrypt == "required" else "yes"
        return (
            f"Server={self.sql_host},{self.sql_port};Database={self.sql_database};UID={self.sql_user};"
            f"PWD={{{self.password().replace('}', '}}')}}};Encrypt={encrypt};TrustServerCertificate={trust}"
        )

    def password(self) -> str:
        """The first line of its file."""
        try:
            return self.sql_password_file.read_text(encoding="utf-8").splitlines()[0]
        except (OSError, IndexError) as error:
            raise Failure(f"no password in {self.sql_password_file}: {error}") from error


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number
