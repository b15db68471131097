"""The evaluation of the fluxes of pairs as one page, and as a file of numbers.

The page needs no other file, follows light and dark, and shows the published numbers beside ours.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models import scores_of_pairs
from models.blender import Pairs
from models.evaluation import published_blends as published
from models.evaluation.pair_flux import (
    COVERAGES,
    HALF,
    MEAN,
    SEP,
    Bins,
    Evaluation,
    Measured,
    Predict,
)
from models.evaluation.report import (
    COLOURS,
    INK,
    cell,
    document,
    legend,
    name_axes,
    plane,
    planes,
    plot_block,
    show_light,
    table_block,
    write_files,
)
from models.scores import Interval

GALAXIES = ("central", "companion")
N_EXAMPLES = 8
MOST_POINTS = 4000  # in a scatter plot
BRIGHT = ("#56b4e9", "#ffa94d")  # on a dark picture
FAINT = {"light": 0.25, "dark": 0.6}  # opacity of points
WIDEST = 1.5  # magnitudes to each side in plots
# Of a score: what the column is called, the factor on it, digits
COLUMNS: dict[str, tuple[str, float, int]] = {
    "n": ("galaxies", 1, 0),
    "undetected": ("missed", 1, 0),
    "flux_mape": ("flux MAPE [%]", 100, 2),
    "flux_median_ape": ("median error [%]", 100, 2),
    "outliers": ("outliers [%]", 100, 2),
    "bias": ("bias [mag]", 1, 3),
    "median": ("median [mag]", 1, 3),
    "sigma": ("σ [mag]", 1, 3),
    "mag_mape": ("magnitude MAPE [%]", 100, 3),
    "flux_mape_of_all": ("MAPE, missed as 100 % [%]", 100, 2),
}
SHORT = (
    "n",
    "undetected",
    "flux_mape",
    "flux_median_ape",
    "outliers",
    "bias",
    "sigma",
    "flux_mape_of_all",
)
BESIDE = ("n", "flux_mape", "flux_median_ape", "mag_mape", "bias", "sigma", "outliers")
ORDER = ("pooled", "central", "companion")  # the first sets beside the published ones
OTHER_DATA = (
    "The published galaxies are real ones (HST, CANDELS), ours are simulated, and the noise is "
    "ours: only the order of methods and the sizes of the gaps compare, not the digits."
)
MASKS_SHOWN = (
    "Lines: the true masks, where a galaxy's own light exceeds the noise. Dashes: the "
    "network's. Blue is the central galaxy, orange its companion. Fluxes in nJy, true → measured."
)


@dataclass(frozen=True)
class Example:
    """One pair, to be looked at."""

    pixels: NDArray[np.float32]  # (s, s)
    true: NDArray[np.bool_]  # (s, s, 2)
    found: NDArray[np.bool_] | None  # (s, s, 2)
    caption: str


def examples(
    evaluation: Evaluation, one: Callable[[int], Pairs], predict: Predict, n: int = N_EXAMPLES
) -> dict[str, list[Example]]:
    """Typical pairs, and those that the network measured worst, by what they are examples of.

    Parameters
    ----------
    one : function(row) -> Pairs
        The cutout behind a row of the measurements.
    """
    measured = evaluation.measured
    worst = (np.abs(measured.flux[:, 0] - measured.true) / measured.true).max(axis=1)
    order = np.argsort(worst)
    middle = max(len(order) // 2 - n // 2, 0)
    chosen = {"Middling pairs.": order[middle : middle + n], "The worst pairs.": order[::-1][:n]}
    return {
        what: [_example(measured, int(row), one(int(row)), predict) for row in rows]
        for what, rows in chosen.items()
    }


def _example(measured: Measured, row: int, pairs: Pairs, predict: Predict) -> Example:
    found = predict(pairs.pixels)
    fluxes = "\n".join(
        f"{measured.true[row, which]:,.0f} → {measured.flux[row, 0, which]:,.0f} ± "
        f"{measured.error[row, which]:,.0f}, sep {measured.flux[row, 1, which]:,.0f}"
        for which in range(2)
    )
    return Example(
        pixels=pairs.pixels[0],
        true=pairs.masks[0, ..., 1:] > 0,
        found=None if found.masks is None else found.masks[0],
        caption=fluxes.replace("nan", "–"),
    )


def write(evaluation: Evaluation, examples: dict[str, list[Example]], folder: Path) -> Path:
    """Write `metrics.json`, `pairs.csv` and `report.html`, and return the page's path.

    Parameters
    ----------
    examples : dict
        Pairs to be shown, by what they are examples of.
    """
    page = document(evaluation.title, _body(evaluation, examples))
    table = {"pairs.csv": _pairs_table(evaluation)}
    return write_files(folder, evaluation.as_dict(), table, page)


def summary(evaluation: Evaluation) -> str:
    """The main numbers, for a terminal."""
    pooled, network = evaluation.sets["pooled"], evaluation.methods[0]
    shown = ("flux_mape", "flux_median_ape", "outliers", "bias", "sigma")
    lines = [evaluation.title, evaluation.protocol, ""]
    lines.append(f"{'':<22}" + "".join(f"{COLUMNS[name][0]:>18}" for name in shown))
    for method in evaluation.methods:
        numbers = "".join(f"{_plain(pooled[method][name], name):>18}" for name in shown)
        lines.append(f"{method:<22}{numbers}")
    ratios = {name: each for name, each in evaluation.ratios.items() if not np.isnan(each.value)}
    if ratios:
        lines.append("\nFlux MAPE of sep over that of the network (95 % interval)")
    for name, each in ratios.items():
        lines.append(f"  {each.value:5.2f}  ({each.low:.2f} to {each.high:.2f})  {name}")
    covered = [pooled[network][name].value for name in COVERAGES]
    if not np.isnan(covered).any():
        lines.append("\nTrue fluxes within the network's intervals")
        for name, share in zip(COVERAGES, covered, strict=True):
            lines.append(f"  {100 * share:5.1f} %, {name[-2:]} % wanted")
    lines.append("\nMasks, mean IoU")
    for method, row in evaluation.masks.items():
        lines.append(f"  {row['iou'].value:.3f}  {method}")
    seen = ", ".join(f"{name} {100 * share:.1f} %" for name, share in evaluation.outcomes.items())
    lines.append(f"\nsep saw: {seen}")
    return "\n".join(lines)


def _plain(interval: Interval, name: str) -> str:
    _, factor, digits = COLUMNS[name]
    return "–" if np.isnan(interval.value) else f"{factor * interval.value:.{digits}f}"


def _pairs_table(evaluation: Evaluation) -> str:
    """Every galaxy as CSV."""
    measured = evaluation.measured
    names = ["network", "sep"]
    lines = ["pair,galaxy,parent,kind,noise,separation,true," + ",".join(names) + ",error,sep_saw"]
    for k in range(len(measured)):
        for which, galaxy in enumerate(GALAXIES):
            flux = ",".join(f"{measured.flux[k, m, which]:.5g}" for m in range(len(names)))
            lines.append(
                f"{k},{galaxy},{measured.parent[k]},{measured.kind[k, which]},"
                f"{measured.noise[k]:.4g},{measured.separation[k]:.2f},"
                f"{measured.true[k, which]:.6g},{flux},{measured.error[k, which]:.4g},"
                f"{measured.outcome[k]}"
            )
    return "\n".join(lines) + "\n"


def _body(evaluation: Evaluation, examples: dict[str, list[Example]]) -> str:
    facts = evaluation.as_dict()
    plots = "".join(
        plot_block(partial(plot, evaluation), caption, wide) for plot, caption, wide in PLOTS
    )
    pictures = "".join(
        plot_block(partial(gallery, of), f"{what} {MASKS_SHOWN}", wide=True)
        for what, of in examples.items()
        if of
    )
    return f"""<p>{html.escape(evaluation.protocol)}</p>
