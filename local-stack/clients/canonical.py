"""Values as text and as Python's: one form that every client's values are brought into, to be compared."""

import datetime
import decimal
import json
import re
import uuid
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
APPROXIMATE = ("real", "float")


def load_types():
    """Types with values at their edges. `{9000}x` stands for nine thousand of what follows.

    A row of the matrix is a type, or a part of its values that some client cannot do, so that the rest is seen.
    """
    types = json.loads((FOLDER / "values.json").read_text(encoding="utf-8"))
    for entry in types:
        entry.setdefault("row", entry["type"])
        entry["values"] = [expand(value) for value in entry["values"]]
    return types


def expand(text):
    match = re.fullmatch(r"\{(\d+)\}(.*)", text)
    return match[2] * int(match[1]) if match else text


def kind(sql_type):
    return re.match(r"\w+", sql_type)[0]


def numbers(sql_type):
    """What stands between the parentheses."""
    match = re.match(r"\w+\(([\d,]+)\)", sql_type)
    return [int(number) for number in match[1].split(",")] if match else []


def to_python(sql_type, text):
    if text is None:
        return None
    name = kind(sql_type)
    if name == "bit":
        return text == "1"
    if name in ("tinyint", "smallint", "int", "bigint"):
        return int(text)
    if name in APPROXIMATE:
        return float(text)
    if name in ("decimal", "money", "smallmoney"):
        return decimal.Decimal(text)
    if name == "date":
        return datetime.date.fromisoformat(text)
    if name == "time":
        return datetime.time.fromisoformat(pad_fraction(text))
    if name in ("datetime2", "datetime"):
        return datetime.datetime.fromisoformat(pad_fraction(text))
    if name == "smalldatetime":
        return datetime.datetime.fromisoformat(text + ":00")
    if name == "datetimeoffset":
        moment, offset = text.rsplit(" ", 1)
        return datetime.datetime.fromisoformat(pad_fraction(moment) + offset)
    if name in ("binary", "varbinary"):
        return bytes.fromhex(text)
    if name == "uniqueidentifier":
        return uuid.UUID(text)
    return text


def pad_fraction(text):
    """With six digits of a second, which is all that Python's types keep: the seventh is cut off."""
    whole, _, fraction = text.partition(".")
    return f"{whole}.{fraction[:6]:0<6}"


def from_python(sql_type, value):
    if value is None:
        return None
    name = kind(sql_type)
    if name == "bit":
        return str(int(value))
    if name in APPROXIMATE:
        return repr(float(value))
    if name in ("money", "smallmoney"):
        return f"{value:.4f}"
    if name == "decimal":
        return f"{value:.{numbers(sql_type)[1]}f}"
    if name == "date":
        return value.isoformat()[:10]
    if name == "time":
        return cut_fraction(value.strftime("%H:%M:%S.%f"), numbers(sql_type)[0])
    if name == "datetime2":
        return cut_fraction(plain(value), numbers(sql_type)[0])
    if name == "datetime":
        # a three-hundredth of a second, as SQL Server shows it: with three digits
        return plain(value + datetime.timedelta(microseconds=400))[:23]
    if name == "smalldatetime":
        return plain(value)[:16]
    if name == "datetimeoffset":
        minutes = int(value.utcoffset().total_seconds()) // 60
        sign, minutes = ("-", -minutes) if minutes < 0 else ("+", minutes)
        moment = cut_fraction(plain(value), numbers(sql_type)[0])
        return f"{moment} {sign}{minutes // 60:02}:{minutes % 60:02}"
    if name in ("binary", "varbinary"):
        return bytes(value).hex()
    if name == "uniqueidentifier":
        return str(value).upper()
    return str(value)


def plain(moment):
    """Python's strftime writes the first millennium's years without their zeros."""
    return f"{moment.year:04}-" + moment.strftime("%m-%d %H:%M:%S.%f")


def cut_fraction(text, scale):
    """To the digits that the type has; a seventh is not there."""
    whole, fraction = text.split(".")
    return whole if scale == 0 else f"{whole}.{(fraction + '0')[:scale]}"
