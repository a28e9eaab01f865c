"""What a client cannot do, whatever the server: each with its source. `matrix.py` fails where one no longer shows."""

import datetime
import re
from dataclasses import dataclass
from typing import Callable, Tuple

from canonical import kind

# (client, cell): reason and source
CAPABILITIES = {}


@dataclass(frozen=True)
class Limit:
    steps: Tuple[str, ...]
    types: str
    reason: str
    # both what was written and what was read are brought to what is left of them; None where there is nothing
    loss: "Callable[[str, str], object] | None" = None

    @property
    def is_error(self):
        return self.loss is None

    def applies(self, step, sql_type):
        return step in self.steps and re.fullmatch(self.types, sql_type) is not None

    def __str__(self):
        return self.reason


LIMITS = {}


def microseconds(sql_type, text):
    """Without the seventh digit of a second."""
    return re.sub(r"(\.\d{6})\d", r"\1", text)


def double(sql_type, text):
    return float(text)


def nothing(sql_type, text):
    """What arrives is another value, or none."""
    return ""


def utc(sql_type, text):
    """The moment without its offset."""
    moment, offset = text.rsplit(" ", 1)
    seconds, _, fraction = moment.partition(".")
    minutes = int(offset[:3]) * 60 + int(offset[0] + offset[4:])
    at = datetime.datetime.fromisoformat(seconds) - datetime.timedelta(minutes=minutes)
    return f"{at.isoformat(' ')}.{fraction}"


PYTHON_TICKS = Limit(
    ("parameter", "bulk", "read"), r"(time|datetime2|datetimeoffset)\(7\)",
    "Python's datetime has microseconds: docs.python.org/3/library/datetime.html, datetime.resolution", microseconds,
)  # fmt: skip

NO_TLS_OPTION = {
    ("mssql-python", "login, TLS off"): "the ODBC driver encrypts the login even with Encrypt=no: Microsoft Learn, "
    "'DSN and connection string keywords', Encrypt",
    ("pymssql", "login, TLS strict"): "no such value of encryption: pymssql 2.4.6, _mssql.pyx, MSSQLConnection.__init__",
    ("python-tds", "login, TLS strict"): "no TDS 8: python-tds 1.17.1, pytds/__init__.py, connect() has cafile and enc_login_only alone",
    ("tedious", "login, TLS login only"): "encrypt is true, false or 'strict': tedious 19.2.2, lib/connection.js, ENCRYPT_NOT_SUP for false",
}
CAPABILITIES.update(NO_TLS_OPTION)
NO_NUMBER = "an exception has a message and no number: mssql-python 1.16.0, exceptions.py, Exception.__init__ (the messages are compared)"
CAPABILITIES[("mssql-python", "error numbers")] = NO_NUMBER
CAPABILITIES[("mssql-python", "login refused (18456, 4060)")] = NO_NUMBER
CAPABILITIES[("tedious", "login refused (18456, 4060)")] = (
    "a failed login is a ConnectionError without a number: tedious 19.2.2, lib/errors.js (the messages are compared)"
)

CAPABILITIES[("tedious", "attention")] = (
    "the connection is of no more use where the acknowledgement ends the interrupted answer: tedious 19.2.2, lib/connection.js, "
    "SENT_CLIENT_REQUEST, waits for a message of its own"
)

UTF8 = r"varchar\(12\) COLLATE .*"
LIMITS["mssql-python"] = [
    PYTHON_TICKS,
    Limit(("parameter",), "date", "a date before 1753 is refused by the client: mssql-python 1.16.0, ddbc_bindings, "
          "'Date out of range for SQL Server (1753-9999)'"),
    Limit(("bulk",), "smallmoney", "announces MONEYN and sends no length where the column is NOT NULL, against MS-TDS 2.2.4.2: "
          "mssql-python-rs 0.3.0, seen on the wire"),
    Limit(("bulk",), UTF8, "sends Windows-1252 under a collation whose fUTF8 is set, against MS-TDS 2.2.5.1.2: "
          "mssql-python-rs 0.3.0, seen on the wire"),
    Limit(("bulk",), r"datetimeoffset\(\d\)", "sends the local time where MS-TDS 2.2.5.5.1.8 has UTC: mssql-python-rs 0.3.0, "
          "seen on the wire", nothing),
]
LIMITS["pymssql"] = [
    PYTHON_TICKS,
    Limit(("bulk",), r"decimal\(28,10\)|decimal\(38,\d+\)", "its decimals have a precision of 33 at most: pymssql 2.4.6, "
          "_mssql.pyx, convert_python_value"),
    Limit(("bulk",), "money|smallmoney", "writes past its buffer for a decimal, and crashes: pymssql 2.4.6, _mssql.pyx, "
          "convert_python_value, sizeof(DBDECIMAL)"),
    Limit(("bulk",), "date", "wants a datetime for a date: pymssql 2.4.6, _mssql.pyx, convert_python_value"),
    Limit(("bulk",), r"time\(\d\)|uniqueidentifier", "has no type for it in a bulk load: pymssql 2.4.6, _mssql.pyx, py2db_type"),
    Limit(("bulk",), r"varchar.*|nvarchar.*|varbinary.*", "an empty value is a NULL in DB-Library: Microsoft Learn, bcp_bind, "
          "'cbData 0'"),
    Limit(("bulk",), r"char\(3\)", "text for char and varchar is sent in UTF-8, whatever the column's code page: pymssql 2.4.6, "
          "_mssql.pyx, bcp_sendrow", nothing),
    Limit(("bulk",), r"(datetime2|datetimeoffset)\(\d\)", "a moment goes through a text with three digits of a second and no offset, and "
          "year 1 becomes 2001: pymssql 2.4.6, _mssql.pyx, convert_python_value", nothing),
]
LIMITS["python-tds"] = [
    PYTHON_TICKS,
    Limit(("bulk",), UTF8, "varchar is sent in the database's code page: python-tds 1.17.1, pytds/tds_types.py, VarCharSerializer"),
    Limit(("parameter", "bulk"), r"binary\(2\)", "its BinaryType cannot be sent: python-tds 1.17.1, pytds/tds_types.py, "
          "SerializerFactory makes a VarBinarySerializer without its size"),
    Limit(("read",), UTF8, "reads varchar by its locale's code page and ignores fUTF8: python-tds 1.17.1, pytds/collate.py, "
          "Collation.get_codec", nothing),
]
LIMITS["tedious"] = [
    Limit(("parameter", "bulk"), r"decimal\(18,6\)|decimal\(28,10\)|decimal\(38,\d+\)|money", "numbers are doubles of 64 bits, and a larger one "
          "is refused: tedious 19.2.2, lib/data-types/decimal.js and money.js"),
    Limit(("read",), r"decimal\(.*|money", "numbers are doubles: tedious 19.2.2, lib/value-parser.js, readNumeric and readMoney", double),
    Limit(("parameter", "bulk", "read"), r"datetimeoffset\(\d\)", "a Date has no offset: tedious 19.2.2, lib/value-parser.js, "
          "readDateTimeOffset", utc),
    Limit(("bulk",), "xml", "its Xml type throws 'not implemented': tedious 19.2.2, lib/data-types/xml.js"),
    Limit(("parameter", "bulk"), UTF8, "varchar is sent in the database's code page: tedious 19.2.2, lib/data-types/varchar.js, validate",
          nothing),
]
