"""Annotators that measure light: the band and unit they see, their flags, their rows."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from cli import main
from db import model_versions
from db.cutouts import CutoutFlag
from db.home import pixels as pixel_store
from db.tables import Blend, Job, ModelVersion, PairFlux
from models import registry
from models.registry import Card
from tests.workers import tiny_blends
from tests.workers.fake import LIGHT as FAKE_LIGHT
from tests.workers.fake import PLAIN, make_runner
from tests.workers.field import make_field
from tests.workers.tiny_blends import SEP_CALIBRATION, Cards, cutout, make_pairs
from workers.annotators.base import CutoutBatch
from workers.annotators.blends import Blends
from workers.annotators.cutouts import PictureFlag
from workers.annotators.light import LightAnnotator, LightFlag, central
from workers.annotators.pair_flux import PairFluxes, PairFluxFlag, packed
from workers.runner import Runner
from workers.writer import WorkerStopped

LIGHT = (Blends, PairFluxes)
KNOWN = ~int(PairFluxFlag.NO_COMPANION)  # bits that do not depend on what a network happens to say


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Cards:
    return tiny_blends.write_cards(tmp_path_factory.mktemp("cards"))


@pytest.fixture(scope="module")
def loaded(cards: Cards) -> dict[type[LightAnnotator], LightAnnotator]:
    return {annotator: load(annotator, cards) for annotator in LIGHT}


def load(annotator: type[LightAnnotator], cards: Cards, **changes: Any) -> LightAnnotator:
    instance, card = annotator(batch_size=4), cards(annotator.name)[0]
    instance.load(ModelVersion(annotator=card.annotator, card=replace(card, **changes).as_dict()))
    return instance


def batch(images: NDArray, **values: Any) -> CutoutBatch:
    """Images (n, h, w) of one band, or (n, h, w, b), as cutouts in nJy."""
    images = images[..., None] if images.ndim == 3 else images
    n = len(images)
    defaults = {
        "source_ids": np.arange(n),
        "pixels": images,
        "readable": np.ones(n, bool),
        "cutout_flags": np.zeros(n, np.int32),
        "bands": ("r",),
        "pixel_scale": 0.2,
        "unit": "nJy",
    }
    return CutoutBatch(**(defaults | values))


def assert_same(found: dict[str, NDArray], expected: dict[str, NDArray], rtol: float) -> None:
    for name, values in expected.items():
        if values.dtype == object:
            assert found[name].tolist() == values.tolist()
        else:
            np.testing.assert_allclose(found[name], values, rtol=rtol)


@pytest.mark.parametrize("annotator", LIGHT)
def test_nanomaggies_are_converted_to_nanojanskys(
    annotator: type[LightAnnotator], loaded: dict[type[LightAnnotator], LightAnnotator]
) -> None:
    pair = cutout()[None]

    in_njy = loaded[annotator].annotate(batch(pair))
    in_nanomaggies = loaded[annotator].annotate(batch(pair / 3631, unit="nanomaggy"))

    assert_same(in_nanomaggies, in_njy, rtol=1e-3)


@pytest.mark.parametrize("annotator", LIGHT)
def test_of_several_bands_the_one_of_the_card_is_measured_whatever_the_others_hold(
    annotator: type[LightAnnotator], cards: Cards
) -> None:
    in_i = load(annotator, cards, inputs={"bands": ["i"]})
    pair = cutout()
    planes = np.stack([np.full_like(pair, np.nan), pair, np.zeros_like(pair)], axis=-1)[None]

    found = in_i.annotate(batch(planes, bands=("r", "i", "z")))

    assert_same(found, in_i.annotate(batch(pair[None], bands=("i",))), rtol=1e-6)
    assert (found["flags"] & KNOWN).tolist() == [0]
    blind = in_i.annotate(batch(planes, bands=("r", "z", "i")))
    assert blind["flags"].tolist() == [PictureFlag.NO_SIGNAL]


def test_a_card_without_a_band_takes_the_only_one_of_a_set(cards: Cards) -> None:
    whichever = load(Blends, cards, inputs={"bands": []})

    found = whichever.annotate(batch(cutout()[None], bands=("F814W",)))

    assert found["flags"].tolist() == [0]


def test_only_the_middle_of_a_larger_cutout_is_looked_at(
    loaded: dict[type[LightAnnotator], LightAnnotator],
) -> None:
    large = cutout(size=160)

    assert_same(
        loaded[PairFluxes].annotate(batch(large[None])),
        loaded[PairFluxes].annotate(batch(large[None, 16:-16, 16:-16])),
        rtol=1e-6,
    )


@pytest.mark.parametrize("annotator", LIGHT)
def test_a_large_cutout_is_judged_by_its_middle_and_by_nothing_else(
    annotator: type[LightAnnotator], loaded: dict[type[LightAnnotator], LightAnnotator]
) -> None:
    margin = (256 - annotator.inputs.size) // 2
    middle = np.s_[margin:-margin, margin:-margin]
    whole = cutout(size=256)
    blind, alone = whole.copy(), np.full_like(whole, np.nan)
    blind[middle] = np.nan
    alone[middle] = whole[middle]

    found = loaded[annotator].annotate(batch(np.stack([whole, blind, alone])))

    assert (found["flags"] & KNOWN).tolist() == [
        0,
        PictureFlag.NO_SIGNAL | PictureFlag.NOT_FINITE,
        0,
    ]
    first = found[annotator.outputs[0].column]
    assert np.isfinite(first).tolist() == [True, False, True]
    assert first[2] == pytest.approx(first[0], rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (5, 3, [1, 2, 3]),
        (4, 3, [0, 1, 2]),
        (3, 3, [0, 1, 2]),
        (2, 4, [np.nan, 0, 1, np.nan]),
        (2, 3, [np.nan, 0, 1]),
    ],
)
def test_cutouts_are_cut_or_padded_about_their_centre_and_never_resampled(
    old: int, new: int, expected: list[float]
) -> None:
    rows = np.repeat(np.arange(old, dtype=np.int16)[None, :, None], old, axis=2)

    found = central(rows, new)

    middle = new // 2
    np.testing.assert_array_equal(found[0, :, middle], np.array(expected, np.float32))
    assert np.array_equal(np.isnan(found), np.isnan(found.transpose(0, 2, 1)))


@pytest.mark.parametrize("annotator", LIGHT)
def test_a_missing_border_is_flagged_and_taken_as_sky(
    annotator: type[LightAnnotator], loaded: dict[type[LightAnnotator], LightAnnotator]
) -> None:
    size = annotator.inputs.size
    small = cutout(size=size)[None, 3:-4, 3:-4]
    outside = np.array([int(CutoutFlag.PARTLY_OUTSIDE)], np.int32)

    of_small = loaded[annotator].annotate(batch(small))
    of_edge = loaded[annotator].annotate(batch(cutout(size=size)[None], cutout_flags=outside))

    assert (of_small["flags"] & KNOWN).tolist() == [PictureFlag.PARTIAL]
    assert (of_edge["flags"] & KNOWN).tolist() == [PictureFlag.PARTIAL]
    assert of_small["sep_detections"].tolist() == [2]


def obstructed(size: int) -> NDArray[np.float32]:
    """A clean pair, three galaxies, one at the edge, and one with a flat core, (4, size, size)."""
    images = np.stack([cutout(size=size, seed=seed) for seed in range(4)])
    images[1] += cutout(dx=-18, flux=(0, 6000), size=size, seed=9)
    images[2] = cutout(dx=size / 2 - 2, size=size)
    images[3] = np.minimum(images[3], 120)
    return images


@pytest.mark.parametrize("annotator", LIGHT)
def test_what_the_network_was_not_made_for_is_flagged_and_measured_all_the_same(
    annotator: type[LightAnnotator], loaded: dict[type[LightAnnotator], LightAnnotator]
) -> None:
    found = loaded[annotator].annotate(batch(obstructed(annotator.inputs.size)))

    assert (found["flags"] & KNOWN).tolist() == [
        0,
        LightFlag.MORE_THAN_TWO,
        LightFlag.CUT_OFF,
        LightFlag.SATURATED,
    ]
    assert np.isfinite(found[annotator.outputs[0].column]).all()


def test_fluxes_of_sep_are_calibrated_and_null_where_it_finds_nothing(
    loaded: dict[type[LightAnnotator], LightAnnotator],
) -> None:
    noise = np.random.default_rng(1).normal(size=(128, 128)).astype(np.float32)
    single = cutout(flux=(9000, 0))

    found = loaded[PairFluxes].annotate(batch(np.stack([cutout(), single, noise])))

    assert found["sep_detections"].tolist() == [2, 1, 0]
    assert np.isnan(found["sep_flux_central"]).tolist() == [False, False, True]
    assert np.isnan(found["sep_flux_companion"]).tolist() == [False, True, True]
    assert found["sep_flux_central"][:2] == pytest.approx(9000 * SEP_CALIBRATION, rel=0.05)
    assert found["sep_flux_companion"][0] == pytest.approx(5000 * SEP_CALIBRATION, rel=0.05)


def test_some_sky_that_is_left_changes_no_flux_of_sep(
    loaded: dict[type[LightAnnotator], LightAnnotator],
) -> None:
    pair = cutout()

    found = loaded[PairFluxes].annotate(batch(np.stack([pair, pair + 20])))

    for galaxy in ("central", "companion"):
        without, with_sky = found[f"sep_flux_{galaxy}"]
        assert with_sky == pytest.approx(without, rel=1e-3)


def test_without_a_calibration_in_the_card_sep_has_no_fluxes(cards: Cards) -> None:
    found = load(PairFluxes, cards, training={}).annotate(batch(cutout()[None]))

    assert np.isnan([found["sep_flux_central"], found["sep_flux_companion"]]).all()
    assert found["sep_detections"].tolist() == [2]


def test_the_separation_is_in_arcsec_and_null_without_a_companion_which_a_flag_says(
    loaded: dict[type[LightAnnotator], LightAnnotator], monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.pair_flux import PairFluxes as Said

    masks = np.zeros((2, 128, 128, 2), bool)
    masks[:, 60, 60, 0] = masks[0, 60, 70, 1] = True
    ones = np.ones((2, 2), np.float32)
    said = Said(ones, ones, masks, np.array([10, np.nan], np.float32))
    monkeypatch.setattr(loaded[PairFluxes], "_predict", lambda *_: said)

    found = loaded[PairFluxes].annotate(batch(np.stack([cutout()] * 2), pixel_scale=0.3))

    assert found["separation"][0] == pytest.approx(3.0)
    assert np.isnan(found["separation"][1])
    assert found["flags"].tolist() == [0, PairFluxFlag.NO_COMPANION]


def test_masks_are_packed_central_first_and_lowest_row_first() -> None:
    masks = np.random.default_rng(2).random((3, 8, 8, 2)) < 0.5

    found = packed(masks, 3)

    for row, mask in zip(found, masks, strict=True):
        assert len(row) == 2 * 8 * 8 / 8
        bits = np.unpackbits(np.frombuffer(row, np.uint8)).reshape(2, 8, 8)
        np.testing.assert_array_equal(bits, np.moveaxis(mask, -1, 0))


def test_a_published_network_leaves_null_what_it_does_not_give(
    tmp_path: Path, cards: Cards
) -> None:
    from models import pair_flux

    path = tmp_path / "published.weights.h5"
    pair_flux.build("blend2flux", width=2).save_weights(path)
    file = {"weights": str(path), "sha256": registry.sha256(path), "build": {"width": 2}}
    published = load(PairFluxes, cards, name="blend2flux.tiny", **file)

    found = published.annotate(batch(cutout()[None]))

    fluxes = ("flux_central", "flux_companion")
    assert np.isfinite([found[name] for name in fluxes]).all()
    assert np.isnan([found[f"{name}_err"] for name in fluxes]).all()
    assert np.isnan(found["separation"]).all()
    assert found["masks"].tolist() == [None]
    assert found["flags"].tolist() == [0]


@pytest.mark.parametrize("annotator", LIGHT)
def test_a_card_says_in_which_band_and_on_which_scale_its_fluxes_are(
    annotator: type[LightAnnotator],
) -> None:
    described = annotator.description({"inputs": {"bands": ["i"]}})

    fluxes = [each for each in described["outputs"] if each["ucd"].startswith("phot")]
    assert len(fluxes) == (4 if annotator is PairFluxes else 0)
    for each in fluxes:
        assert (each["unit"], each["ucd"]) == ("nJy", "phot.flux.density;em.opt")
        assert "in band i; AB magnitude is 31.4 - 2.5 log10(flux)" in each["description"]


def runner(engine: Engine, cards: Cards, **values: Any) -> Runner:
    """A worker of both annotators that stops when nothing is left."""
    found = make_runner(engine, LIGHT, **values)
    found.station.cards = cards
    return found


@pytest.mark.usefixtures("environment")
def test_every_source_gets_one_row_of_each_with_what_was_said(engine: Engine, cards: Cards) -> None:
    ids = make_pairs(engine, 3, pixel_store())

    tallies = [runner(engine, cards).run() for _ in range(2)]

    assert [tally.n_annotated for tally in tallies] == [6, 0]
    with Session(engine) as session:
        blends = session.scalars(sa.select(Blend).order_by(Blend.source_id)).all()
        pairs = session.scalars(sa.select(PairFlux).order_by(PairFlux.source_id)).all()
    assert [row.source_id for row in blends] == [row.source_id for row in pairs] == ids
    assert {(row.sep_is_blend, row.sep_detections, row.flags) for row in blends} == {(True, 2, 0)}
    for row in pairs:
        assert row.sep_flux_central == pytest.approx(9000 * SEP_CALIBRATION, rel=0.05)
        assert row.masks is not None
        assert len(row.masks) == 2 * 128 * 128 // 8


@pytest.mark.usefixtures("environment")
def test_a_network_that_does_not_ship_yet_is_to_be_trained_and_the_log_says_how(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    without = make_runner(engine, LIGHT)
    without.station.cards = lambda _: []

    with pytest.raises(WorkerStopped, match=r"skygloss train pair_flux.* models/weights\.toml"):
        without.run()

    assert "annotator=pair_flux version=none (skygloss train pair_flux" in caplog.text


@pytest.mark.usefixtures("environment")
def test_pictures_are_no_failures_of_what_measures_light_and_the_log_says_so_once(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    make_field(engine, [[PLAIN]])

    with caplog.at_level(logging.INFO):
        tally = make_runner(engine, FAKE_LIGHT).run()

    assert tally.n_annotated == 0
    assert caplog.text.count("they need nJy or nanomaggy") == 1
    with Session(engine) as session:
        assert session.scalars(sa.select(Job.id)).all() == []


def type_band(*words: str) -> Result:
    return CliRunner().invoke(main, ["models", "band", *words])


def register(engine: Engine, card: Card) -> None:
    with Session(engine) as session, session.begin():
        names = (card.annotator, card.name, card.sha256)
        model_versions.register(session, *names, card.as_dict())


@pytest.mark.usefixtures("environment")
def test_the_same_weights_look_at_another_band_under_a_name_of_their_own(
    engine: Engine, cards: Cards
) -> None:
    ids = make_pairs(engine, 2, pixel_store(), bands=["g", "i"])
    [card] = cards("pair_flux")
    register(engine, card)

    said = [type_band("pair_flux", card.name, "i") for _ in range(2)]
    runner(engine, cards, version=f"{card.name}-i").run()

    assert [result.exit_code for result in said] == [0, 0], said[0].output
    assert "skygloss models promote pair_flux shares.tiny-i" in said[0].output
    with Session(engine) as session:
        [version] = [
            each
            for each in model_versions.listed(session, "pair_flux")
            if each.name == "shares.tiny-i"
        ]
        rows = session.scalars(sa.select(PairFlux)).all()
    assert (version.state, version.weights_sha256) == ("candidate", card.sha256)
    assert version.card["inputs"]["bands"] == ["i"]
    assert "in band i;" in version.card["outputs"][0]["description"]
    assert {row.source_id for row in rows} == set(ids)
    assert {row.model_version_id for row in rows} == {version.id}
    assert {row.flags & KNOWN for row in rows} == {0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pair_flux", "shares.other", "i"), "no version 'shares.other' of pair_flux; known: "),
        (("pair_flux", "shares.tiny", "r"), "shares.tiny looks at r already"),
        (("pair_flux", "shares.tiny", "i/z"), "such as i or F814W; not 'i/z'"),
        (("shreds", "polar.legacy-1", "i"), "'shreds' is not one of 'blends', 'pair_flux'"),
    ],
)
@pytest.mark.usefixtures("environment")
def test_what_cannot_look_at_another_band_is_refused_in_words(
    engine: Engine, cards: Cards, words: tuple[str, ...], message: str
) -> None:
    register(engine, cards("pair_flux")[0])

    result = type_band(*words)

    assert result.exit_code != 0
    assert message in " ".join(result.output.split())


@pytest.mark.usefixtures("environment")
def test_weights_that_ship_serve_a_version_for_another_band_from_wherever_they_are(
    engine: Engine, cards: Cards
) -> None:
    make_pairs(engine, 1, pixel_store(), bands=["z"])
    [card] = cards("blends")
    relative = replace(card, weights=f"../../{card.weights}")  # as a shipped card has it
    register(engine, relative)
    type_band("blends", card.name, "z")
    worker = runner(engine, cards, version=f"{card.name}-z")

    with Session(engine) as session:
        version = model_versions.find(session, "blends", f"{card.name}-z")

    assert worker.station.has_weights(version)
    version.weights_sha256 = "0" * 64
    assert not worker.station.has_weights(version)
