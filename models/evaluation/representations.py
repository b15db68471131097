"""Do neighbours in the space of an encoder look alike? Measured only on pictures it never learnt.

Two ways: `cross_validate` trains anew for every fold, and searches within the held-out fold alone;
`evaluate_version` asks given weights about the labelled sources that lie in groups of which they
have seen no picture. Baselines are searched in exactly the same galleries. The page and its
pictures are in `neighbours_report`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from models import registry, representations, retrieval, scores
from models.evaluation.shreds import SeenError, fingerprints, read_fingerprints
from models.features import features
from models.labelled import Labelled, folds
from models.training.representations import (
    TAGS,
    Preset,
    Progress,
    Sky,
    fine_tune,
    principal_components,
    started,
)

LEAST_MEMBERS = 20  # a tag with fewer sources, by both passes, is not counted
RANKS = (5, 10, 20)  # of precision@k
NEIGHBOURS = 10  # whose share of shreds is the nearest-neighbour classifier
PROBE_FOLDS = 5
CAVEAT = (
    "The recipe was chosen by looking at such numbers, so they are slightly flattering; the "
    "intervals do not include that."
)
PROBES = (
    "Linear probes are trained within the gallery, in folds split by group; before, the vectors of "
    "the whole gallery are brought to unit scatter, without labels and for all encoders alike."
)


@dataclass(frozen=True)
class Encoded:
    """What an encoder made of a gallery."""

    embedding: NDArray[np.floating]  # (n, d)
    reduced: NDArray[np.floating]  # (n, k), k at most 40


@dataclass(frozen=True)
class Space:
    """Where is searched: which vector, how many of its numbers, and by which distance."""

    name: str
    vector: str  # embedding or reduced
    metric: retrieval.Metric
    length: int | None = None

    def of(self, encoded: Encoded) -> NDArray[np.floating]:
        """The vectors (n, d) of this space."""
        vectors: NDArray[np.floating] = getattr(encoded, self.vector)
        return vectors[:, : self.length]


SPACES = (
    Space("reduced 40, L1", "reduced", "l1"),
    Space("reduced 10, L1", "reduced", "l1", 10),
    Space("embedding, L1", "embedding", "l1"),
    Space("embedding, L2", "embedding", "l2"),
    Space("embedding, cosine", "embedding", "cosine"),
)
SEARCHED = SPACES[0]  # what the product searches by default


@dataclass(frozen=True)
class Judged:
    """How one encoder did in one space, query by query, over all galleries."""

    encoder: str
    space: Space
    average_precision: NDArray[np.float64]  # (n, tags); NaN where a source is no query
    precision: dict[int, NDArray[np.float64]]  # by k: (n, tags)
    shred_share: NDArray[np.float64]  # (n,) among the neighbours
    probed: NDArray[np.float64] | None = None  # (n, 1 + tags): chance of a shred, of each tag
    metrics: dict[str, scores.Interval] = field(default_factory=dict)
    per_tag: dict[str, scores.Interval] = field(default_factory=dict)  # mAP


@dataclass(frozen=True)
class Evaluation:
    """What a report shows; the first encoder is the one that is judged."""

    title: str
    protocol: str
    data: Labelled
    tags: tuple[str, ...]  # those that are counted
    fold: NDArray[np.int64]  # (n,) the gallery each source was searched in
    encoded: dict[str, list[Encoded]]  # by encoder, one per gallery
    judged: list[Judged]
    facts: dict[str, dict[str, float]] = field(default_factory=dict)

    @cached_property
    def galleries(self) -> list[NDArray[np.int64]]:
        """Rows of each gallery."""
        return [np.flatnonzero(self.fold == k) for k in np.unique(self.fold)]

    def as_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return {
            "title": self.title,
            "protocol": self.protocol,
            "n_sources": len(self.data),
            "n_groups": len(np.unique(self.data.group)),
            "n_galleries": len(self.galleries),
            "labels_sha256": self.data.sha256,
            "members": {tag: int((self.data.degree(tag) == 1).sum()) for tag in self.tags},
            "encoders": {
                name: {
                    each.space.name: {
                        metric: interval.as_dict() for metric, interval in each.metrics.items()
                    }
                    | {"per_tag": {tag: i.as_dict() for tag, i in each.per_tag.items()}}
                    for each in self.judged
                    if each.encoder == name
                }
                for name in self.encoded
            },
            "facts": self.facts,
        }


Judge = Callable[[Labelled | None, Labelled], Encoded]


def cross_validate(
    data: Labelled,
    start: keras.Model,
    sky: Sky,
    preset: Preset,
    name: str,
    *,
    n_folds: int = 3,
    seed: int = 0,
    baselines: dict[str, Judge] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Fine-tune and judge `n_folds` times, every source searched among unseen ones only.

    Parameters
    ----------
    data : Labelled
        With tags.
    start : keras.Model
        An encoder that has seen no real picture; every fold starts with its weights.
    sky : Sky
        Simulated pictures for the fine-tuning.
    preset : Preset
    name : str
        What the report calls the encoder.
    baselines : dict of str to Judge, optional
        By default those of `baselines`.
    progress : callable, optional
        Called with 1 after each round of training.
    """

    def trained(training: Labelled | None, unseen: Labelled) -> Encoded:
        if training is None:
            raise ValueError("cross-validation needs sources to train on")
        encoder = representations.build(preset.architecture, **preset.options)
        encoder.set_weights(start.get_weights())
        return encode(fine_tune(encoder, training, sky, preset, seed, progress=progress), unseen)

    def before(training: Labelled | None, unseen: Labelled) -> Encoded:
        return encode(start, unseen)

    fold = folds(data.group, n_folds, seed)
    judges: dict[str, Judge] = {name: trained, "the same before any real picture": before}
    judges |= default_baselines(seed) if baselines is None else baselines
    encoded = {
        label: [judge(data.take(fold != k), data.take(fold == k)) for k in range(n_folds)]
        for label, judge in judges.items()
    }
    protocol = (
        f"{n_folds}-fold cross-validation, folds split by group (seed {seed}): queries and gallery "
        "are one held-out fold, whose groups the encoder and its principal components never saw. "
        f"{PROBES} {CAVEAT}"
    )
    return _evaluation(f"Representations: {name}", protocol, data, fold, encoded)


