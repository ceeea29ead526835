"""Write data/raw/iris.csv, Fisher's flowers as scikit-learn brings them, and data/raw/housing.csv, which is generated."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_iris


def iris() -> pd.DataFrame:
    """Return 150 flowers, in an order that tells nothing."""
    found = load_iris(as_frame=True)
    names = {name: name.removesuffix(" (cm)").replace(" ", "_") for name in found.feature_names}
    rows = found.frame.rename(columns=names).drop(columns="target")
    return rows.assign(species=np.array(found.target_names)[found.target]).sample(frac=1, random_state=0)


def housing(number: int = 400) -> pd.DataFrame:
    """Return houses that nobody ever built."""
    random = np.random.default_rng(7)
    size, age, rooms = (
        random.normal(110, 30, number).clip(30),
        random.uniform(0, 60, number),
        random.integers(1, 7, number),
    )
    price = 2.4 * size - 0.8 * age + 9 * rooms + random.normal(0, 12, number)
    return pd.DataFrame({"size": size.round(1), "age": age.round(1), "rooms": rooms, "price": price.round(1)})


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description="Write the data of the example.")
    parser.add_argument("--folder", type=Path, default=Path("data/raw"))
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("iris", iris()), ("housing", housing())):
        rows.to_csv(folder / f"{name}.csv", index=False)
        print(f"{folder / name}.csv: {len(rows)} rows")


if __name__ == "__main__":
    main()
