"""The evaluation of blends as one page, and as a file of numbers.

The page needs no other file, follows light and dark, and shows the published numbers beside ours.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from models import scores, scores_of_pairs
from models.blender import Pairs
from models.evaluation import published_blends as published
from models.evaluation.blends import FAIR, NOISE_UNIT, TOLD, AtNoise, Evaluation, Judged, Row
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

SCORES = {
    "accuracy": "accuracy",
    "found": "blends found",
    "spared": "singles spared",
    "accuracy_close": "accuracy, close",
    "accuracy_distant": "accuracy, distant",
    "found_close": "found, close",
    "found_distant": "found, distant",
}
AIM_CLOSE = 15  # points above sep
MOST_CURVES = 5
N_EXAMPLES = 12
PLACES_SHOWN = "Crosses: the middles of the true galaxies. σ in nJy per pixel."
OTHER_DATA = (
    "The published cutouts show other galaxies and another camera. Noise is in BlendHunter's unit "
    f"(1 ADU for {NOISE_UNIT:g} nJy per pixel here, at which sep is right about as often as "
    "there), so that curves can be laid over each other; differences of a few points say nothing."
)


@dataclass(frozen=True)
class Example:
    """One cutout, to be looked at."""

    pixels: NDArray[np.float32]  # (s, s)
    middles: list[tuple[float, float]]  # x, y of the true galaxies [pixel]
    caption: str


def examples(
    evaluation: Evaluation, one: Callable[[int], Pairs], n: int = N_EXAMPLES
) -> dict[str, list[Example]]:
    """Cutouts to be shown, by what they are examples of.

    Parameters
    ----------
    one : function(row) -> Pairs
        The cutout behind a row of the verdicts.
    """
    judged = evaluation.judged
    p, blend, called = judged.p_blend, judged.is_blend, judged.called
    shuffled = np.random.default_rng(0).permutation(len(judged))
    rising = np.argsort(p)
    close = judged.separation < scores_of_pairs.CLOSE
    won, lost = close & called & ~judged.fair, blend & ~called & judged.fair
    chosen = {
        "Any cutouts.": shuffled,
        "Close blends that the network found and sep did not.": shuffled[won[shuffled]],
        "Blends that sep found and the network did not.": shuffled[lost[shuffled]],
        "Missed blends with the lowest probability.": rising[(blend & ~called)[rising]],
        "Single galaxies with the highest probability.": rising[::-1][
            (~blend & called)[rising[::-1]]
        ],
    }
    return {
        f"{what} {PLACES_SHOWN}": [
            _example(judged, int(row), one(int(row))) for row in _distinct(judged, rows)[:n]
        ]
        for what, rows in chosen.items()
    }


def _distinct(judged: Judged, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each pair once, at the first of its noises."""
    pair = np.stack([judged.trial[rows], judged.number[rows]], axis=1)
    _, first = np.unique(pair, axis=0, return_index=True)
    return rows[np.sort(first)]


def _example(judged: Judged, row: int, pairs: Pairs) -> Example:
    middle = (pairs.pixels.shape[-1] - 1) / 2
    middles = [(middle, middle)]
    what = "single"
    if judged.is_blend[row]:
        middles.append((middle + float(pairs.dx[0]), middle + float(pairs.dy[0])))
        what = f"{judged.separation[row]:.0f} px apart"
    says = "blend" if judged.fair[row] else "single"
    caption = f"{what}: P {judged.p_blend[row]:.2f}\nsep: {says}, σ {judged.noise[row]:.3g}"
    return Example(pairs.pixels[0], middles, caption)


def write(evaluation: Evaluation, examples: Mapping[str, list[Example]], folder: Path) -> Path:
    """Write `metrics.json`, `verdicts.csv` and `report.html`, and return the page's path.

    Parameters
    ----------
    examples : dict
        Cutouts to be shown, by what they are examples of.
    """
    page = document(evaluation.title, _body(evaluation, examples))
    table = {"verdicts.csv": _verdicts_table(evaluation)}
    return write_files(folder, evaluation.as_dict(), table, page)