<p>{facts["n_pairs"]:,} pairs around {facts["n_central_galaxies"]:,} central galaxies. MAPE: mean
absolute error over the true flux. Outliers: off by more than 0.75 mag. Differences are measured
less true magnitude. Intervals are 95 %, by drawing central galaxies anew. “{MEAN}” gives every
galaxy the mean of isolated ones, “{HALF}” each of a pair half of what both truly have together.</p>
<h2>In short</h2>
{_methods_table(evaluation, "pooled", SHORT)}
{_ratio_table(evaluation)}
{_coverage_table(evaluation)}
<h2>Beside the published numbers</h2>
<p>{OTHER_DATA} "Seen" is by sep.</p>
{_published_table(evaluation)}
<div class=plots>{plots}</div>
<h2>Masks</h2>
{_mask_table(evaluation)}
<h2>What sep saw</h2>
{_outcome_table(evaluation)}
<h2>Pairs</h2>
<div class=plots>{pictures}</div>
<h2>By property</h2>
{"".join(_bins_table(evaluation, name, bins) for name, bins in evaluation.binned.items())}
<h2>All sets</h2>
{"".join(f"<h3>{name}</h3>{_methods_table(evaluation, name)}" for name in evaluation.sets)}
"""


def _methods_table(evaluation: Evaluation, name: str, shown: Sequence[str] = tuple(COLUMNS)) -> str:
    rows = [
        [html.escape(method), *(_cell(row, score) for score in shown)]
        for method, row in evaluation.sets[name].items()
    ]
    return table_block(["method", *(COLUMNS[score][0] for score in shown)], rows)


def _cell(row: dict[str, Interval], score: str) -> str:
    if score not in row:
        return "–"
    _, factor, digits = COLUMNS[score]
    if score in ("n", "undetected"):
        return f"{row[score].value:,.0f}"
    return cell(row[score], digits, factor)


def _ratio_table(evaluation: Evaluation) -> str:
    rows = [[name, cell(each, 2)] for name, each in evaluation.ratios.items()]
    return table_block(["flux MAPE of sep over that of the network, on …", "ratio"], rows)


def _coverage_table(evaluation: Evaluation) -> str:
    network = evaluation.methods[0]
    rows = [
        [name, *(cell(table[network][each], 1, 100) for each in COVERAGES)]
        for name, table in evaluation.sets.items()
        if all(each in table[network] for each in COVERAGES)
    ]
    head = ["true fluxes within the network's interval of …", "68 % [%]", "95 % [%]"]
    return table_block(head, rows)


def _published_table(evaluation: Evaluation) -> str:
    rows = []
    for name in dict.fromkeys((*ORDER, *published.FLUX_SCORES)):
        rows.append([html.escape(name), *[""] * len(BESIDE)])
        for method in evaluation.methods[:2]:
            ours = evaluation.sets[name][method]
            rows.append([f"<b>{html.escape(method)}</b>", *(_cell(ours, one) for one in BESIDE)])
        for method, numbers in published.FLUX_SCORES[name].items():
            cells = []
            for one in BESIDE:
                _, factor, digits = COLUMNS[one]
                value = float(getattr(numbers, one))
                cells.append("–" if np.isnan(value) else f"{factor * value:,.{digits}f}")
            rows.append([f"<i>published {method}</i>", *cells])
    return table_block(["set, and method", *(COLUMNS[one][0] for one in BESIDE)], rows)


def _mask_table(evaluation: Evaluation) -> str:
    names = {
        "iou": "mean IoU",
        "iou_central": "central",
        "iou_companion": "companion",
        "overlap_bias": "overlap bias, mean",
        "overlap_bias_median": "median",
    }
    rows = [
        [html.escape(method), *(cell(row[name]) for name in names)]
        for method, row in evaluation.masks.items()
    ]
    for method, bias in published.OVERLAP_BIAS.items():
        rows.append([f"<i>published {method}</i>", "–", "–", "–", f"{bias:.2f}", "–"])
    note = (
        "<p>Overlap bias: pixels that both masks share, true less found over true. sep gives a "
        "pixel to one galaxy only, so it finds no overlap at all; and its masks end at 4 or 5 σ of "
        "the background, the true ones at 1 σ of the noise.</p>"
    )
    return table_block(["masks by", *names.values()], rows) + note


def _outcome_table(evaluation: Evaluation) -> str:
    one = evaluation.outcomes["only central"] + evaluation.outcomes["only companion"]
    ours = {**evaluation.outcomes, "one": one}
    names = ("both", "one", "more than two", "neither")
    rows = [
        ["ours", *(f"{100 * ours[name]:.1f}" for name in names)],
        [
            "<i>published</i>",
            *(
                f"{100 * published.SEP_OUTCOMES[name]:.1f}"
                if name in published.SEP_OUTCOMES
                else "–"
                for name in names
            ),
        ],
    ]
    factors = ", ".join(f"{each:.3f} at σ {noise}" for noise, each in evaluation.factors.items())
    note = f"<p>sep's fluxes are multiplied by {factors} (published: {published.SEP_FACTOR}).</p>"
    return table_block(["share of the pairs [%]", *names], rows) + note


def _bins_table(evaluation: Evaluation, name: str, bins: Bins) -> str:
    network = evaluation.methods[0]
    ours = ("n", "flux_mape", "outliers", "median", "sigma")
    theirs = ("flux_mape", "undetected")
    head = [
        "bin",
        *(COLUMNS[one][0] for one in ours),
        *(f"in {each[-2:]} % [%]" for each in COVERAGES),
        *(f"sep: {COLUMNS[one][0]}" for one in theirs),
    ]
    rows = []
    for label, table in zip(bins.names, bins.tables, strict=True):
        first, second = table[network], table[SEP]
        if first:
            rows.append(
                [
                    label.replace(" ", "\u00a0"),
                    *(_cell(first, one) for one in ours),
                    *(cell(first[each], 1, 100) for each in COVERAGES),
                    *(_cell(second, one) for one in theirs),
                ]
            )
    heading = html.escape(f"{name.capitalize()}: {bins.what}")
    return f"<h3>{heading}</h3>{table_block(head, rows)}"


def histogram_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Errors in magnitudes of central galaxies and of companions, by network and sep."""
    figure, panels = planes(theme, 1, 2, (11, 4.2), sharey=True)
    errors, bins = evaluation.measured.magnitude_errors, np.linspace(-WIDEST, WIDEST, 61)
    for which, (axes, galaxy) in enumerate(zip(panels, GALAXIES, strict=True)):
        name_axes(axes, theme, "measured less true magnitude", "galaxies", galaxy)
        row = evaluation.sets[galaxy]
        for m, method in enumerate(evaluation.methods[:2]):
            values = errors[:, m, which]
            values = np.clip(values[np.isfinite(values)], -WIDEST, WIDEST)
            of = row[method]
            label = f"{method}: {of['bias'].value:+.3f} ± {of['sigma'].value:.3f}"
            axes.hist(values, bins.tolist(), color=COLOURS[m], alpha=0.55, label=label)
        axes.set_yscale("log")
        legend(axes, theme, "upper left", "mean ± standard deviation", fontsize="small")
    return figure


