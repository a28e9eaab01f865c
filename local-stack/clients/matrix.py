#!/usr/bin/env python3
"""Clients that others wrote against the stand-in for SQL Server, as a matrix.

    matrix.py STAND_IN CLIENT...          starts the program STAND_IN, and asks each client
    matrix.py --server FILE CLIENT...     asks a server that runs, which FILE tells of in JSON

A cell is `ok`, or `FAIL`, or a letter: what the client itself cannot do, listed below the matrix with its source
(`limits.py`). A limit that no longer shows fails too, so that the list stays true. Exits with 1 if a cell fails.
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from canonical import APPROXIMATE, kind, load_types
from limits import CAPABILITIES, FEW_READERS, LIMITS

FOLDER = Path(__file__).resolve().parent
ALL_CLIENTS = ("mssql-python", "pymssql", "python-tds", "tedious", "tiberius")
# no client needs more for all that it is asked in one go
TIMEOUT_SECONDS = 240


class Matrix:
    def __init__(self, title, columns):
        self.title, self.columns, self.rows, self.notes = title, columns, {}, {}
        self.remarks, self.failures, self.seen = [], [], set()

    def put(self, row, column, problem, limit):
        """A cell without a problem is right; with one it needs a limit, and without one it must not have any."""
        if problem and not limit:
            self.failures.append(f"{row}, {column}: {problem}")
            text = "FAIL"
        elif limit and not problem:
            self.failures.append(f"{row}, {column}: passes, and limits.py says that it cannot: {limit}")
            text = "FAIL"
        elif limit:
            text = self.notes.setdefault(limit, letters(len(self.notes)))
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
        for remark in self.remarks:
            print(f"  {remark}")
        for failure in self.failures:
            print(f"  FAIL  {failure}")


def letters(number):
    """a to z, aa to az, and so on."""
    return (letters(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


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
    limits = [limit for limit in dict.fromkeys(limits) if not limit.is_error]
    if len(expected) != len(got):
        return f"{len(got)} values and not {len(expected)}"
    for want, have in zip(expected, got):
        if want is not None and have is not None:
            for limit in limits:
                want = limit.becomes(sql_type, want) if limit.becomes else want
            for limit in limits:
                want, have = (limit.loss(sql_type, side) if limit.loss else side for side in (want, have))
            if kind(sql_type) in APPROXIMATE:
                # as they are written: a zero has a sign
                want, have = repr(float(want)), repr(float(have))
        if want != have:
            return f"{have!r:.60} and not {want!r:.60}"
    return None


def limits_of(client, step, entry):
    return [limit for limit in LIMITS.get(client, []) if limit.applies(step, entry["row"])]


def judge(sql_type, expected, got, limits):
    """A cell's problem and the limits that explain it, as few as are enough."""
    exact = problem_of(sql_type, expected, got, [])
    if exact:
        for count in range(1, len(limits) + 1):
            for some in itertools.combinations(dict.fromkeys(limits), count):
                if not problem_of(sql_type, expected, got, some):
                    return exact, some
    return exact, ()


def reason_of(limits):
    return "; ".join(dict.fromkeys(limit.reason for limit in limits))


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
        answers = {line["row"]: line for line in ask(client, server_file, "parameters")}
        for entry in load_types():
            row, sql_type = entry["row"], entry["type"]
            answer = answers.get(row, {"error": "the client's program ended before it"})
            limits = limits_of(client, "parameter", entry) + limits_of(client, "read", entry)
            if answer.get("error"):
                problem, known = answer["error"], [limit for limit in limits if limit.is_error][:1]
            else:
                problem, known = judge(sql_type, [*entry["values"], None], answer["values"], limits)
            matrix.seen.update((limit, client, row) for limit in known)
            matrix.put(row, client, problem, reason_of(known))
    return matrix


