"""The evaluation as pictures and as one page that needs no other file, in light and in dark."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from models import scores

if TYPE_CHECKING:
    from models.evaluation.shreds import Evaluation

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#8a6fb0")  # told apart by any eye
INK = {"light": "#1d2330", "dark": "#e4e8f0"}
PAPER = {"light": "#ffffff", "dark": "#12161f"}
N_MISTAKES = 24

Plot = Callable[["Evaluation", str], Figure]


def write(evaluation: Evaluation, folder: Path) -> Path:
    """Write the plots (PNG, light and dark) and a page that holds them, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    sections = []
    for name, (plot, caption) in PLOTS.items():
        images = {theme: png(plot(evaluation, theme), theme) for theme in INK}
        for theme, data in images.items():
            (folder / f"{name}-{theme}.png").write_bytes(data)
        sections.append(figure_block(images, caption))
    mistakes = _mistakes(evaluation)
    if mistakes:
        (folder / "mistakes.png").write_bytes(mistakes)
        sections.append(figure_block({"light": mistakes, "dark": mistakes}, MISTAKES))
    page = folder / "report.html"
    page.write_text(_page(evaluation, sections))
    return page


def roc_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Completeness against false positives; in the enlarged corner also the first one's folds."""
    figure, axes = plane(theme, "false positive rate", "completeness (true positive rate)")
    corner = axes.inset_axes((0.42, 0.34, 0.55, 0.46), xlim=(0, 0.15), ylim=(0.85, 1.005))
    dress(corner, theme)
    first = evaluation.opinions[0]
    for k in np.unique(evaluation.fold):
        rows = evaluation.fold == k
        x, y, _ = scores.roc(evaluation.data.is_shred[rows], first.p_shred[rows])
        corner.plot(x, y, color=COLOURS[0], alpha=0.3, linewidth=1)
    for colour, opinion in zip(COLOURS, evaluation.opinions, strict=False):
        x, y, _ = scores.roc(evaluation.data.is_shred, opinion.p_shred)
        label = f"{opinion.name} ({opinion.intervals['auc'].value:.3f})"
        axes.plot(x, y, color=colour, linewidth=2, label=label)
        corner.plot(x, y, color=colour, linewidth=2)
    legend(axes, theme, "lower right", "area under the curve")
    return figure


def reliability_plot(evaluation: Evaluation, theme: str) -> Figure:
    """Share of shreds against the probability given, with binomial errors."""
    figure, axes = plane(theme, "probability given", "share that are shreds")
    axes.plot([0, 1], [0, 1], ":", color=INK[theme], linewidth=1)
    for colour, opinion in zip(COLOURS, evaluation.opinions, strict=False):
        table = scores.reliability(evaluation.data.is_shred, opinion.p_shred)
        some = table.sizes > 0
        share, size = table.observed[some], table.sizes[some]
        error = np.sqrt((share * (1 - share) + 0.25 / size) / size)
        label = f"{opinion.name} ({opinion.intervals['calibration_error'].value:.3f})"
        axes.errorbar(table.predicted[some], share, error, fmt="o-", color=colour, label=label)
    legend(axes, theme, "lower right", "calibration error")
    return figure


def probability_plot(evaluation: Evaluation, theme: str) -> Figure:
    """How the probabilities of galaxies and of shreds are spread."""
    figure, axes = plane(theme, "P(shred)", "sources")
    p_shred, is_shred = evaluation.opinions[0].p_shred, evaluation.data.is_shred
    bins = np.linspace(0, 1, 26).tolist()
    for colour, rows, label in (
        (COLOURS[0], ~is_shred, "galaxies"),
        (COLOURS[1], is_shred, "shreds"),
    ):
        axes.hist(p_shred[rows], bins, color=colour, alpha=0.6, label=f"{label} ({rows.sum()})")
    axes.set_yscale("log")
    axes.set_ylim(0.7, None)
    legend(axes, theme, "upper center", evaluation.opinions[0].name)
    return figure