def difference_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Errors against the difference of the two magnitudes, with the trend and the scatter."""
    figure, panels = planes(theme, 2, 2, (11, 7), sharex=True, sharey=True)
    measured = evaluation.measured
    some = slice(None, None, -(-len(measured) // MOST_POINTS))
    for place, axes in enumerate(panels):
        m, which = divmod(place, 2)
        bins = evaluation.binned[f"magnitude difference, {GALAXIES[which]}"]
        errors = np.clip(measured.magnitude_errors[some, m, which], -WIDEST, WIDEST)
        axes.plot(
            measured.difference[some], errors, ".", color=COLOURS[m], alpha=FAINT[theme], ms=3
        )
        rows = [table[evaluation.methods[m]] for table in bins.tables]
        middle = [row["median"].value if row else np.nan for row in rows]
        spread = [row["sigma"].value if row else np.nan for row in rows]
        axes.errorbar(bins.middles, middle, spread, color=INK[theme], fmt="o-", ms=4, capsize=3)
        theirs = ("blend2mask2flux", "sep")[m]
        if which == 0:
            edges = np.array(published.FLUX_EDGES)
            _published_trend(axes, (edges[1:] + edges[:-1]) / 2, theirs)
            legend(axes, theme, "lower left", "", fontsize="small")
        axes.axhline(0, ls=":", lw=1, color=INK[theme])
        title = f"{evaluation.methods[m]}, {GALAXIES[which]}"
        name_axes(axes, theme, "", "", title)
    for axes in panels[2:]:
        axes.set_xlabel("magnitude of the central less that of its companion", color=INK[theme])
    for axes in panels[::2]:
        axes.set_ylabel("measured less true magnitude", color=INK[theme])
    return figure


def _published_trend(axes: Axes, middles: NDArray[np.float64], method: str) -> None:
    """Median and standard deviation of the paper's figure 5."""
    median = np.array(published.FLUX_MEDIANS[method])
    sigma = np.array(published.FLUX_SIGMAS[method])
    for line, style in ((median, "-"), (median - sigma, "--"), (median + sigma, "--")):
        label = f"published {method}: median, ± σ" if style == "-" else None
        axes.plot(middles, line, style, color=COLOURS[2], lw=1.5, label=label)