def summary(evaluation: Evaluation) -> str:
    """The main numbers, for a terminal: accuracies in percent, by noise."""
    names = ("accuracy", "accuracy_close", "accuracy_distant")
    lines = [evaluation.title, evaluation.protocol, "", "Accuracy [%], and network less sep (95 %)"]
    head = "".join(f"{SCORES[name]:>36}" for name in names)
    lines.append(f"{'σ [nJy]':>9}{'[ADU]':>7}{head}")
    for at in [*evaluation.at_noise, evaluation.everything]:
        row = ""
        for name in names:
            ours, sep = at.rows[evaluation.network][name], at.rows[FAIR][name]
            gain = at.gains[FAIR][name]
            ends = f"{100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
            row += f"{100 * ours.value:>10.1f} − {100 * sep.value:.1f} = "
            row += f"{100 * gain.value:+.1f} ({ends})".rjust(36 - 10 - 10)
        lines.append(f"{_noise(at):>16}{row}")
    everything = evaluation.everything.probabilities
    lines.append(
        f"\nROC area {everything['auc'].value:.4f}, "
        f"calibration error {everything['calibration_error'].value:.4f}"
    )
    return "\n".join(lines)


def _noise(at: AtNoise) -> str:
    if np.isnan(at.noise):
        return "all"
    return f"{at.noise:9.3g}{at.noise / NOISE_UNIT:7.3g}"


def _verdicts_table(evaluation: Evaluation) -> str:
    """Every cutout as CSV."""
    judged = evaluation.judged
    lines = ["trial,number,parent,noise,is_blend,separation,p_blend,sep,sep_told,detections"]
    for k in range(len(judged)):
        lines.append(
            f"{judged.trial[k]},{judged.number[k]},{judged.parent[k]},{judged.noise[k]:.4g},"
            f"{int(judged.is_blend[k])},{judged.separation[k]:.3g},{judged.p_blend[k]:.5f},"
            f"{int(judged.fair[k])},{int(judged.told[k])},{judged.detections[k]}"
        )
    return "\n".join(lines) + "\n"


def _body(evaluation: Evaluation, examples: Mapping[str, list[Example]]) -> str:
    facts = evaluation.as_dict()
    plots = "".join(
        plot_block(partial(plot, evaluation), caption, wide) for plot, caption, wide in PLOTS
    )
    pictures = "".join(
        plot_block(partial(gallery, of), what, wide=True) for what, of in examples.items() if of
    )
    return f"""<p>{html.escape(evaluation.protocol)}</p>
<p>{facts["n_cutouts"]:,} cutouts around {facts["n_central_galaxies"]:,} central galaxies, in
{facts["n_trials"]} trials at each noise. Close: less than {scores_of_pairs.CLOSE:g} pixels apart.
Accuracies of close and of distant blends are over as many single galaxies. A blend is called from
probability 0.5. Intervals are 95 %, by drawing central galaxies anew; ± is the standard deviation
over the trials.</p>
<p>“{FAIR}”: two detections or more, or a merged one. “{TOLD}”: BlendHunter's rule, which is told
where the galaxies are.</p>
<h2>Network less sep (fair rule), in points</h2>
{_gains_table(evaluation, FAIR)}
<h2>Beside the published numbers</h2>
<p>{OTHER_DATA}</p>
{_published_table(evaluation)}
<div class=plots>{plots}</div>
<h2>All scores by noise [%]</h2>
{_scores_table(evaluation)}
<h2>Network less sep that is told the truth, in points</h2>
{_gains_table(evaluation, TOLD)}
<h2>Probabilities</h2>
{_probabilities_table(evaluation)}
<h2>Confusion, shares of all cutouts [%]</h2>
{_confusion_table(evaluation)}
<h2>Cutouts</h2>
<div class=plots>{pictures}</div>
"""


def _levels(evaluation: Evaluation) -> list[tuple[str, AtNoise]]:
    """Every noise and all together, with what tables call them."""
    each = [
        (f"{at.noise:.3g}\u00a0nJy<small>{at.noise / NOISE_UNIT:.3g} ADU</small>", at)
        for at in evaluation.at_noise
    ]
    return [*each, ("all", evaluation.everything)]


