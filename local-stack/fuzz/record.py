#!/usr/bin/env python3
"""Records what clients that others wrote send, as the fuzz's corpus. `make tools clients` installs the clients.

    record.py STAND_IN FUZZ      the programs: cargo build --package local-stack --examples

Sessions go whole to corpus/session, where they are short; their messages, without the packets' headers, go to the
parsers' folders, a few of each kind. Bulk loads are of a table that the parser `load` knows: see COLUMNS.
"""

import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from datetime import datetime
from decimal import Decimal
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
CORPUS = FOLDER / "corpus"
CLIENTS = FOLDER.parent / "clients"
KINDS = {1: "batch_message", 3: "rpc", 7: "load", 14: "transaction", 16: "login7", 18: "prelogin"}
MAX_MESSAGE, MAX_SESSION, MAX_EACH = 2048, 6000, 12
# a byte for each type: its index in column_types() of src/sql_server/fuzz/targets.rs
TYPES = {"int": 3, "bigint": 4, "decimal(18,4)": 7, "datetime2(7)": 16, "nvarchar(64)": 32, "varbinary(max)": 24}
NOT_NULL = 0x80
VALUES = {
    "int": [1, None, -(2**31)],
    "bigint": [2**40, None, -1],
    "decimal(18,4)": [Decimal("12.3400"), None, Decimal("-0.0001")],
    "datetime2(7)": [datetime(2026, 3, 1, 12, 30, 15, 123456), None, datetime(1, 1, 1)],
    "nvarchar(64)": ["é😀", None, "text"],
    "varbinary(max)": [b"\x01\x02", None, b"\xff"],
}


class Relay(threading.Thread):
    """Hands bytes on, and keeps what the clients send: one list for each connection."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.to, self.sessions = port, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def run(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.to))
            kept = bytearray()
            self.sessions.append(kept)
            threading.Thread(target=self.pump, args=(client, server, kept), daemon=True).start()
            threading.Thread(target=self.pump, args=(server, client, None), daemon=True).start()

    @staticmethod
    def pump(source, sink, kept):
        try:
            while data := source.recv(65536):
                if kept is not None:
                    kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def packets(data):
    """Kind, status and payload of each packet; TLS records (a login that alone is encrypted) are left out."""
    while len(data) >= 8:
        if data[0] in (0x14, 0x15, 0x16, 0x17):
            data = data[5 + struct.unpack(">H", data[3:5])[0] :]
            continue
        length = struct.unpack(">H", data[2:4])[0]
        if data[0] not in (*KINDS, 6) or length < 8:
            return
        yield data[0], data[1], bytes(data[8:length])
        data = data[length:]


def messages(data):
    whole = b""
    for kind, status, payload in packets(data):
        whole += payload
        if status & 1:
            yield kind, whole
            whole = b""


def put(folder, content, client):
    folder = CORPUS / folder
    folder.mkdir(parents=True, exist_ok=True)
    if len(list(folder.glob(f"{client}-*"))) < MAX_EACH:
        (folder / f"{client}-{hashlib.sha256(content).hexdigest()[:8]}").write_bytes(content)


def drive(client, tls):
    """Requests with and without parameters, transactions, errors."""
    connection = client.connect(tls)
    cursor = connection.cursor()
    cursor.execute("DROP TABLE IF EXISTS dbo.fuzzed; CREATE TABLE dbo.fuzzed (n int NOT NULL, t nvarchar(64), x varbinary(max))")
    connection.commit()
    mark = client.mark
    cursor.execute(f"INSERT INTO dbo.fuzzed (n, t) VALUES ({mark}, {mark})", (1, "é"))
    cursor.execute(f"SELECT n, t FROM dbo.fuzzed WHERE n = {mark} ORDER BY n", (1,))
    cursor.fetchall()
    connection.rollback()
    try:
        cursor.execute("SELECT nothing FROM nowhere")
    except Exception as error:
        print(f"as it should be: {error}", file=sys.stderr)
    connection.rollback()
    connection.close()


def bulk(client, tls, sql_type):
    connection = client.connect(tls)
    cursor = connection.cursor()
    cursor.execute(f"DROP TABLE IF EXISTS dbo.loaded; CREATE TABLE dbo.loaded (n int NOT NULL, o {sql_type} NULL, r {sql_type} NOT NULL)")
    connection.commit()
    values = VALUES[sql_type]
    client.bulk(connection, "dbo.loaded", sql_type, [(n, value, values[0]) for n, value in enumerate(values)])
    connection.close()


def record(relay, name, told, tls):
    for sql_type in (None, *TYPES):
        relay.sessions.clear()
        # a process of its own: FreeTDS keeps the interpreter's lock while it waits for the relay
        program = [sys.executable, __file__, "--drive", name, json.dumps({**told, "port": relay.port}), tls, sql_type or ""]
        subprocess.run(program, check=True, timeout=60)
        if sql_type:
            columns = bytes([0, 3, TYPES["int"] | NOT_NULL, TYPES[sql_type], TYPES[sql_type] | NOT_NULL])
        for session in relay.sessions:
            if tls == "off" and len(session) <= MAX_SESSION:
                put("session", bytes(session), name)
            for kind, content in messages(session):
                if kind in KINDS and len(content) <= MAX_MESSAGE:
                    put(KINDS[kind], (columns if kind == 7 else b"") + content, name)


def main():
    if sys.argv[1] == "--drive":
        sys.path.insert(0, str(CLIENTS))
        from adapters import MssqlPython, Pymssql, PythonTds

        name, server, tls, sql_type = sys.argv[2:]
        kind = {"python-tds": PythonTds, "pymssql": Pymssql, "mssql-python": MssqlPython}[name]
        client = kind(json.loads(server))
        return bulk(client, tls, sql_type) if sql_type else drive(client, tls)
    stand_in, fuzz = (str(Path(program).resolve()) for program in sys.argv[1:])
    with subprocess.Popen([stand_in], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        told = json.loads(server.stdout.readline())
        os.environ["SSL_CERT_FILE"] = told["ca_file"]
        relay = Relay(told["port"])
        relay.start()
        record(relay, "python-tds", told, "off")
        record(relay, "pymssql", told, "off")
        # what follows its encrypted login is in the clear
        record(relay, "mssql-python", told, "login only")
        server.stdin.close()
    subprocess.run([fuzz, "--record", str(CORPUS / "session")], check=True)
    for kind, content in messages((CORPUS / "session" / "tiberius").read_bytes()):
        if len(content) <= MAX_MESSAGE and kind in KINDS and kind != 7:
            put(KINDS[kind], content, "tiberius")


if __name__ == "__main__":
    main()
