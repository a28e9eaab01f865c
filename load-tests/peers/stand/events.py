"""Events like the demo's, each made from the row that it has to become, and some that are none."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

SITES = ["rotterdam", "gdansk", "porto", "tallinn", "genoa", "bergen"]
# the first four are the demo's
MESSAGES = [
    "door open", "filter change due", "battery low", '"restart" after 12 s – ok',
    "Ω😀", "", "x" * 200, "ü" * 200, "😀" * 100,
]  # fmt: skip
START = datetime(2026, 3, 1, 7, 59, 58)
OFFSETS = [None, timedelta(), timedelta(hours=2), timedelta(hours=-5, minutes=-30)]
# what no integer of a double loses digits of
LARGEST_SEQUENCE = 2**53 - 1


class Made(NamedTuple):
    """An event, and its row without the position in the stream; None where it is malformed."""

    subject: str
    payload: bytes
    row: tuple[Any, ...] | None


def plain(count: int, seed: int) -> Iterator[Made]:
    """Good events of the demo's shape and size."""
    chance = random.Random(seed)
    for number in range(1, count + 1):
        event_id = UUID(int=chance.getrandbits(128))
        site = chance.choice(SITES)
        device = chance.randrange(5_000)
        temperature = (chance.randrange(6_000) - 2_000) / 100
        humidity = Decimal(chance.randrange(10_000)).scaleb(-2)
        ok = chance.randrange(100) > 0
        moment = START + timedelta(milliseconds=number)
        written_moment = moment.isoformat(timespec="microseconds")
        message = MESSAGES[index] if (index := chance.randrange(20)) < 4 else None
        payload = (
            f'{{"event_id":"{event_id}","device":{{"id":"device-{device:04}","site":"{site}","firmware":"3.1.{device % 10}"}},'
            f'"sequence":{number},"temperature":{temperature:.2f},"humidity":"{humidity:.2f}","ok":{json.dumps(ok)},'
            # nine digits, as the demo's clock has them
            f'"recorded_at":"{written_moment}{chance.randrange(500):03}Z",'
            f'"message":{json.dumps(message, ensure_ascii=False)}}}'
        )
        row = (event_id, f"device-{device:04}", site, number, temperature, humidity, ok, moment, message)
        yield Made(f"events.{site}.telemetry", payload.encode(), row)


def varied(count: int, malformed_every: int, seed: int) -> Iterator[Made]:
    """Events with all that the columns can hold, and among them malformed ones of every kind."""
    chance = random.Random(seed)
    kinds = malformed(chance)
    for number in range(1, count + 1):
        if number % malformed_every == 0:
            yield Made("events.porto.telemetry", kinds[number // malformed_every % len(kinds)], None)
        else:
            yield good(chance, number)


def good(chance: random.Random, number: int) -> Made:
    """One event, written in one of the forms that mean its row."""
    event_id = UUID(int=chance.getrandbits(128))
    device = chance.choice([f"device-{chance.randrange(5_000):04}", "gerät-😀", "d" * 64])
    site = chance.choice([*SITES, "malmö", None])
    sequence = chance.choice([number, 0, -number, LARGEST_SEQUENCE, -LARGEST_SEQUENCE])
    temperature = chance.choice([None, 0.0, -20.25, chance.uniform(-40, 60), 1e-9, 1.5e300])
    humidity = chance.choice([None, Decimal(chance.randrange(-99_999, 100_000)).scaleb(-2), Decimal("999.99"), Decimal("0.00")])
    ok = chance.random() < 0.9
    moment, recorded_at = timestamp(chance, number)
    message = chance.choice([None, *MESSAGES])
    event: dict[str, Any] = {
        "event_id": str(event_id).upper() if chance.random() < 0.2 else str(event_id),
        "device": {"id": device, "firmware": "3.1.2"},
        "sequence": sequence,
        "ok": ok,
        "recorded_at": recorded_at,
    }
    # NULL is written, or left out
    for part, key, value in [
        (event["device"], "site", site), (event, "temperature", temperature), (event, "message", message),
        (event, "humidity", None if humidity is None else written(chance, humidity)),
    ]:  # fmt: skip
        if value is not None or chance.random() < 0.5:
            part[key] = value
    if chance.random() < 0.1:
        event = {"extra": [{"sequence": "no"}, None], **event}
    payload = json.dumps(event, ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, None, None, 1])).encode()
    row = (event_id, device, site, sequence, temperature, humidity, ok, moment, message)
    return Made("events.somewhere.telemetry", payload, row)


