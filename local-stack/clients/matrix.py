#!/usr/bin/env python3
"""Clients that others wrote against the stand-in for SQL Server, as a matrix.

    matrix.py STAND_IN CLIENT...          starts the program STAND_IN, and asks each client
    matrix.py --server FILE CLIENT...     asks a server that runs, which FILE tells of in JSON

A cell is `ok`, or `FAIL`, or a letter: what the client itself cannot do, listed below the matrix with its source
(`limits.py`). A limit that no longer shows fails too, so that the list stays true. Exits with 1 if a cell fails.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from canonical import APPROXIMATE, kind, load_types
from limits import CAPABILITIES, LIMITS

FOLDER = Path(__file__).resolve().parent
# no client needs more for all that it is asked in one go
TIMEOUT_SECONDS = 240


class Matrix:
    def __init__(self, title, columns):
        self.title, self.columns, self.rows, self.notes, self.failures = title, columns, {}, {}, []

    def put(self, row, column, problem, limit):
        """A cell without a problem is right; with one it needs a limit, and without one it must not have any."""
        if problem and not limit:
            self.failures.append(f"{row}, {column}: {problem}")
            text = "FAIL"
        elif limit and not problem:
            self.failures.append(f"{row}, {column}: passes, and limits.py says that it cannot: {limit}")
            text = "FAIL"
        elif limit:
            text = self.notes.setdefault(limit, chr(ord("a") + len(self.notes)))
        else:
            text = "ok"
        self.rows.setdefault(row, {})[column] = text

    def show(self):
        width = max(len(row) for row in self.rows)
        print(f"\n{self.title:<{width}}  " + "  ".join(self.columns))
        for row, cells in self.rows.items():
            line = "  ".join(f"{cells.get(column, '-'):<{len(column)}}" for column in self.columns)
            print(f"{row:<{width}}  {line}".rstrip())
        for note, letter in self.notes.items():
            print(f"  {letter}  {note}")
        for failure in self.failures:
            print(f"  FAIL  {failure}")


def ask(client, server_file, *command):
    """The lines that a client's program prints."""
    server = json.loads(Path(server_file).read_text(encoding="utf-8"))
    if client == "tedious":
        program = [os.environ.get("NODE", "node"), str(FOLDER / "tedious_client.js")]
    elif client == "tiberius":
        program = [os.environ["TIBERIUS_CLIENT"]]
    else:
        program = [sys.executable, str(FOLDER / "python_client.py")]
    # the ODBC driver and the bulk copy of mssql-python trust what OpenSSL trusts
    environment = {**os.environ, "SSL_CERT_FILE": server["ca_file"], "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [*program, client, str(server_file), *command],
        env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS,
    )  # fmt: skip
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode != 0:
        sys.stderr.write(result.stderr)
    return lines


def problem_of(sql_type, expected, got, limits):
    """What is wrong about a list of values; limits change what is expected, and how it is compared."""
    if expected == got:
        return None
    # one that holds for the writer and the reader alike is applied once
    limits = dict.fromkeys(limits)
    if len(expected) != len(got):
        return f"{len(got)} values and not {len(expected)}"
    for want, have in zip(expected, got):
        if want is not None and have is not None:
            for limit in (limit for limit in limits if not limit.is_error):
                want, have = limit.loss(sql_type, want), limit.loss(sql_type, have)
            if kind(sql_type) in APPROXIMATE:
                want, have = float(want), float(have)
        if want != have:
            return f"{have!r:.60} and not {want!r:.60}"
    return None


def limits_of(client, step, sql_type):
    return [limit for limit in LIMITS.get(client, []) if limit.applies(step, sql_type)]


def judge(sql_type, expected, got, limits):
    """A cell's problem and the limit that explains it."""
    exact = problem_of(sql_type, expected, got, [])
    if exact and limits and not problem_of(sql_type, expected, got, limits):
        return exact, "; ".join(dict.fromkeys(str(limit) for limit in limits))
    return exact, None