def evaluate_version(
    data: Labelled, card: registry.Card, baselines: dict[str, Judge] | None = None
) -> Evaluation:
    """Judge the weights of a card on the groups of sources of which they have never seen one.

    The principal components of the baselines are those of the gallery itself.

    Raises
    ------
    SeenError
        Too few sources are in groups without a training picture.
    """
    unseen = _unseen(data, card.path, card.name)
    return _evaluate_encoder(unseen, registry.load(card), card.name, baselines)


def evaluate_weights(
    data: Labelled, preset: Preset, weights: Path, baselines: dict[str, Judge] | None = None
) -> Evaluation:
    """Judge a file of weights that has no card; the list of pictures it saw lies beside it.

    Raises
    ------
    FileNotFoundError, SeenError
    """
    unseen = _unseen(data, weights, weights.name)
    return _evaluate_encoder(unseen, started(preset, weights), weights.name, baselines)


def _unseen(data: Labelled, weights: Path, name: str) -> Labelled:
    """The sources of whose group on the sky no picture was trained on.

    A picture that was learnt is known by its pixels; its neighbours show the same galaxy.
    """
    seen = np.isin(fingerprints(data.rgb), read_fingerprints(registry.seen_path(weights)))
    related = np.isin(data.group, np.unique(data.group[seen]))
    if (~related).sum() < 2 * LEAST_MEMBERS:
        raise SeenError(
            f"{name} was trained on {int(seen.sum())} of these {len(data)} sources and too few "
            "that are not near one of them are left to judge it: its card holds the "
            "cross-validated numbers, and --cross-validate measures its recipe again"
        )
    return data.take(~related)