def _gains_table(evaluation: Evaluation, rule: str) -> str:
    rows = [
        [name, *(cell(at.gains[rule][score], 1, 100) for score in SCORES)]
        for name, at in _levels(evaluation)
    ]
    return table_block(["noise", *SCORES.values()], rows)


def _scores_table(evaluation: Evaluation) -> str:
    rows = [
        [name, html.escape(judge), *_score_cells(at, judge)]
        for name, at in _levels(evaluation)
        for judge in evaluation.judges
    ]
    for method, by_noise in published.BLENDS_BY_NOISE.items():
        for adu, theirs in by_noise.items():
            cells = [f"{100 * share:.1f}" for share in _published_scores(theirs)]
            rows.append([f"{adu} ADU", f"<i>published {method}</i>", *cells])
    return table_block(["noise", "judge", *SCORES.values()], rows)


def _published_scores(theirs: published.Verdicts) -> tuple[float, ...]:
    """In the order of SCORES."""
    close, distant = theirs.found_close, theirs.found_distant
    accuracies = (close + theirs.spared) / 2, (distant + theirs.spared) / 2
    return theirs.accuracy, theirs.found, theirs.spared, *accuracies, close, distant


def _score_cells(at: AtNoise, judge: str) -> list[str]:
    return [
        f"{cell(at.rows[judge][score], 1, 100)} <small>± "
        f"{100 * at.deviations[judge][score]:.1f}</small>"
        for score in SCORES
    ]


def _published_table(evaluation: Evaluation) -> str:
    """Accuracies at the noises that the paper has too."""
    rows = []
    for name, at in _levels(evaluation):
        adu = 0 if np.isnan(at.noise) else round(at.noise / NOISE_UNIT)
        theirs = [
            f"{100 * of[adu]:.1f}" if adu in of else "–"
            for of in published.BLENDS_ACCURACY.values()
        ]
        gains = [
            f"{100 * of[adu]:+.1f}" if adu in of else "–"
            for of in (published.CFIS_GAIN_CLOSE, published.CFIS_GAIN_DISTANT)
        ]
        ours = [
            cell(at.rows[judge]["accuracy"], 1, 100) for judge in (evaluation.network, TOLD, FAIR)
        ]
        less = [
            cell(at.gains[FAIR][score], 1, 100) for score in ("accuracy_close", "accuracy_distant")
        ]
        rows.append([name, *ours, *theirs, *less, *gains])
    head = [
        "noise",
        "network",
        TOLD,
        FAIR,
        *(f"<i>published {method}</i>" for method in published.BLENDS_ACCURACY),
        "network less sep, close",
        "distant",
        "<i>published, close</i>",
        "<i>distant</i>",
    ]
    note = (
        "<p>Published accuracies: parametric simulations, sep told the truth, a network trained at "
        "each noise. Published differences: CFIS-like images of one noise, by the noise of the "
        "training images.</p>"
    )
    return table_block(head, rows) + note


def _probabilities_table(evaluation: Evaluation) -> str:
    names = {"auc": "ROC area", "calibration_error": "calibration error", "brier": "Brier score"}
    rows = [
        [name, *(cell(at.probabilities[score], 4) for score in names)]
        for name, at in _levels(evaluation)
    ]
    return table_block(["noise", *names.values()], rows)


def _confusion_table(evaluation: Evaluation) -> str:
    names = {"tp": "found", "fn": "missed", "fp": "false alarms", "tn": "singles spared"}
    rows = [
        [
            name,
            html.escape(judge),
            *(f"{100 * at.confusion[judge][one]:.1f}" for one in names),
        ]
        for name, at in _levels(evaluation)
        for judge in evaluation.judges
    ]
    for adu, shares in published.CFIS_CONFUSION.items():
        cells = [f"{100 * share:.1f}" for share in shares]
        rows.append(["<i>published</i>", f"<i>CFIS-like, trained at {adu} ADU</i>", *cells])
    cells = [f"{100 * share:.1f}" for share in published.CFIS_SEP_CONFUSION]
    rows.append(["<i>published</i>", "<i>CFIS-like, sep</i>", *cells])
    return table_block(["noise", "judge", *names.values()], rows)