def capabilities(clients, server_file):
    matrix = Matrix("capability", clients)
    for client in clients:
        for line in ask(client, server_file, "capabilities"):
            problem = None if line["ok"] else line["detail"]
            matrix.put(line["cell"], client, problem, CAPABILITIES.get((client, line["cell"])))
    expected = {row for row in matrix.rows}
    for client in clients:
        for row in expected - {row for row, cells in matrix.rows.items() if client in cells}:
            matrix.put(row, client, "the client's program ended before it", None)
    return matrix


def by_parameter(clients, server_file):
    matrix = Matrix("type, written by parameter and read", clients)
    for client in clients:
        answers = {line["type"]: line for line in ask(client, server_file, "parameters")}
        for entry in load_types():
            sql_type = entry["type"]
            answer = answers.get(sql_type, {"error": "the client's program ended before it"})
            limits = limits_of(client, "parameter", sql_type) + limits_of(client, "read", sql_type)
            if answer.get("error"):
                known = [limit for limit in limits if limit.is_error]
                matrix.put(sql_type, client, answer["error"], str(known[0]) if known else None)
            else:
                matrix.put(sql_type, client, *judge(sql_type, [*entry["values"], None], answer["values"], limits))
    return matrix


def by_bulk_load(clients, server_file):
    matrix = Matrix("type, written by bulk load and read by the others", clients)
    for writer in clients:
        loaded = {line["type"]: line["error"] for line in ask(writer, server_file, "bulk")}
        answers = {
            reader: {line["type"]: line for line in ask(reader, server_file, "read", writer)}
            for reader in clients
            if reader != writer
        }
        for entry in load_types():
            sql_type, values = entry["type"], entry["values"]
            limits = limits_of(writer, "bulk", sql_type)
            error = loaded.get(sql_type, "the client's program ended before it")
            if error:
                known = [limit for limit in limits if limit.is_error]
                matrix.put(sql_type, writer, error, str(known[0]) if known else None)
                continue
            expected = [values + [None], values + values[:1]]
            found, explained = [], []
            for reader, lines in answers.items():
                answer = lines.get(sql_type, {"error": "not read"})
                if answer.get("error"):
                    found.append(f"read by {reader}: {answer['error']}")
                    continue
                both = limits_of(reader, "read", sql_type) + limits
                for column, want in enumerate(expected):
                    problem, limit = judge(sql_type, want, [row[column] for row in answer["rows"]], both)
                    if problem and limit:
                        explained.append(limit)
                    elif problem:
                        found.append(f"read by {reader}, {'or'[column]}: {problem}")
            if found:
                matrix.put(sql_type, writer, "; ".join(found), None)
            elif explained:
                reasons = dict.fromkeys(reason for limit in explained for reason in limit.split("; "))
                matrix.put(sql_type, writer, "limited", "; ".join(reasons))
            else:
                matrix.put(sql_type, writer, None, None)
    return matrix


def run(clients, server_file):
    matrices = []
    for make in (capabilities, by_parameter, by_bulk_load):
        matrix = make(clients, server_file)
        matrix.show()
        sys.stdout.flush()
        matrices.append(matrix)
    cells = [cell for matrix in matrices for cells in matrix.rows.values() for cell in cells.values()]
    failed = cells.count("FAIL")
    print(f"\n{len(cells) - failed} passed, {failed} failed")
    return 1 if failed or not cells else 0


def main():
    first, *clients = sys.argv[1:]
    if first == "--server":
        server_file, *clients = clients
        return run(clients, server_file)
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen([first], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            started = process.stdout.readline()
            if not started:
                return "the stand-in did not start"
            server_file = Path(folder) / "server.json"
            server_file.write_text(started, encoding="utf-8")
            return run(clients, server_file)
        finally:
            # it serves until its input ends
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