def trend_plot(evaluation: Evaluation, theme: str, name: str) -> Figure:
    """Flux MAPE in bins of a property, by network and sep."""
    bins = evaluation.binned[name]
    figure, axes = plane(theme, bins.what, "flux MAPE [%]")
    for m, method in enumerate(evaluation.methods[:2]):
        rows = [table[method].get("flux_mape") for table in bins.tables]
        _with_intervals(axes, bins.middles, rows, COLOURS[m], method)
    _logarithmic(axes)
    legend(axes, theme, "best", "")
    return figure


def kind_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Flux MAPE by kind of galaxy, beside the published."""
    bins = evaluation.binned["kind"]
    figure, axes = plane(theme, "", "flux MAPE [%]")
    for m, method in enumerate(evaluation.methods[:2]):
        rows = [table[method].get("flux_mape") for table in bins.tables]
        middles = [middle + 0.12 * (m - 0.5) for middle in bins.middles]
        _with_intervals(axes, middles, rows, COLOURS[m], method, "o")
    for colour, (method, by_kind) in zip(COLOURS[2:], published.FLUX_BY_KIND.items(), strict=True):
        shares = [100 * by_kind[name] for name in bins.names]
        axes.plot(bins.middles, shares, "x", color=colour, label=f"published {method}")
    axes.set_xticks(bins.middles, bins.names)
    _logarithmic(axes)
    legend(axes, theme, "best", "", fontsize="small")
    return figure


def _logarithmic(axes: Axes) -> None:
    """A logarithmic axis with plain numbers on it."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _with_intervals(
    axes: Axes,
    x: Sequence[float],
    rows: Sequence[Interval | None],
    colour: str,
    label: str,
    style: str = "o-",
) -> None:
    """Numbers with their intervals, as percent."""
    known = [(at, row) for at, row in zip(x, rows, strict=True) if row is not None]
    value = 100 * np.array([row.value for _, row in known])
    low = value - 100 * np.array([row.low for _, row in known])
    high = 100 * np.array([row.high for _, row in known]) - value
    bars = np.maximum([low, high], 0)
    axes.errorbar(
        [at for at, _ in known], value, bars, fmt=style, color=colour, label=label, capsize=3
    )