def accuracy_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Accuracy of all judges against noise, beside the published curves."""
    figure, axes = plane(theme, "noise σ [nJy per pixel]", "accuracy [%]")
    for judge, colour in zip(evaluation.judges, (COLOURS[0], COLOURS[1], COLOURS[3]), strict=True):
        rows = [at.rows[judge] for at in evaluation.at_noise]
        _against_noise(axes, evaluation, rows, "accuracy", colour, judge)
    for (method, of), colour in zip(
        published.BLENDS_ACCURACY.items(), (COLOURS[0], COLOURS[3]), strict=True
    ):
        noise = [adu * NOISE_UNIT for adu in of]
        shares = [100 * share for share in of.values()]
        axes.plot(noise, shares, "--", color=colour, label=f"published {method}", alpha=0.7)
    _adu(axes, theme)
    legend(axes, theme, "lower left", "", fontsize="small")
    return figure


def gain_plot(evaluation: Evaluation, theme: str) -> Figure:
    """By how much the network is better than sep, for close and for distant blends."""
    figure, axes = plane(theme, "noise σ [nJy per pixel]", "network less sep [points]")
    rows = [at.gains[FAIR] for at in evaluation.at_noise]
    for score, colour in (("accuracy_close", COLOURS[0]), ("accuracy_distant", COLOURS[1])):
        _against_noise(axes, evaluation, rows, score, colour, SCORES[score])
    for aim, colour in ((AIM_CLOSE, COLOURS[0]), (0, COLOURS[1])):
        axes.axhline(aim, ls=":", lw=1.5, color=colour)
    _adu(axes, theme)
    legend(axes, theme, "best", "", fontsize="small")
    return figure


def _against_noise(
    axes: Axes, evaluation: Evaluation, rows: Sequence[Row], score: str, colour: str, label: str
) -> None:
    """A score with its intervals, in percent."""
    each: list[Interval] = [row[score] for row in rows]
    value = 100 * np.array([one.value for one in each])
    low = value - 100 * np.array([one.low for one in each])
    high = 100 * np.array([one.high for one in each]) - value
    noise = [at.noise for at in evaluation.at_noise]
    bars = np.maximum([low, high], 0)
    axes.errorbar(noise, value, bars, fmt="o-", color=colour, label=label, capsize=3)


def _adu(axes: Axes, theme: str) -> None:
    """A second axis of noise, in BlendHunter's unit."""
    ways = (partial(np.multiply, 1 / NOISE_UNIT), partial(np.multiply, NOISE_UNIT))
    top = axes.secondary_xaxis("top", functions=ways)
    top.set_xlabel("BlendHunter's σ [ADU]", color=INK[theme])
    top.tick_params(colors=INK[theme])


def _some(evaluation: Evaluation) -> list[AtNoise]:
    """A few noises over the whole range."""
    n = len(evaluation.at_noise)
    chosen = np.unique(np.linspace(0, n - 1, min(n, MOST_CURVES)).round().astype(int))
    return [evaluation.at_noise[k] for k in chosen]


def _shade(k: int, n: int, theme: str) -> tuple[float, ...]:
    """A colour for curve k of n, from quiet to noisy."""
    from matplotlib import colormaps

    ends = (0.15, 0.8) if theme == "light" else (0.35, 0.95)
    shade: tuple[float, ...] = colormaps["plasma"](np.interp(k, (0, max(n - 1, 1)), ends))
    return shade