PLOTS: dict[str, tuple[Plot, str]] = {
    "roc": (
        roc_plot,
        "ROC curves, with the corner enlarged; thin lines are the folds of the first classifier.",
    ),
    "reliability": (
        reliability_plot,
        "Reliability: a calibrated probability lies on the dotted line.",
    ),
    "probabilities": (probability_plot, "Probabilities by label (logarithmic counts)."),
}
MISTAKES = (
    "The sources on which the first classifier and the label disagree most. Crosshairs mark the "
    "catalog position. Images: DESI Legacy Imaging Surveys."
)


def plane(theme: str, x: str, y: str) -> tuple[Figure, Axes]:
    """An empty plot with labelled axes, dressed for a theme."""
    figure, (axes,) = planes(theme, 1, 1, (6, 4.6))
    name_axes(axes, theme, x, y)
    return figure, axes


def planes(
    theme: str, rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple[Figure, list[Axes]]:
    """Several empty plots in one, row by row, dressed for a theme.

    Parameters
    ----------
    size : tuple of float
        Width and height of all [inch].
    **options
        Of `matplotlib.figure.Figure.subplots`.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER[theme])
    each = figure.subplots(rows, columns, squeeze=False, **options).ravel().tolist()
    for axes in each:
        dress(axes, theme)
    return figure, each


def name_axes(axes: Axes, theme: str, x: str, y: str, title: str = "") -> None:
    """Say what the axes are, and what is shown, in the colours of a theme."""
    axes.set_xlabel(x, color=INK[theme])
    axes.set_ylabel(y, color=INK[theme])
    axes.set_title(title, color=INK[theme], fontsize="medium")


def dress(axes: Axes, theme: str) -> None:
    """Give axes the colours of a theme."""
    axes.set_facecolor(PAPER[theme])
    axes.tick_params(colors=INK[theme], which="both")
    axes.grid(alpha=0.15, color=INK[theme])
    for spine in axes.spines.values():
        spine.set_color(INK[theme])


def show_light(axes: Axes, pixels: NDArray[np.float32]) -> None:
    """A cutout in units of its noise, compressed by asinh; no ticks."""
    light = pixels - np.median(pixels)
    noise = 1.4826 * np.median(np.abs(light)) or 1.0
    axes.imshow(np.arcsinh(light / noise / 2), cmap="gray", origin="lower", vmin=-1)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])


def legend(axes: Axes, theme: str, place: Any, title: str, **options: Any) -> None:
    """Add a legend in the colours of a theme; `options` are matplotlib's."""
    colours = {"facecolor": PAPER[theme], "labelcolor": INK[theme]}
    shown = axes.legend(loc=place, title=title, **colours, **options)
    shown.get_title().set_color(INK[theme])


def png(figure: Figure, theme: str) -> bytes:
    """A plot as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor=PAPER[theme])
    return buffer.getvalue()


def _mistakes(evaluation: Evaluation) -> bytes | None:
    """The worst disagreements as one picture, each with its label and probability."""
    data, p_shred = evaluation.data, evaluation.opinions[0].p_shred
    wrong = np.flatnonzero((p_shred >= 0.5) != data.is_shred)
    if not len(wrong):
        return None
    wrong = wrong[np.argsort(-np.abs(p_shred[wrong] - data.is_shred[wrong]))][:N_MISTAKES]
    columns, cell = 6, 132
    rows = -(-len(wrong) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * (cell + 16)), "#12161f")
    draw = ImageDraw.Draw(sheet)
    for place, k in enumerate(wrong):
        x, y = place % columns * cell + 2, place // columns * (cell + 16) + 2
        sheet.paste(Image.fromarray(data.rgb[k]), (x, y))
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            ends = [(x + 64 + step * dx, y + 64 + step * dy) for step in (5, 11)]
            draw.line(ends, fill="#7dff7d")
        draw.text((x + 1, y + 129), f"{data.label[k]}  P = {p_shred[k]:.2f}", fill="#e4e8f0")
    buffer = io.BytesIO()
    sheet.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def plot_block(plot: Callable[[str], Figure], caption: str, wide: bool = False) -> str:
    """HTML of a plot, drawn for both themes, with its caption; as broad as the page if wide."""
    return figure_block({theme: png(plot(theme), theme) for theme in INK}, caption, wide)


def figure_block(images: dict[str, bytes], caption: str, wide: bool = False) -> str:
    """HTML of a picture with its caption, light or dark as the reader's screen is."""
    uri = {
        theme: "data:image/png;base64," + base64.b64encode(data).decode()
        for theme, data in images.items()
    }
    dark = ""
    if uri["dark"] != uri["light"]:
        dark = f'<source srcset="{uri["dark"]}" media="(prefers-color-scheme: dark)">'
    text = html.escape(caption)
    picture = f'<picture>{dark}<img src="{uri["light"]}" alt="{text}"></picture>'
    return (
        f"<figure{' class=wide' if wide else ''}>{picture}<figcaption>{text}</figcaption></figure>"
    )


def _table(evaluation: Evaluation) -> str:
    names = list(evaluation.opinions[0].intervals)
    rows = [
        [html.escape(opinion.name), *(cell(opinion.intervals[name]) for name in names)]
        for opinion in evaluation.opinions
    ]
    return table_block(["classifier", *(name.replace("_", " ") for name in names)], rows)


def cell(interval: scores.Interval, digits: int = 3, factor: float = 1) -> str:
    """HTML of a number with its interval below, times a factor; a dash where there is none."""
    value, low, high = (x * factor for x in (interval.value, interval.low, interval.high))
    if np.isnan(value):
        return "–"
    if np.isnan(low):
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} <small>{low:.{digits}f} to {high:.{digits}f}</small>"


