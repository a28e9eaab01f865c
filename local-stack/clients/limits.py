"""What a client cannot do, whatever the server: each with its source. `matrix.py` fails where one no longer shows."""

import datetime
import re
from dataclasses import dataclass
from typing import Callable, Tuple

from canonical import kind, numbers

# (client, cell): reason and source
CAPABILITIES = {}


@dataclass(frozen=True)
class Limit:
    steps: Tuple[str, ...]
    rows: str
    reason: str
    # both what was written and what was read are brought to what is left of them
    loss: "Callable[[str, str], object] | None" = None
    # what arrives in the place of what was written
    becomes: "Callable[[str, str], str | None] | None" = None

    @property
    def is_error(self):
        """The client refuses, or is refused."""
        return self.loss is None and self.becomes is None

    def applies(self, step, row):
        return step in self.steps and re.fullmatch(self.rows, row) is not None


LIMITS = {}
# rows of the bulk loads that no two clients read as a third has loaded them
FEW_READERS = {}


def microseconds(sql_type, text):
    """Without the seventh digit of a second."""
    return re.sub(r"(\.\d{6})\d", r"\g<1>0", text)


def double(sql_type, text):
    return float(text)


def moment_and_offset(text):
    moment, offset = text.rsplit(" ", 1)
    minutes = int(offset[:3]) * 60 + int(offset[0] + offset[4:])
    return moment, datetime.timedelta(minutes=minutes), offset


def shifted(moment, by):
    """A moment as text, later by some minutes."""
    seconds, point, fraction = moment.partition(".")
    return f"{(datetime.datetime.fromisoformat(seconds) + by).isoformat(' ')}{point}{fraction}"


def utc(sql_type, text):
    """The moment without its offset."""
    moment, offset, _ = moment_and_offset(text)
    return f"{shifted(moment, -offset)} +00:00"


def local_as_utc(sql_type, text):
    moment, by, offset = moment_and_offset(text)
    return f"{shifted(moment, by)} {offset}"


def through_milliseconds(sql_type, text):
    """A moment of which its text keeps three digits of a second, and no offset; FreeTDS completes a short year."""
    moment = text[:-7] if kind(sql_type) == "datetimeoffset" else text
    offset = " +00:00" if kind(sql_type) == "datetimeoffset" else ""
    seconds, point, fraction = moment.partition(".")
    seconds = re.sub("^00(?=[0-4][0-9])", "20", seconds)
    return f"{seconds}{point}{fraction[:3]:0<{len(fraction)}}{offset}"


def utf8_as_1252(sql_type, text):
    return text.encode().decode("cp1252")


def cut_utf8_as_1252(sql_type, text):
    """What fits into the column of it."""
    size = numbers(sql_type)
    text = utf8_as_1252(sql_type, text)
    text = text[: size[0]] if size else text
    return text if kind(sql_type) == "char" else without_blanks(sql_type, text)


def without_blanks(sql_type, text):
    return text[:1] + text[1:].rstrip(" ")


def only_1252(sql_type, text):
    """With a question mark for each unit of UTF-16 that the code page has not."""
    units = text.encode("utf-16-le")
    characters = [units[at : at + 2].decode("utf-16-le", "replace") for at in range(0, len(units), 2)]
    return "".join(character.encode("cp1252", "replace").decode("cp1252") for character in characters)


def zero(sql_type, text):
    return "0.0"


PYTHON_TICKS = Limit(
    ("parameter", "bulk", "read"), ".*, seventh digit",
    "Python's datetime has microseconds: docs.python.org/3/library/datetime.html, datetime.resolution", microseconds,
)  # fmt: skip
FLOAT_PARAMETER = "a parameter is a float, and a conversion to real makes a subnormal number 0: "