def _evaluate_encoder(
    unseen: Labelled, model: keras.Model, name: str, baselines: dict[str, Judge] | None
) -> Evaluation:
    judges = default_baselines(0) if baselines is None else baselines
    encoded = {name: [encode(model, unseen)]}
    encoded |= {label: [judge(None, unseen)] for label, judge in judges.items()}
    protocol = (
        f"{len(unseen)} sources that {name} has never seen; every group on the sky with a picture "
        "that it was trained on is left out whole (a picture is known by its pixels, so the same "
        f"galaxy from another survey is not noticed). Queries and gallery are these. {PROBES}"
    )
    fold = np.zeros(len(unseen), np.int64)
    return _evaluation(f"Representations: {name}", protocol, unseen, fold, encoded)


def encode(model: keras.Model, data: Labelled) -> Encoded:
    """What an encoder makes of labelled pictures."""
    return Encoded(*representations.encode(model, data.rgb))


def default_baselines(seed: int) -> dict[str, Judge]:
    """What every encoder must beat."""

    def untrained(data: Labelled) -> NDArray:
        keras.utils.set_random_seed(seed)
        return representations.encode(representations.build("efficientnetb0"), data.rgb)[0]

    def numbers(data: Labelled) -> NDArray:
        return features(data.rgb)

    return {
        "31 photometric numbers": reduced_by(numbers, standardised=True),
        "untrained EfficientNetB0": reduced_by(untrained),
        "PCA of the pixels": reduced_by(_pixels),
        "chance": _chance(seed),
    }


def imagenet(path: Path) -> Judge:
    """A baseline: EfficientNetB0 on the pictures as they are, with ImageNet weights of a file."""

    def vectors(data: Labelled) -> NDArray:
        encoder = representations.build("efficientnetb0")
        representations.load_imagenet(encoder, path)
        return representations.encode(encoder, data.rgb)[0]

    return reduced_by(vectors)


def _pixels(data: Labelled) -> NDArray[np.float32]:
    """Every second pixel after averaging two by two: (n, 64 * 64 * 3)."""
    n, side = len(data), data.rgb.shape[1] // 2
    pairs = data.rgb.reshape(n, side, 2, side, 2, 3).astype(np.float32)
    binned: NDArray[np.float32] = pairs.mean(axis=(2, 4)).reshape(n, -1)
    return binned


def _chance(seed: int) -> Judge:
    def random(training: Labelled | None, unseen: Labelled) -> Encoded:
        vectors = np.random.default_rng(seed).normal(size=(len(unseen), 40))
        return Encoded(vectors, vectors)

    return random


def reduced_by(vectors: Callable[[Labelled], NDArray], *, standardised: bool = False) -> Judge:
    """A judge from a function of pictures: principal components of the training part, if any."""

    def judge(training: Labelled | None, unseen: Labelled) -> Encoded:
        embedding = vectors(unseen)
        known = embedding if training is None else vectors(training)
        if standardised:
            mean, scatter = known.mean(axis=0), known.std(axis=0) + 1e-6
            known, embedding = (known - mean) / scatter, (embedding - mean) / scatter
        found = principal_components(known)
        return Encoded(embedding, found.transform(embedding))

    return judge


def _evaluation(
    title: str,
    protocol: str,
    data: Labelled,
    fold: NDArray[np.int64],
    encoded: dict[str, list[Encoded]],
) -> Evaluation:
    tags = tuple(tag for tag in TAGS if (data.degree(tag) == 1).sum() >= LEAST_MEMBERS)
    found = Evaluation(title, protocol, data, tags, fold, encoded, [])
    for name, each in encoded.items():
        found.judged.extend(_judge(found, name, each, space) for space in SPACES)
        found.facts[name] = _facts(found, each)
    return found


