"""Write generated rows to try the scripts with: train.csv, recent.csv, and predictions and actuals of the recent rows.

In the recent rows the price follows another rule than the one the old model has learnt.
"""

from __future__ import annotations

import numpy as np
import pandas as pd


def rows(random: np.random.Generator, number: int, slope: float) -> pd.DataFrame:
    """Return rows whose price rises by `slope` with the size."""
    size, age, town = (
        random.normal(10, 2, number),
        random.uniform(0, 50, number),
        random.choice(["Pilar", "Orani"], number),
    )
    price = slope * size - 0.1 * age + (town == "Pilar") + random.normal(0, 0.5, number)
    return pd.DataFrame({"size": size, "age": age, "town": town, "price": price}).round(4)


def main() -> None:
    """Write the four files."""
    random = np.random.default_rng(7)
    train, recent = rows(random, 2000, 3.0), rows(random, 600, 2.0)
    train.to_csv("train.csv", index=False)
    recent.to_csv("recent.csv", index=False)
    old_rule = 3.0 * recent["size"] - 0.1 * recent["age"] + (recent["town"] == "Pilar")
    np.save("predictions.npy", old_rule.to_numpy())
    np.save("actuals.npy", recent["price"].to_numpy())


if __name__ == "__main__":
    main()