CAPABILITIES.update({
    ("mssql-python", "login, TLS off"): "the ODBC driver encrypts the login even with Encrypt=no: Microsoft Learn, "
    "'DSN and connection string keywords', Encrypt",
    ("pymssql", "login, TLS strict"): "no such value of encryption: pymssql 2.4.6, _mssql.pyx, TDS_ENCRYPTION_OPTIONS",
    ("python-tds", "login, TLS strict"): "no TDS 8: python-tds 1.17.1, pytds/__init__.py, connect() has cafile and enc_login_only alone",
    ("tedious", "login, TLS login only"): "encrypt is true, false or 'strict', and false sends ENCRYPT_NOT_SUP: tedious 19.2.2, "
    "lib/prelogin-payload.js, createEncryptionOption",
    ("tedious", "login refused (18456, 4060)"): "a failed login is a ConnectionError without a number: tedious 19.2.2, lib/errors.js "
    "(the messages are compared)",
    ("tiberius", "attention"): "cancel_query ends with the message that was interrupted, and the acknowledgement is in the next one: "
    "tiberius 0.13.0, src/tds/stream/token.rs, try_unfold and flush_done_attention",
    ("tiberius", "savepoint"): "save_transaction gives the length of a name in characters, against MS-TDS 2.2.6.9, which has bytes, as "
    "dotnet/SqlClient, TdsParser.cs, TdsExecuteTransactionManagerRequest: tiberius 0.13.0, src/tds/codec/transaction_manager.rs",
})  # fmt: skip
NO_NUMBER = "an exception has a message and no number: mssql-python 1.16.0, exceptions.py, Exception.__init__ (the messages are compared)"
CAPABILITIES[("mssql-python", "error numbers")] = NO_NUMBER
CAPABILITIES[("mssql-python", "login refused (18456, 4060)")] = NO_NUMBER