def _judge(found: Evaluation, name: str, encoded: list[Encoded], space: Space) -> Judged:
    data, n = found.data, len(found.data)
    degrees = np.stack([data.degree(tag) for tag in found.tags], axis=1)
    average = np.full((n, len(found.tags)), np.nan)
    precision = {k: average.copy() for k in RANKS}
    share = np.full(n, np.nan)
    for rows, each in zip(found.galleries, encoded, strict=True):
        order = retrieval.ranked(space.of(each), data.group[rows], space.metric)
        share[rows] = retrieval.share_among(
            order, data.is_shred[rows], data.decided[rows], NEIGHBOURS
        )
        for t in range(len(found.tags)):
            degree = degrees[rows, t]
            average[rows, t] = retrieval.average_precision(order, degree)
            for k in RANKS:
                precision[k][rows, t] = retrieval.precision(order, degree, k)
    probed = None
    if space in (SPACES[0], SPACES[2]):
        probed = _probed(found, [space.of(each) for each in encoded], degrees)
    judged = Judged(name, space, average, precision, share, probed)
    _measure(judged, found, degrees)
    return judged


def _probed(found: Evaluation, vectors: list[NDArray], degrees: NDArray) -> NDArray[np.float64]:
    """Linear probes for shreds (decided sources) and tags (undoubted ones) in each gallery."""
    data = found.data
    questions = [(data.is_shred, data.decided)]
    questions += [(degree == 1, degree != 0.5) for degree in degrees.T]
    result = np.full((len(data), len(questions)), np.nan)
    for rows, each in zip(found.galleries, vectors, strict=True):
        fold, each = folds(data.group[rows], PROBE_FOLDS), retrieval.standardised(each)
        for column, (is_so, known) in enumerate(questions):
            asked = known[rows]
            result[rows[asked], column] = retrieval.probe(
                each[asked], is_so[rows[asked]], fold[asked]
            )
    return result


def _measure(judged: Judged, found: Evaluation, degrees: NDArray) -> None:
    """Sum up the queries, with intervals by group."""
    group, metrics = found.data.group, judged.metrics
    metrics["map"] = retrieval.mean_over_tags(judged.average_precision, group)
    for k, values in judged.precision.items():
        metrics[f"precision_at_{k}"] = retrieval.mean_over_tags(values, group)
    for t, tag in enumerate(found.tags):
        column = judged.average_precision[:, t : t + 1]
        judged.per_tag[tag] = retrieval.mean_over_tags(column, group)
    metrics["shred_auc"] = _over_sources(found.data.is_shred, judged.shred_share, found.data, "auc")
    if judged.probed is None:
        return
    shred = judged.probed[:, 0]
    metrics["probe_shred_accuracy"] = _over_sources(
        found.data.is_shred, shred, found.data, "accuracy"
    )
    metrics["probe_shred_auc"] = _over_sources(found.data.is_shred, shred, found.data, "auc")
    metrics["probe_tag_auc"] = retrieval.mean_auc(
        np.where(degrees == 0.5, np.nan, degrees), judged.probed[:, 1:], group
    )


def _over_sources(
    is_shred: NDArray, p_shred: NDArray, data: Labelled, metric: str
) -> scores.Interval:
    rows = ~np.isnan(p_shred) & data.decided
    if len(np.unique(is_shred[rows])) < 2:
        return scores.Interval(float("nan"), float("nan"), float("nan"))
    wanted = {metric: scores.METRICS[metric]}
    return scores.bootstrap(
        is_shred[rows], p_shred[rows], data.group[rows], wanted, n_resamples=400
    )[metric]


def _facts(found: Evaluation, encoded: list[Encoded]) -> dict[str, float]:
    """Variance in 10, 15 and 40 components, and how far their neighbours are the embedding's."""
    facts = {}
    for length in (10, 15, 40):
        shares = [
            each.reduced[:, :length].var(axis=0).sum() / each.embedding.var(axis=0).sum()
            for each in encoded
        ]
        facts[f"variance_{length}"] = round(float(np.mean(shares)), 4)
    shared = []
    for rows, each in zip(found.galleries, encoded, strict=True):
        reduced, embedding = (
            retrieval.ranked(SPACES[k].of(each), found.data.group[rows], "l1") for k in (0, 2)
        )
        shared.append(retrieval.overlap(reduced, embedding))
    facts["neighbours_in_common"] = round(float(np.mean(shared)), 4)
    return facts