def recovered_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Measured against true fluxes, of network and sep."""
    figure, panels = planes(theme, 1, 2, (11, 4.8), sharex=True, sharey=True)
    measured = evaluation.measured
    some = slice(None, None, -(-len(measured) // MOST_POINTS))
    ends = [float(measured.true.min()) * 0.7, float(measured.true.max()) * 1.4]
    for m, axes in enumerate(panels):
        for which, galaxy in enumerate(GALAXIES):
            flux = measured.flux[some, m, which]
            axes.plot(
                measured.true[some, which],
                np.where(flux > 0, flux, np.nan),
                ".",
                color=COLOURS[which],
                alpha=FAINT[theme],
                ms=3,
                label=galaxy,
            )
        axes.plot(ends, ends, ":", color=INK[theme], lw=1)
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(ends[0] / 3, ends[1] * 2))
        name_axes(axes, theme, "true flux [nJy]", "measured flux [nJy]", evaluation.methods[m])
        legend(axes, theme, "upper left", "", markerscale=4)
    return figure


def coverage_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Share of true fluxes within the network's intervals, against the share wanted."""
    from scipy.stats import norm

    measured = evaluation.measured
    figure, axes = plane(theme, "share wanted [%]", "share within the interval [%]")
    wanted = np.linspace(0.02, 0.99, 50)
    factors = norm.ppf((1 + wanted) / 2)
    for which, galaxy in enumerate(GALAXIES):
        found = [
            scores_of_pairs.coverage(
                measured.true[:, which],
                measured.flux[:, 0, which],
                measured.error[:, which],
                float(factor),
            )
            for factor in factors
        ]
        axes.plot(100 * wanted, 100 * np.array(found), color=COLOURS[which], lw=2, label=galaxy)
        own = evaluation.sets[galaxy][evaluation.methods[0]]["coverage_95"].value
        axes.plot(95, 100 * own, "x", color=COLOURS[which], ms=8)
    axes.plot([0, 100], [0, 100], ":", color=INK[theme], lw=1)
    legend(axes, theme, "upper left", evaluation.methods[0])
    return figure