FEW_READERS[PYTHON_TICKS.rows] = "the three clients of Python have six digits, and a Date of tedious has no offset"
UTF8 = r"varchar\(12\) COLLATE .*, beyond ASCII"
FEW_READERS[UTF8] = "no client loads it; by parameter two write it, and read it"
LIMITS["mssql-python"] = [
    PYTHON_TICKS,
    Limit(("parameter",), "date, before 1753", "refuses it: mssql-python 1.16.0, pybind/ddbc_bindings.cpp, "
          "'Date out of range for SQL Server (1753-9999)'"),
    Limit(("parameter",), "real, subnormal", FLOAT_PARAMETER + "mssql-python 1.16.0, cursor.py, _map_sql_type", becomes=zero),
    Limit(("bulk",), "smallmoney", "sends no length where the column is NOT NULL, and has announced MONEYN, which has one (MS-TDS 2.2.5.4.2): "
          "github.com/microsoft/mssql-rs, mssql-tds/src/datatypes/tds_value_serializer.rs, serialize_smallmoney beside serialize_money"),
    Limit(("bulk",), UTF8, "encodes for a collation's locale, and does not look at its fUTF8: github.com/microsoft/mssql-rs, "
          "mssql-tds/src/datatypes/tds_value_serializer.rs, lcid_to_encoding"),
    Limit(("bulk",), r"datetimeoffset\(.*", "sends the local time where MS-TDS 2.2.5.5.1.8 has UTC: github.com/microsoft/mssql-rs, "
          "mssql-py-core/src/types.rs, SqlDateTimeOffset", becomes=local_as_utc),
]
UTF8_TEXT = "text goes out in UTF-8 whatever the code page of a char or varchar: pymssql 2.4.6, _mssql.pyx, convert_python_value"
LIMITS["pymssql"] = [
    PYTHON_TICKS,
    Limit(("parameter",), "(real|float), negative zero", "a parameter is written into the text, where -0.0 is a decimal, and has no sign: "
          "pymssql 2.4.6, _mssql.pyx, _quote_simple_value", becomes=zero),
    Limit(("parameter",), "(real|float), subnormal", "a parameter is written into the text, where SQL Server takes a subnormal number for 0: "
          "pymssql 2.4.6, _mssql.pyx, _quote_simple_value", becomes=zero),
    Limit(("bulk",), r"decimal\(28,10\)", "a small decimal goes through Python's text 1E-10, which FreeTDS does not take: pymssql 2.4.6, "
          "_mssql.pyx, convert_python_value"),
    Limit(("bulk",), r"decimal\(38,\d+\)", "its decimals have a precision of 33: pymssql 2.4.6, _mssql.pyx, convert_python_value"),
    Limit(("bulk",), "money|smallmoney", "the client's process aborts ('free(): invalid next size') before it sends a row: pymssql 2.4.6 with "
          "its FreeTDS, by experiment"),
    Limit(("bulk",), "date(, before 1753)?", "wants a datetime for a date: pymssql 2.4.6, _mssql.pyx, DBTYPES and convert_python_value"),
    Limit(("bulk",), r"time\(.*|uniqueidentifier", "has no type for it in a bulk load: pymssql 2.4.6, _mssql.pyx, DBTYPES"),
    Limit(("bulk",), ".*, empty", "no bytes are a NULL: FreeTDS, src/dblib/bcp.c, _bcp_get_col_data, column_bindlen == 0"),
    Limit(("bulk",), r"n?varchar\([45]\)|varchar\(max\)|varchar\(12\) COLLATE \w+", "trailing blanks are cut: FreeTDS, src/dblib/bcp.c, rtrim_bcpcol",
          becomes=without_blanks),
    Limit(("bulk",), ".*, code page 1252", UTF8_TEXT, becomes=cut_utf8_as_1252),
    Limit(("bulk",), UTF8, UTF8_TEXT),
    Limit(("bulk",), r"(datetime2|datetimeoffset)\(.*", "a moment goes through a text with three digits of a second and no offset, and FreeTDS "
          "takes year 1 for 2001: pymssql 2.4.6, _mssql.pyx, DBTYPES and convert_python_value; FreeTDS, src/tds/convert.c, store_year",
          becomes=through_milliseconds),
]  # fmt: skip
LIMITS["python-tds"] = [
    PYTHON_TICKS,
    Limit(("parameter",), "real, subnormal", FLOAT_PARAMETER + "python-tds 1.17.1, pytds/tds_types.py, TdsTypeInferrer", becomes=zero),
    Limit(("bulk",), UTF8, "varchar is sent in a code page, that of its locale: python-tds 1.17.1, pytds/tds_types.py, VarCharSerializer"),
    Limit(("parameter", "bulk"), r"binary\(2\)", "its BinaryType cannot be sent: python-tds 1.17.1, pytds/tds_types.py, "
          "SerializerFactory makes a VarBinarySerializer without its size"),
    Limit(("read",), UTF8, "reads varchar by its locale's code page, and does not know fUTF8: python-tds 1.17.1, pytds/collate.py, "
          "Collation.get_charset", becomes=utf8_as_1252),
]  # fmt: skip
LIMITS["tedious"] = [
    Limit(("parameter", "bulk"), "(real|float), negative zero", "a number goes through parseFloat, for which -0 is the text 0: tedious 19.2.2, "
          "lib/data-types/float.js and real.js", becomes=zero),
    Limit(("parameter", "bulk"), r"decimal\((18|28|38),\d+\)|money", "numbers are doubles of 64 bits, and a longer one is rounded or refused: "
          "tedious 19.2.2, lib/data-types/decimal.js and money.js"),
    Limit(("read",), r"decimal\((18|28|38),\d+\)|money", "numbers are doubles: tedious 19.2.2, lib/value-parser.js, readNumeric and readMoney",
          double),
    Limit(("parameter", "bulk", "read"), r"datetimeoffset\(.*", "a Date has no offset: tedious 19.2.2, lib/value-parser.js, "
          "readDateTimeOffset", utc),
    Limit(("bulk",), "xml", "its Xml type throws 'not implemented': tedious 19.2.2, lib/data-types/xml.js"),
    Limit(("parameter", "bulk"), UTF8, "varchar is sent in the database's code page: tedious 19.2.2, lib/data-types/varchar.js, validate",
          becomes=only_1252),
]  # fmt: skip
LIMITS["tiberius"] = [
    Limit(("parameter",), r"decimal\(38,38\)", "announces a precision of 39 for a number below 1: tiberius 0.13.0, src/tds/numeric.rs, "
          "Numeric::precision"),
    Limit(("read",), "money", "money is read as a double: tiberius 0.13.0, src/tds/codec/column_data/money.rs", double),
    Limit(("bulk",), r"nvarchar\(4000\)", "announces nvarchar(max) for more than 2,000 characters, and sends a length of two bytes, which SQL Server "
          "does not take (github.com/tiberius-rs/tiberius/issues/322): tiberius 0.13.0, src/tds/codec/token/token_col_metadata.rs"),
    Limit(("bulk",), "xml", "sends xml as such, against MS-TDS 2.2.6.1: tiberius 0.13.0, src/client.rs, bulk_insert_with_options takes the "
          "types that a SELECT shows"),
    Limit(("bulk",), r".*\(max\), long", "takes 65,535 bytes for the longest: tiberius 0.13.0, src/tds/codec/column_data.rs, "
          "'exceed column limit'"),
    Limit(("bulk",), UTF8, "encodes for a collation's locale, and does not know fUTF8: tiberius 0.13.0, src/tds/collation.rs, "
          "Collation::encoding"),
    Limit(("read",), UTF8, "decodes by a collation's locale, and does not know fUTF8: tiberius 0.13.0, src/tds/collation.rs, "
          "Collation::encoding", becomes=utf8_as_1252),
]  # fmt: skip