def written(chance: random.Random, humidity: Decimal) -> Any:
    """As text of two or three digits behind the point, or as a number."""
    return chance.choice([f"{humidity:.2f}", f"{humidity:.2f}", f"{humidity:.2f}0", float(humidity)])


def timestamp(chance: random.Random, number: int) -> tuple[datetime, str]:
    """The moment in UTC, to the millisecond, and a text that means it: with up to nine digits, and any offset."""
    moment = START + timedelta(milliseconds=number * 37)
    offset = chance.choice(OFFSETS)
    # digits beyond the millisecond, which round to it: up from half a millisecond before, down from below half of one behind
    nanoseconds = chance.choice([0, 0, -500_000, -1, 1, 499_999])
    total = moment.microsecond * 1000 + nanoseconds
    local = moment.replace(microsecond=0) + timedelta(seconds=total // 10**9) + (offset or timedelta())
    digits = f"{total % 10**9:09}"
    if nanoseconds == 0:
        digits = digits[: chance.choice([3, 6, 9])]
    zone = chance.choice("ZZZz") if offset in (None, timedelta()) else timezone(offset).tzname(None).removeprefix("UTC")
    return moment, f"{local.isoformat()}.{digits}{zone}"


def malformed(chance: random.Random) -> list[bytes]:
    """One event of each kind that every peer, and the sink, sets aside."""
    base = json.loads(good(random.Random(chance.random()), 1).payload)
    base.update(temperature=1.5, humidity="1.50", message="fine")
    base["device"]["site"] = "porto"

    def changed(**fields: Any) -> bytes:
        return json.dumps({**base, **fields}).encode()

    def without(key: str) -> bytes:
        return json.dumps({name: value for name, value in base.items() if name != key}).encode()

    whole = json.dumps(base).encode()
    return [
        b"", b"{", b"not json", whole[:-1], whole + whole, b"[" + whole + b"]", b"null", whole.replace(b"fine", b"\xff\xfe"),
        *[without(key) for key in ("event_id", "device", "sequence", "ok", "recorded_at")],
        changed(event_id="no uuid"), changed(event_id=7), changed(event_id=base["event_id"][:-1] + "g"),
        changed(device="device-1"), changed(device={"id": "d" * 65}), changed(device={"id": None}),
        changed(device={"id": "d", "site": "s" * 33}), changed(device={"id": "d", "site": "漢"}),
        changed(sequence="1"), changed(sequence=1.5), changed(sequence=2**63),
        changed(temperature="warm"), changed(temperature=True),
        changed(humidity="12.345"), changed(humidity="1000.00"), changed(humidity="wet"), changed(humidity=1000),
        changed(humidity="1000"), changed(humidity="NaN"),
        *[changed(humidity=text) for text in (" 1", "1_0", "+1", ".5", "1.", "01", "")],
        changed(ok="true"), changed(ok=None),
        changed(recorded_at="yesterday"), changed(recorded_at="2026-02-30T00:00:00Z"), changed(recorded_at=1_700_000_000),
        *[changed(recorded_at=text) for text in ("2026-03-01", "2026-03-01T07:59Z", "20260301T075958Z", "2026-03-01T25:00:00Z")],
        changed(message="x" * 201), changed(message="😀" * 101), changed(message=5),
    ]  # fmt: skip
