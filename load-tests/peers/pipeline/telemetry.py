"""From an event to a row of the table: the columns of schemas/telemetry.toml, in its order."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal, DecimalException
from typing import Annotated
from uuid import UUID

import msgspec

COLUMNS = (
    "event_id", "device", "site", "sequence", "temperature", "humidity", "ok", "recorded_at", "message",
    "stream_sequence",
)  # fmt: skip

Row = tuple[UUID, str, str | None, int, float | None, Decimal | None, bool, datetime, str | None, int]

LONGEST_DEVICE = 64
LONGEST_SITE = 32
LONGEST_MESSAGE = 200
# varchar holds what the code page of SQL Server's default collation has
CODE_PAGE = "cp1252"
RFC_3339 = r"^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)?\Z"
# by the grammar of JSON: Decimal takes more
NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?\Z"
HUNDREDTH = Decimal("0.01")
THOUSAND = Decimal(1000)


class Malformed(Exception):
    """An event that is not a row of this table."""


class Device(msgspec.Struct, gc=False):
    """What an event says about where it comes from."""

    id: Annotated[str, msgspec.Meta(max_length=LONGEST_DEVICE)]
    site: Annotated[str, msgspec.Meta(max_length=LONGEST_SITE)] | None = None


class Event(msgspec.Struct, gc=False):
    """The payload. msgspec reads and checks it in one go: half the time of orjson with conversions in Python."""

    event_id: UUID
    device: Device
    sequence: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    ok: bool
    recorded_at: Annotated[str, msgspec.Meta(pattern=RFC_3339)]
    temperature: float | None = None
    humidity: None | float | Annotated[str, msgspec.Meta(pattern=NUMBER)] = None
    message: Annotated[str, msgspec.Meta(max_length=LONGEST_MESSAGE)] | None = None


decode = msgspec.json.Decoder(Event).decode


def row(payload: bytes, stream_sequence: int) -> Row:
    """The row of one event, or Malformed."""
    try:
        event = decode(payload)
        device, site, message = event.device.id, event.device.site, event.message
        humidity = None if event.humidity is None else to_decimal(str(event.humidity))
        if not device.isascii():
            check_length(device, LONGEST_DEVICE)
        if message is not None and not message.isascii():
            check_length(message, LONGEST_MESSAGE)
        if site is not None and not site.isascii():
            site.encode(CODE_PAGE)
        return (
            event.event_id, device, site, event.sequence, event.temperature, humidity, event.ok,
            to_milliseconds(event.recorded_at), message, stream_sequence,
        )  # fmt: skip
    except (msgspec.MsgspecError, DecimalException, ValueError, OverflowError) as error:
        raise Malformed(str(error)) from error


def check_length(text: str, longest: int) -> None:
    """nvarchar counts UTF-16 units, and a character beyond the basic plane is two."""
    if len(text.encode("utf-16-le")) > 2 * longest:
        raise Malformed("text is longer than its column")


def to_decimal(text: str) -> Decimal:
    """With two digits behind the point, where it has no others than zeros."""
    number = Decimal(text)
    hundredths = number.quantize(HUNDREDTH)
    if number != hundredths or not -THOUSAND < number < THOUSAND:
        raise Malformed("a number does not fit into decimal(5,2)")
    return hundredths


def to_milliseconds(text: str) -> datetime:
    """In UTC without saying so, as datetime2(3) holds it, rounded half up as SQL Server would.

    msgspec rounds to microseconds by itself, and to round twice is to round wrongly. This cuts.
    """
    # `z` is a zone, too, which Python does not know
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is not None:
        moment = (moment if moment.tzinfo is timezone.utc else moment.astimezone(timezone.utc)).replace(tzinfo=None)
    excess = moment.microsecond % 1000
    if excess:
        moment += timedelta(microseconds=1000 - excess if excess >= 500 else -excess)
    return moment
