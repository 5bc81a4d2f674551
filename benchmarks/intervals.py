"""How often 95 % intervals of a difference to float hold the truth, in simulated studies with a known one.

    python benchmarks/intervals.py [--studies 2000]

prints a table: test examples, deviation of the variant's effect over seeds (points), and the share of intervals that
hold the true difference, by number of seeds. Two models, right on 85 % and 84 % of the examples, agree on about 94 %;
half of what they disagree on is the same for all seeds. With one seed, an interval is over test examples only, so it
holds the truth as often as it says only where seeds do not matter.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from intaglio.statistics.seeds import MeanOverSeeds, mean_over_seeds

EXAMPLES, DEVIATIONS, SEEDS = (277, 1000, 5000), (0.0, 0.5, 1.0, 2.0), (1, 2, 3, 5, 10)
RIGHT, LOSS = 0.85, 0.01
# Shares of the variance of what decides an example: the example; with the variant; with the seed and the variant.
SHARES = (0.966, 0.017, 0.017)


def study(random: np.random.Generator, examples: int, seeds: int, deviation: float) -> NDArray[np.float64]:
    """Return right predictions of a variant minus those of float, [seeds, examples]; the mean is -LOSS.

    Args:
        random: draws the study.
        examples: number of test examples.
        seeds: number of seeds of both.
        deviation: of the variant's share of right predictions over seeds.
    """
    common, of_variant, of_seed = np.sqrt(SHARES)
    one = random.normal(size=examples)
    right = []
    for share in (RIGHT - LOSS + deviation * random.normal(size=(seeds, 1)), np.full((seeds, 1), RIGHT)):
        two, three = random.normal(size=examples), random.normal(size=(seeds, examples))
        right.append(common * one + of_variant * two + of_seed * three < norm.ppf(share))
    return right[0].astype(np.float64) - right[1]


def difference(of_examples: NDArray[np.float64]) -> MeanOverSeeds:
    """Return the mean difference, given those of examples [seeds, examples].

    The variances over resamples of a mean are known without drawing: the differences of examples have them.
    """
    values = of_examples.mean(1)
    examples = of_examples.shape[1]
    return mean_over_seeds(values, (of_examples - values[:, None]) / np.sqrt(examples), 1 / examples)


def coverage(studies: int, examples: int, seeds: int, deviation: float) -> tuple[float, float]:
    """Return the share of intervals that hold the truth, and their median width."""
    random = np.random.default_rng([1, examples, seeds, round(1000 * deviation)])
    ends = [difference(study(random, examples, seeds, deviation)).interval() for _ in range(studies)]
    held = [low <= -LOSS <= high for low, high in ends]
    return float(np.mean(held)), float(np.median([high - low for low, high in ends]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a cell")
    arguments = parser.parse_args()
    print("Held, % (median width, points)\n")
    print(f"| examples | deviation | {' | '.join(f'{seeds} seeds' for seeds in SEEDS)} |")
    print("|---" * (2 + len(SEEDS)) + "|")
    for examples in EXAMPLES:
        for deviation in DEVIATIONS:
            cells = [coverage(arguments.studies, examples, seeds, deviation / 100) for seeds in SEEDS]
            shown = " | ".join(f"{100 * held:.1f} ({100 * width:.1f})" for held, width in cells)
            print(f"| {examples} | {deviation:g} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
