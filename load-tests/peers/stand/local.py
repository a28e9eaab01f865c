"""The local stack of nats-sql-sink, a stream with events, and tables."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats
import pytds
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo

from stand.events import Made

STREAM = "EVENTS"
USER = "sink"
DATABASE = "sinkdb"
HERE = Path(__file__).resolve().parent.parent
PROJECT = HERE.parent.parent
SCHEMA = PROJECT / "schemas" / "telemetry.toml"
TOOLS = PROJECT / ".tools"
# one answer of the stream for so many events at once
WINDOW = 4_000
ANSWER_SECONDS = 30
# a run of a peer ends long before it gives an event to another
ACK_WAIT_SECONDS = 600


@dataclass(frozen=True)
class Stack:
    """A running one."""

    program: Path
    folder: Path
    nats_port: int
    sql_port: int

    @property
    def nats_url(self) -> str:
        """Where NATS clients connect."""
        return f"nats://127.0.0.1:{self.nats_port}"

    @property
    def password_file(self) -> Path:
        """The password of the SQL server's user."""
        return self.folder / "sql.password"

    def sql(self) -> pytds.Connection:
        """A session of a client that no peer uses."""
        return pytds.connect(
            dsn="localhost", port=self.sql_port, user=USER, password=self.password_file.read_text().strip(), database=DATABASE,
            cafile=str(self.folder / "ca.pem"), disable_connect_retry=True, autocommit=True,
        )  # fmt: skip

    def configuration(self, table: str) -> Path:
        """A file for the sink that writes the events into this table."""
        path = self.folder / f"{table}.toml"
        path.write_text(
            f"""
[nats]
servers = ["{self.nats_url}"]

[sql]
server = "localhost,{self.sql_port}"
database = "{DATABASE}"
ca_file = "{self.folder / 'ca.pem'}"
auth = {{ method = "sql_login", user = "{USER}", password_file = "{self.password_file}" }}

[http]
listen = "127.0.0.1:{free_port()}"

[[pipeline]]
name = "{table.replace('.', '-')}"
stream = "{STREAM}"
durable = "{table.replace('.', '-')}"
subjects = ["events.>"]
schema = "{SCHEMA}"
table = "{table}"
dead_letter = {{ stream = "DEAD_LETTERS", subject = "dead.telemetry" }}
"""
        )
        return path

    def create_table(self, table: str) -> None:
        """Anew, as the sink's `ddl` would have it."""
        command = [self.program, "ddl", "--config", self.configuration(table)]
        statement = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        with self.sql() as session, session.cursor() as cursor:
            cursor.execute(f"DROP TABLE IF EXISTS {table}")
            cursor.execute(statement)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """All of a table, in the order of the stream."""
        with self.sql() as session, session.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table} ORDER BY stream_sequence")
            return [tuple(row) for row in cursor.fetchall()]

    def peer(self, name: str, consumer: str, table: str, events: int, stop_after: float, *more: str) -> list[str]:
        """The command that runs a peer."""
        interpreter = str(TOOLS / "peers" / "bin" / "node") if name.endswith(".mjs") else "python3"
        return [
            interpreter, str(HERE / name), "--nats-url", self.nats_url, "--stream", STREAM, "--consumer", consumer,
            "--sql-host", "localhost", "--sql-port", str(self.sql_port), "--sql-user", USER,
            "--sql-password-file", str(self.password_file), "--sql-database", DATABASE, "--sql-encrypt", "trust",
            "--table", table, "--events", str(events), "--stop-after", str(stop_after), *more,
        ]  # fmt: skip


@contextlib.contextmanager
def stack(program: Path, storage: str) -> Iterator[Stack]:
    """Starts one, and stops it."""
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        # PostgreSQL runs as another user where this one is root
        folder.chmod(0o755)
        running = Stack(program, folder, free_port(), free_port())
        command = [
            program, "local", "--nats-port", str(running.nats_port), "--sql-port", str(running.sql_port), "--data-dir", folder,
            "--sql-storage", storage,
        ]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                if not process.stdout.readline():
                    raise RuntimeError("the local stack did not start: see its message above")
                yield running
            finally:
                process.send_signal(signal.SIGTERM)
                process.communicate()


async def publish(running: Stack, events: Iterable[Made]) -> int:
    """Makes the stream anew with these events, and returns their number."""
    client = await connect(running)
    stream = client.jetstream(publish_async_max_pending=WINDOW, timeout=ANSWER_SECONDS)
    for name, subject in [(STREAM, "events.>"), ("DEAD_LETTERS", "dead.>")]:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await stream.delete_stream(name)
        await stream.add_stream(name=name, subjects=[subject])
    count = 0
    confirmed = []
    for event in events:
        confirmed.append(await stream.publish_async(event.subject, event.payload))
        count += 1
    await stream.publish_async_completed()
    for answer in confirmed:
        answer.result()
    await client.close()
    return count


async def create_consumer(running: Stack, name: str) -> None:
    """A durable pull consumer, at the stream's beginning."""
    client = await connect(running)
    stream = client.jetstream(timeout=ANSWER_SECONDS)
    with contextlib.suppress(nats.js.errors.NotFoundError):
        await stream.delete_consumer(STREAM, name)
    config = ConsumerConfig(durable_name=name, ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_SECONDS, max_ack_pending=1_000_000)
    await stream.add_consumer(STREAM, config)
    await client.close()


async def consumer_info(running: Stack, name: str) -> ConsumerInfo:
    """What the server says of it."""
    client = await connect(running)
    try:
        return await client.jetstream(timeout=ANSWER_SECONDS).consumer_info(STREAM, name)
    finally:
        await client.close()


async def connect(running: Stack) -> nats.NATS:
    """With patience, because all of it may share a busy machine."""
    return await nats.connect(running.nats_url, connect_timeout=ANSWER_SECONDS)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
