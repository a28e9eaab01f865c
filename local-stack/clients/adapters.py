"""The Python clients, each behind the same few methods."""

import re

from canonical import kind, numbers


class Client:
    """A DB-API module. `mark` stands for a parameter in a statement."""

    mark = "%s"
    # what its connect() takes for each way to use TLS
    tls = {}
    # what it imports, sooner or later
    modules = ()

    def __init__(self, server):
        self.server = server

    def connect(self, tls="on", **changed):
        raise NotImplementedError

    def number(self, error):
        """The number of SQL Server's error, `None` where the client does not tell it."""
        raise NotImplementedError

    def bulk(self, connection, table, sql_type, rows):
        """Loads rows of (int, sql_type, sql_type) by the client's own means."""
        raise NotImplementedError

    def parameter(self, sql_type, value):
        """A value as this client wants it for a parameter."""
        return value

    def options(self, sql_type):
        """What connect() needs for parameters of a type."""
        return {}

    def cancel(self, connection):
        """Runs a statement of ten seconds, and takes it back after one."""
        raise NotImplementedError


class MssqlPython(Client):
    mark = "?"
    modules = ("mssql_python", "mssql_py_core")
    tls = {"on": "yes", "login only": "no", "strict": "strict"}

    def connect(self, tls="on", **changed):
        import mssql_python

        at = {**self.server, **changed}
        return mssql_python.connect(
            f"Server=localhost,{at['port']};Database={at['database']};UID={at['user']};PWD={at['password']};"
            f"Encrypt={self.tls[tls]};TrustServerCertificate=no"
        )

    def number(self, error):
        # the bulk copy alone names it
        match = re.search(r"Sql Error: (\d+):", str(error))
        return int(match[1]) if match else None

    def bulk(self, connection, table, sql_type, rows):
        cursor = connection.cursor()
        return cursor.bulkcopy(table, rows, keep_nulls=True)["rows_copied"]

    def cancel(self, connection):
        connection.timeout = 1
        connection.cursor().execute("WAITFOR DELAY '00:00:10'")


class Pymssql(Client):
    modules = ("pymssql",)
    tls = {"on": "require", "login only": "request", "off": "off"}

    def connect(self, tls="on", **changed):
        import pymssql

        at = {**self.server, **changed}
        return pymssql.connect(
            server="localhost", port=str(at["port"]), user=at["user"], password=at["password"],
            database=at["database"], encryption=self.tls[tls], timeout=changed.get("timeout", 0), charset="UTF-8",
            tds_version="7.4", use_datetime2=at.get("use_datetime2", True),
        )  # fmt: skip

    def options(self, sql_type):
        # it writes a parameter into the text, with six digits of a second or with three
        return {"use_datetime2": kind(sql_type) not in ("datetime", "smalldatetime")}

    def parameter(self, sql_type, value):
        return bytearray(value) if isinstance(value, bytes) else value

    def number(self, error):
        # a failed login is told by FreeTDS' own errors after the server's
        match = re.match(r"\((\d+),", str(error))
        return int(match[1]) if match else None

    def bulk(self, connection, table, sql_type, rows):
        connection.bulk_copy(table, rows)
        connection.commit()
        return len(rows)

    def cancel(self, connection):
        with self.connect(timeout=1) as impatient:
            impatient.cursor().execute("WAITFOR DELAY '00:00:10'")


class PythonTds(Client):
    modules = ("pytds", "pytds.tls", "OpenSSL.SSL")
    tls = {"on": {}, "login only": {"enc_login_only": True}, "off": {"cafile": None}}

    def connect(self, tls="on", **changed):
        import pytds

        at = {**self.server, **changed}
        options = {"cafile": at["ca_file"], "timeout": at.get("timeout"), **self.tls[tls]}
        return pytds.connect(
            dsn="localhost", port=at["port"], user=at["user"], password=at["password"], database=at["database"],
            disable_connect_retry=True, **options,
        )  # fmt: skip

    def parameter(self, sql_type, value):
        from pytds.tds_base import Column

        # without a type it sends bytes and NULL as text
        if kind(sql_type) in ("binary", "varbinary"):
            return Column(type=self.column_type(sql_type), value=value)
        return value

    def number(self, error):
        return getattr(error, "msg_no", None)

    def bulk(self, connection, table, sql_type, rows):
        from pytds.tds_base import Column
        from pytds.tds_types import IntType

        # a load has no xml: MS-TDS 2.2.6.1
        sql_type = "nvarchar(max)" if sql_type == "xml" else sql_type
        columns = [
            Column("n", type=IntType(), flags=0),
            Column("o", type=self.column_type(sql_type), flags=Column.fNullable),
            Column("r", type=self.column_type(sql_type), flags=0),
        ]
        cursor = connection.cursor()
        cursor.copy_to(table_or_view=table.split(".")[1], schema="dbo", columns=columns, data=rows, keep_nulls=True)
        connection.commit()
        return len(rows)

    @staticmethod
    def column_type(sql_type):
        from pytds import tds_types as t

        name, arguments = kind(sql_type), numbers(sql_type)
        if "(max)" in sql_type:
            return {"varchar": t.VarCharMaxType, "nvarchar": t.NVarCharMaxType, "varbinary": t.VarBinaryMaxType}[name]()
        by_name = {
            "bit": t.BitType, "tinyint": t.TinyIntType, "smallint": t.SmallIntType, "int": t.IntType,
            "bigint": t.BigIntType, "real": t.RealType, "float": t.FloatType, "decimal": t.DecimalType,
            "money": t.MoneyType, "smallmoney": t.SmallMoneyType, "date": t.DateType, "time": t.TimeType,
            "datetime2": t.DateTime2Type, "datetimeoffset": t.DateTimeOffsetType, "datetime": t.DateTimeType,
            "smalldatetime": t.SmallDateTimeType, "char": t.CharType, "varchar": t.VarCharType, "nchar": t.NCharType,
            "nvarchar": t.NVarCharType, "binary": t.BinaryType, "varbinary": t.VarBinaryType,
            "uniqueidentifier": t.UniqueIdentifierType, "xml": t.XmlType,
        }  # fmt: skip
        return by_name[name](*arguments)

    def cancel(self, connection):
        with self.connect(timeout=1) as impatient:
            impatient.cursor().execute("WAITFOR DELAY '00:00:10'")


CLIENTS = {"mssql-python": MssqlPython, "pymssql": Pymssql, "python-tds": PythonTds}
