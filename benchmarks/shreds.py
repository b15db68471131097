"""Pictures per second of the shreds networks on this machine, and the share of their features.

`python benchmarks/shreds.py [--pictures 512] [--repeats 3]` prints medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import click
import numpy as np

from models import registry, shreds
from models.features import features


def rate(work: Callable[[], object], n_pictures: int, repeats: int) -> float:
    """Median of pictures per second, after one call that is not counted."""
    work()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        rates.append(n_pictures / (time.perf_counter() - start))
    return median(rates)


@click.command()
@click.option("--pictures", default=512, show_default=True)
@click.option("--repeats", default=3, show_default=True)
def main(pictures: int, repeats: int) -> None:
    """Print one line per network."""
    rgb = np.random.default_rng(0).integers(20, 90, (pictures, 128, 128, 3), np.uint8)
    card = registry.find("shreds")
    networks = {
        f"{card.name} (shipped)": registry.load(card),
        "published": shreds.build("published"),
        "plain": shreds.build("plain"),
    }
    click.echo(f"{'network':<28}{'parameters':>12}{'pictures/s':>12}")
    for name, model in networks.items():
        speed = rate(lambda model=model: shreds.predict(model, rgb), pictures, repeats)
        click.echo(f"{name:<28}{model.count_params():>12,}{speed:>12.0f}")
    click.echo(f"{'features alone':<40}{rate(lambda: features(rgb), pictures, repeats):>12.0f}")


if __name__ == "__main__":
    main()