def separation_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Share of the blends found against their separation, by network and by sep."""
    figure, panels = planes(theme, 1, 2, (11, 4.6), sharey=True)
    middles = (evaluation.edges[1:] + evaluation.edges[:-1]) / 2
    some = _some(evaluation)
    for axes, judge in zip(panels, (evaluation.network, FAIR), strict=True):
        for k, at in enumerate(some):
            shares = [np.nan if x is None else 100 * x for x in at.found_by_separation[judge]]
            colour = _shade(k, len(some), theme)
            axes.plot(middles, shares, color=colour, lw=2, label=f"{at.noise:.3g}")
        axes.axvline(scores_of_pairs.CLOSE, ls=":", lw=1, color=INK[theme])
        name_axes(axes, theme, "distance of the two [pixel]", "blends found [%]", judge)
    legend(panels[1], theme, "lower right", "σ [nJy]", fontsize="small")
    return figure


def roc_plot(evaluation: Evaluation, theme: str) -> Figure:
    """ROC curves by noise, and where sep is."""
    figure, axes = plane(theme, "singles called blends [%]", "blends found [%]")
    some = _some(evaluation)
    for k, at in enumerate(some):
        rows = evaluation.judged.take(evaluation.judged.noise == at.noise)
        x, y, _ = scores.roc(rows.is_blend, rows.p_blend)
        colour = _shade(k, len(some), theme)
        area = at.probabilities["auc"].value
        axes.plot(100 * x, 100 * y, color=colour, lw=2, label=f"{at.noise:.3g} ({area:.3f})")
        sep = at.rows[FAIR]
        axes.plot(100 * (1 - sep["spared"].value), 100 * sep["found"].value, "s", color=colour)
    lowest = min(at.rows[FAIR]["found"].value for at in some)
    axes.set(xlim=(-1, 50), ylim=(100 * min(lowest, 0.8) - 5, 101))
    legend(axes, theme, "lower right", "σ [nJy] (area); squares: sep", fontsize="small")
    return figure


def reliability_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Share of blends against the probability given, by noise."""
    figure, axes = plane(theme, "probability given", "share that are blends")
    axes.plot([0, 1], [0, 1], ":", color=INK[theme], linewidth=1)
    some = _some(evaluation)
    for k, at in enumerate(some):
        rows = evaluation.judged.take(evaluation.judged.noise == at.noise)
        table = scores.reliability(rows.is_blend, rows.p_blend)
        filled = table.sizes > 0
        share, size = table.observed[filled], table.sizes[filled]
        error = np.sqrt((share * (1 - share) + 0.25 / size) / size)
        off = at.probabilities["calibration_error"].value
        axes.errorbar(
            table.predicted[filled],
            share,
            error,
            fmt="o-",
            ms=4,
            color=_shade(k, len(some), theme),
            label=f"{at.noise:.3g} ({off:.3f})",
        )
    axes.set_ylim(-0.05, 1.05)
    legend(axes, theme, "upper left", "σ [nJy] (calibration error)", fontsize="small")
    return figure


def gallery(examples: Sequence[Example], theme: str, columns: int = 6) -> Figure:
    """Cutouts with the true places of their galaxies, stretched by asinh of the noise."""
    rows = -(-len(examples) // columns)
    figure, panels = planes(theme, rows, columns, (12, 2.5 * rows))
    for axes in panels[len(examples) :]:
        axes.set_axis_off()
    for axes, example in zip(panels, examples, strict=False):
        show_light(axes, example.pixels)
        for x, y in example.middles:
            axes.plot(x, y, "+", color="#7dff7d", ms=9, mew=1)
        name_axes(axes, theme, "", "", example.caption)
        axes.title.set_fontsize("small")
    return figure


Plot = Callable[[Evaluation, str], Figure]
PLOTS: tuple[tuple[Plot, str, bool], ...] = (
    (
        accuracy_plot,
        "Accuracy against noise, with 95 % intervals; dashed: published.",
        False,
    ),
    (
        gain_plot,
        "Accuracy of the network less that of sep (fair rule), with 95 % intervals. Dotted: "
        f"the aims, {AIM_CLOSE} points for close blends and not below 0 for distant ones.",
        False,
    ),
    (
        separation_plot,
        "Share of the blends found against the distance of the two, by noise.",
        True,
    ),
    (
        roc_plot,
        "ROC curves of the network, by noise, in their corner; sep (fair rule) is a point.",
        False,
    ),
    (
        reliability_plot,
        "Reliability: a calibrated probability lies on the dotted line.",
        False,
    ),
)  # with their captions; whether as broad as the page
