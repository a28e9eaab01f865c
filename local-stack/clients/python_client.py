"""One Python client against a running server: what `matrix.py` asks for, answered in lines of JSON.

    python_client.py CLIENT SERVER.json capabilities | parameters | bulk | read WRITER
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path

from adapters import CLIENTS
from canonical import FOLDER, from_python, load_types, to_python


def say(**line):
    print(json.dumps(line), flush=True)


def explain(error):
    return f"{type(error).__name__}: {str(error)[:300]}"


def rows_of(cursor, sql, *parameters):
    cursor.execute(sql, *([tuple(parameters)] if parameters else []))
    return [tuple(row) for row in cursor.fetchall()]


def check(condition, what):
    if not condition:
        raise AssertionError(what)


class Capabilities:
    """Each method whose name begins with `can_` is a cell."""

    def __init__(self, client):
        self.client = client
        self.expected_errors = json.loads((FOLDER / "errors.json").read_text(encoding="utf-8"))

    def run(self):
        for tls in ["on", "login only", "off", "strict"]:
            if tls in self.client.tls:
                self.cell(f"login, TLS {tls}", lambda tls=tls: self.login(tls))
            else:
                say(cell=f"login, TLS {tls}", ok=False, detail="the client has no option for it")
        self.cell("login refused (18456, 4060)", self.refused_logins)
        for name in ["batch", "parameters", "prepared", "bulk", "transactions", "savepoint", "errors", "cancel", "reset"]:
            self.cell(CELLS[name], getattr(self, name))

    def cell(self, name, action):
        try:
            detail = action()
        except Exception as error:  # noqa: BLE001: whatever a client raises is the cell's answer
            say(cell=name, ok=False, detail=explain(error))
        else:
            say(cell=name, ok=True, detail=detail or "")

    def login(self, tls):
        connection = self.client.connect(tls)
        check(rows_of(connection.cursor(), "SELECT 1") == [(1,)], "SELECT 1")
        connection.close()

    def refused_logins(self):
        told = []
        for changed, numbers, text in [
            ({"password": "wrong"}, (18456,), "Login failed"),
            ({"user": "nobody"}, (18456,), "Login failed"),
            # SQL Server says both, and a client tells the first or the last
            ({"database": "missing"}, (4060, 18456), "Cannot open database"),
        ]:
            try:
                self.client.connect(**changed)
            except Exception as error:  # noqa: BLE001
                check(self.client.number(error) in (None, *numbers), explain(error))
                check(self.client.number(error) or text in str(error), explain(error))
                told.append(self.client.number(error))
            else:
                raise AssertionError(f"{changed} was let in")
        check(all(told), "the client tells the message and not the number")

    def batch(self):
        with self.client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute("DECLARE @n int = 1; SELECT @n AS a; SET @n = @n + 1; SELECT @n AS b, N'Ω' AS c")
            check(tuple(cursor.fetchall()[0]) == (1,), "first result")
            check(cursor.nextset(), "a second result")
            check(tuple(cursor.fetchall()[0]) == (2, "Ω"), "second result")

    def parameters(self):
        with self.client.connect() as connection:
            cursor = connection.cursor()
            mark = self.client.mark
            row = rows_of(cursor, f"SELECT {mark}, {mark}, {mark}", 7, "it's Ω😀", None)[0]
            check(row == (7, "it's Ω😀", None), f"{row}")

    def prepared(self):
        with self.client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE dbo.prepared_rows (n int NOT NULL, s nvarchar(20) NULL)")
            mark = self.client.mark
            rows = [(n, None if n % 3 == 0 else f"text {n}") for n in range(50)]
            cursor.executemany(f"INSERT INTO dbo.prepared_rows VALUES ({mark}, {mark})", rows)
            connection.commit()
            check(rows_of(cursor, "SELECT n, s FROM dbo.prepared_rows ORDER BY n") == rows, "rows")
            for n in (1, 2, 3):
                check(rows_of(cursor, f"SELECT s FROM dbo.prepared_rows WHERE n = {mark}", n) == [(rows[n][1],)], f"{n}")
            cursor.execute("DROP TABLE dbo.prepared_rows")
            connection.commit()

    def bulk(self):
        with self.client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE dbo.bulk_rows (n int NOT NULL PRIMARY KEY, o nvarchar(40) NULL, r nvarchar(40) NOT NULL)")
            connection.commit()
            rows = [(n, None if n % 7 == 0 else f"row {n} Ω", "x") for n in range(20_000)]
            self.client.bulk(connection, "dbo.bulk_rows", "nvarchar(40)", rows)
            check(rows_of(connection.cursor(), "SELECT COUNT(*), COUNT(o), SUM(n) FROM dbo.bulk_rows") ==
                  [(20_000, len([1 for row in rows if row[1]]), sum(range(20_000)))], "sums")
            try:
                self.client.bulk(connection, "dbo.bulk_rows", "nvarchar(40)", [(90_000, "new", "x"), (5, "again", "x")])
            except Exception as error:  # noqa: BLE001
                check(self.client.number(error) == 2627, explain(error))
            else:
                raise AssertionError("a duplicate key was let in")
        with self.client.connect() as connection:
            cursor = connection.cursor()
            check(rows_of(cursor, "SELECT COUNT(*) FROM dbo.bulk_rows") == [(20_000,)], "a failed load left rows")
            cursor.execute("DROP TABLE dbo.bulk_rows")
            connection.commit()

    def transactions(self):
        with self.client.connect() as one, self.client.connect() as other:
            cursor, elsewhere = one.cursor(), other.cursor()
            cursor.execute("CREATE TABLE dbo.kept (n int)")
            one.commit()
            cursor.execute("INSERT INTO dbo.kept VALUES (1)")
            check(rows_of(elsewhere, "SELECT COUNT(*) FROM dbo.kept") == [(0,)], "seen before its commit")
            other.rollback()
            one.rollback()
            cursor.execute("INSERT INTO dbo.kept VALUES (2)")
            one.commit()
            check(rows_of(elsewhere, "SELECT n FROM dbo.kept") == [(2,)], "not seen after its commit")
            other.rollback()
            cursor.execute("DROP TABLE dbo.kept")
            one.commit()

    def savepoint(self):
        with self.client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute("CREATE TABLE dbo.saved (n int); INSERT INTO dbo.saved VALUES (1)")
            cursor.execute("SAVE TRANSACTION here; INSERT INTO dbo.saved VALUES (2); ROLLBACK TRANSACTION here")
            connection.commit()
            check(rows_of(cursor, "SELECT n FROM dbo.saved") == [(1,)], "rows")
            cursor.execute("DROP TABLE dbo.saved")
            connection.commit()

    def errors(self):
        silent = []
        with self.client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute(
                "CREATE TABLE dbo.errors (id int NOT NULL PRIMARY KEY, u int NULL, s varchar(3) NULL, "
                "c int NULL CHECK (c > 0)); CREATE UNIQUE INDEX one_u ON dbo.errors (u); INSERT INTO dbo.errors VALUES (1, 1, 'a', 1)"
            )
            connection.commit()
            for number, sql, text in self.expected_errors:
                try:
                    cursor.execute(sql)
                    cursor.fetchall()
                except Exception as error:  # noqa: BLE001
                    check(text in str(error), f"{sql}: {explain(error)}")
                    told = self.client.number(error)
                    check(told in (None, number), f"{sql}: {told} and not {number}")
                    if told is None:
                        silent.append(number)
                else:
                    raise AssertionError(f"{sql}: no error")
                connection.rollback()
            cursor.execute("DROP TABLE dbo.errors")
            connection.commit()
        check(not silent, f"the client tells the message and not the number of {silent}")

    def cancel(self):
        with self.client.connect() as connection:
            started = time.monotonic()
            try:
                self.client.cancel(connection)
            except AssertionError:
                raise
            except Exception:  # noqa: BLE001: that it ends is what is asked for
                pass
            else:
                raise AssertionError("the statement ran to its end")
            check(0.5 < time.monotonic() - started < 8, "the statement did not end when it was taken back")

    def reset(self):
        """A connection that is given back and taken again has nothing of what it was used for."""
        connection = self.client.connect()
        connection.cursor().execute("SET LOCK_TIMEOUT 5; BEGIN TRANSACTION")
        connection.close()
        with self.client.connect() as again:
            check(rows_of(again.cursor(), "SELECT @@TRANCOUNT") in ([(0,)], [(1,)]), "@@TRANCOUNT")


CELLS = {
    "batch": "SQL batch, two results", "parameters": "parameters", "prepared": "a statement run again and again",
    "bulk": "bulk load", "transactions": "commit and rollback", "savepoint": "savepoint",
    "errors": "error numbers", "cancel": "attention", "reset": "reconnect",
}  # fmt: skip


def table_of(writer, index):
    return f"dbo.{writer.replace('-', '_')}_{index}"


def bulk(client, name):
    for module in client.modules:
        importlib.import_module(module)
    for index, entry in enumerate(load_types()):
        # in a process of its own: a client that crashes takes one type with it, and not all
        child = os.fork()
        if child == 0:
            try:
                load(client, name, index, entry)
            finally:
                sys.stdout.flush()
                os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            say(row=entry["row"], error=f"the client crashed with signal {os.WTERMSIG(status)}")


def load(client, name, index, entry):
    sql_type, table = entry["type"], table_of(name, index)
    try:
        with client.connect() as connection:
            cursor = connection.cursor()
            cursor.execute(f"CREATE TABLE {table} (n int NOT NULL, o {sql_type} NULL, r {sql_type} NOT NULL)")
            connection.commit()
            values = [to_python(sql_type, text) for text in entry["values"]]
            rows = [(n, value, value) for n, value in enumerate(values)]
            rows.append((len(values), None, values[0]))
            client.bulk(connection, table, sql_type, rows)
    except Exception as error:  # noqa: BLE001
        say(row=entry["row"], error=explain(error))
    else:
        say(row=entry["row"], error=None)


def read(client, writer):
    with client.connect() as connection:
        for index, entry in enumerate(load_types()):
            sql_type = entry["type"]
            try:
                rows = rows_of(connection.cursor(), f"SELECT o, r FROM {table_of(writer, index)} ORDER BY n")
                say(row=entry["row"], rows=[[from_python(sql_type, value) for value in row] for row in rows])
            except Exception as error:  # noqa: BLE001
                connection.rollback()
                say(row=entry["row"], error=explain(error))


def parameters(client):
    for entry in load_types():
        sql_type = entry["type"]
        try:
            with client.connect(**client.options(sql_type)) as connection:
                cursor = connection.cursor()
                cursor.execute(f"CREATE TABLE dbo.by_parameter (n int, v {sql_type} NULL)")
                for n, text in enumerate([*entry["values"], None]):
                    value = client.parameter(sql_type, to_python(sql_type, text))
                    cursor.execute(f"INSERT INTO dbo.by_parameter VALUES ({client.mark}, {client.mark})", (n, value))
                rows = rows_of(cursor, "SELECT v FROM dbo.by_parameter ORDER BY n")
                say(row=entry["row"], values=[from_python(sql_type, value) for (value,) in rows])
                # the table goes with the transaction
                connection.rollback()
        except Exception as error:  # noqa: BLE001
            say(row=entry["row"], error=explain(error))


def main():
    name, server, command, *rest = sys.argv[1:]
    client = CLIENTS[name](json.loads(Path(server).read_text(encoding="utf-8")))
    if command == "capabilities":
        Capabilities(client).run()
    elif command == "parameters":
        parameters(client)
    elif command == "bulk":
        bulk(client, name)
    else:
        read(client, rest[0])


if __name__ == "__main__":
    main()