def gallery(examples: Sequence[Example], theme: str, columns: int = 4) -> Figure:
    """Pairs with their masks, stretched by asinh of the noise."""
    rows = -(-len(examples) // columns)
    figure, panels = planes(theme, rows, columns, (12, 3.5 * rows))
    for axes in panels[len(examples) :]:
        axes.set_axis_off()
    for axes, example in zip(panels, examples, strict=False):
        show_light(axes, example.pixels)
        for masks, style in ((example.true, "-"), (example.found, "--")):
            for which in range(2 if masks is not None else 0):
                if masks is not None and 0 < masks[..., which].mean() < 1:
                    axes.contour(
                        masks[..., which].astype(float),
                        [0.5],
                        colors=BRIGHT[which],
                        linestyles=style,
                        linewidths=1.1,
                    )
        name_axes(axes, theme, "", "", example.caption)
        axes.title.set_fontsize("small")
    return figure


Plot = Callable[[Evaluation, str], Figure]
PLOTS: tuple[tuple[Plot, str, bool], ...] = (
    (
        histogram_plot,
        "How far measured magnitudes are from the true ones; the last bins hold all beyond.",
        True,
    ),
    (
        difference_plot,
        "Errors against the difference of the two magnitudes: one point is a galaxy, the line "
        "is the median of each of six bins, its bars are ± the standard deviation in it.",
        True,
    ),
    (
        partial(trend_plot, name="separation"),
        "Flux MAPE by distance (bins equally full), with 95 % intervals.",
        False,
    ),
    (
        partial(trend_plot, name="magnitude"),
        "Flux MAPE by true magnitude (bins equally full), with 95 % intervals.",
        False,
    ),
    (
        recovered_plot,
        "Measured against true fluxes; a perfect method lies on the dotted line.",
        True,
    ),
    (
        coverage_plot,
        "How often the network's intervals hold the truth, of every width that Gaussian errors "
        "would need; cross: its own intervals of 95 %.",
        False,
    ),
    (
        kind_plot,
        "Flux MAPE of both galaxies by kind, with 95 % intervals; published for the central "
        "galaxy, of real ones.",
        False,
    ),
)  # with their captions; whether as broad as the page