def table_block(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a table; the first of each row is its heading, cells may hold HTML."""
    top = "".join(f"<th scope=col>{each}</th>" for each in head)
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{each}</td>' for each in others)}</tr>"
        for first, *others in rows
    )
    return f"<div class=scroll><table><thead><tr>{top}</tr></thead>{body}</table></div>"


def _page(evaluation: Evaluation, sections: list[str]) -> str:
    facts = evaluation.as_dict()
    return document(
        evaluation.title,
        f"""<p>{html.escape(evaluation.protocol)}</p>
<p>{facts["n_galaxies"]} galaxies and {facts["n_shreds"]} shreds in {facts["n_groups"]} groups.
A source is called a shred from probability 0.5; the shred is the positive class. Intervals are
95 %, by resampling whole groups.</p>
{_table(evaluation)}
<div class=plots>{"".join(sections)}</div>
<footer>Labels SHA-256 {facts["labels_sha256"]}</footer>""",
    )


def write_files(folder: Path, numbers: dict[str, Any], table: dict[str, str], page: str) -> Path:
    """Write `metrics.json`, a table by its file name, and `report.html`; the path of that."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(numbers, indent=2) + "\n")
    for name, text in table.items():
        (folder / name).write_text(text)
    path = folder / "report.html"
    path.write_text(page)
    return path


def document(title: str, body: str) -> str:
    """A whole page in one file; `body` is HTML."""
    heading = html.escape(title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><style>{STYLE}</style></head><body>
<h1>{heading}</h1>
{body}
</body></html>
"""


STYLE = """
:root { --ink: #1d2330; --paper: #fff; --line: #d5dae4 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --paper: #12161f; --line: #333b4b } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .4rem .5rem; border-bottom: 1px solid var(--line) }
td small, th small { display: block; opacity: .75; white-space: nowrap; font-weight: normal }
.scroll { overflow-x: auto; margin: 1rem 0 } figure { margin: 0 }
.wide { grid-column: 1 / -1 }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 2rem; margin: 2rem 0 } img { max-width: 100%; height: auto }
figcaption, footer { opacity: .8; font-size: .9rem; overflow-wrap: anywhere }
"""