def by_bulk_load(clients, server_file):
    matrix = Matrix("type, written by bulk load and read by the others", clients)
    # how many of the others read a row as it is in values.json, where the best of its writers has loaded it
    equal = {entry["row"]: (0, None) for entry in load_types()}
    for writer in clients:
        loaded = {line["row"]: line["error"] for line in ask(writer, server_file, "bulk")}
        answers = {
            reader: {line["row"]: line for line in ask(reader, server_file, "read", writer)}
            for reader in clients
            if reader != writer
        }
        for entry in load_types():
            row, sql_type, values = entry["row"], entry["type"], entry["values"]
            limits = limits_of(writer, "bulk", entry)
            error = loaded.get(row, "the client's program ended before it")
            if error:
                known = [limit for limit in limits if limit.is_error][:1]
                matrix.seen.update((limit, writer, row) for limit in known)
                matrix.put(row, writer, error, reason_of(known))
                continue
            expected = [values + [None], values + values[:1]]
            found, explained, readers = [], [], 0
            for reader, lines in answers.items():
                answer = lines.get(row, {"error": "not read"})
                if answer.get("error"):
                    found.append(f"read by {reader}: {answer['error']}")
                    continue
                got = [[line[column] for line in answer["rows"]] for column in range(2)]
                readers += not any(problem_of(sql_type, *pair, []) for pair in zip(expected, got))
                for column, pair in enumerate(zip(expected, got)):
                    problem, known = judge(sql_type, *pair, limits + limits_of(reader, "read", entry))
                    matrix.seen.update((limit, client, row) for limit in known for client in (writer, reader))
                    explained += known
                    if problem and not known:
                        found.append(f"read by {reader}, {'or'[column]}: {problem}")
            if readers > equal[row][0]:
                equal[row] = readers, writer
            matrix.put(row, writer, "; ".join(found) or explained, None if found else reason_of(explained))
    few = {row: pair for row, pair in equal.items() if pair[0] < 2}
    matrix.remarks.append(f"{len(equal) - len(few)} of {len(equal)} rows: loaded by one client, read by two others or more, equal")
    for row, (readers, writer) in few.items():
        reason = next((reason for rows, reason in FEW_READERS.items() if re.fullmatch(rows, row)), None)
        loaded = f"loaded by {writer}, read by {readers} equal" if writer else "no other reads what one has loaded"
        matrix.remarks.append(f"{row}: {loaded}: {reason}")
        if not reason and set(clients) >= set(ALL_CLIENTS):
            matrix.failures.append(f"{row}: no two clients read what another has loaded")
    if set(clients) >= set(ALL_CLIENTS):
        stale = [rows for rows in FEW_READERS if not any(re.fullmatch(rows, row) for row in few)]
        matrix.failures += [f"{rows}: two clients read it, and limits.py says that they cannot" for rows in stale]
    return matrix


def unseen_limits(seen):
    """Limits that a row has not shown, whoever wrote and read it."""
    for client, limits in LIMITS.items():
        for limit, entry in itertools.product(limits, load_types()):
            if re.fullmatch(limit.rows, entry["row"]) and (limit, client, entry["row"]) not in seen:
                yield f"{entry['row']}, {client}: does not show, and limits.py says that it does: {limit.reason}"


def run(clients, server_file):
    matrices = []
    for make in (capabilities, by_parameter, by_bulk_load):
        matrix = make(clients, server_file)
        matrix.show()
        sys.stdout.flush()
        matrices.append(matrix)
    if set(clients) >= set(ALL_CLIENTS):
        for unseen in unseen_limits(set().union(*(matrix.seen for matrix in matrices))):
            print(f"  FAIL  {unseen}")
            matrices[-1].failures.append(unseen)
    cells = [cell for matrix in matrices for cells in matrix.rows.values() for cell in cells.values()]
    failed = sum(len(matrix.failures) for matrix in matrices)
    ok = cells.count("ok")
    limited = len(cells) - ok - cells.count("FAIL")
    print(f"\n{len(cells)} cells: {ok} ok, {limited} limits of a client; {failed} failures")
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
