"""Write sales that never happened: large_dataset.csv, two years of five products, and test_upload.csv, two days more.

usage: python make_data.py [--days 730] [--end 2026-06-30] [--folder .]     end: the last day of the upload
"""

from __future__ import annotations

import argparse
import csv
import math
import random
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

# Product, category, region, sales of a usual day.
PRODUCTS = [
    ("P001", "dairy", "north", 120.0), ("P002", "dairy", "south", 80.0), ("P003", "bakery", "north", 150.0),
    ("P004", "bakery", "south", 60.0), ("P005", "drinks", "north", 90.0),
]  # fmt: skip
WEEK = [0.90, 0.92, 0.95, 1.00, 1.15, 1.25, 0.83]
NOISE = 0.08


def sales(end: date, days: int, seed: int = 7) -> Iterator[list[object]]:
    """Yield rows (date, product_id, category, region, sales) of the days up to `end`: trend, year, week, noise."""
    draw = random.Random(seed)
    for number in range(days):
        day = end - timedelta(days=days - 1 - number)
        year = 1 + 0.2 * math.sin(2 * math.pi * day.timetuple().tm_yday / 365.25)
        for product, category, region, level in PRODUCTS:
            trend = 1 + 0.15 * number / 365
            found = level * trend * year * WEEK[day.weekday()] * math.exp(draw.gauss(0, NOISE))
            yield [day.isoformat(), product, category, region, round(found, 1)]


def write(path: Path, rows: list[list[object]]) -> None:
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["date", "product_id", "category", "region", "sales"])
        out.writerows(rows)
    print(f"{path.name}: {len(rows):,} generated rows, {rows[0][0]} to {rows[-1][0]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write generated sales.")
    parser.add_argument("--days", type=int, default=730)
    parser.add_argument("--end", type=date.fromisoformat, default=date.today() - timedelta(days=1))  # noqa: DTZ011
    parser.add_argument("--folder", type=Path, default=Path())
    told = parser.parse_args()
    rows = list(sales(told.end, told.days + 2))
    cut = -2 * len(PRODUCTS)
    write(told.folder / "large_dataset.csv", rows[:cut])
    write(told.folder / "test_upload.csv", rows[cut:])


if __name__ == "__main__":
    main()
