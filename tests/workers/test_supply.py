"""Which cutout sets serve an annotator, and why others do not."""

from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from db import jobs
from db.tables import Job, ModelVersion
from tests.builders import (
    make_catalog,
    make_cutout_block,
    make_cutout_set,
    make_model_version,
    make_worker,
)
from tests.workers.fake import FakeAnnotator, OtherAnnotator
from workers import supply
from workers.annotators.blends import Blends
from workers.annotators.exposure_map import ExposureMap
from workers.annotators.pair_flux import PairFluxes
from workers.annotators.shreds import Shreds
from workers.annotators.source_map import SourceMap


@dataclass
class Cutouts:
    bands: tuple[str, ...] = ("g", "r", "z")
    size: int = 128
    pixel_scale: float = 0.262
    dtype: str = "float32"
    unit: str = "nanomaggy"


@pytest.mark.parametrize(
    "cutouts",
    [
        Cutouts(),
        Cutouts(bands=("z", "i", "r", "g")),
        Cutouts(bands=("R", "G", "B"), dtype="uint8", unit="display"),
        Cutouts(size=110),
        Cutouts(size=244, pixel_scale=0.138),
        Cutouts(size=90, pixel_scale=0.396),
    ],
)
def test_cutouts_that_can_be_cropped_or_resampled_serve(cutouts: Cutouts) -> None:
    assert Shreds.inputs.mismatch(cutouts) is None


@pytest.mark.parametrize(
    ("cutouts", "reason"),
    [
        (Cutouts(unit="adu"), "the unit is adu, not display or nanomaggy"),
        (Cutouts(bands=("g", "r", "i")), "no band z among g, r, i"),
        (
            Cutouts(bands=("r",), dtype="uint8", unit="display"),
            "a picture with 3 planes is needed, not 1",
        ),
        (Cutouts(unit="display"), "pixels in display are uint8 from 0 to 255, not float32"),
        (Cutouts(pixel_scale=1.0), "1 arcsec/pixel is too coarse for 0.262"),
        (Cutouts(size=64), "the field is 16.8 arcsec wide, 33.5 are needed"),
    ],
)
def test_other_cutouts_are_refused_with_the_reason(cutouts: Cutouts, reason: str) -> None:
    assert Shreds.inputs.mismatch(cutouts) == reason


def test_the_exact_scale_and_the_whole_field_fit_best() -> None:
    exact = Cutouts(dtype="uint8", unit="display")
    finer, smaller = Cutouts(size=244, pixel_scale=0.138), Cutouts(size=120)

    found = sorted([smaller, finer, Cutouts(), exact], key=Shreds.inputs.misfit)

    assert found == [exact, Cutouts(), finer, smaller]


def test_each_catalog_is_served_by_its_own_sets(session: Session) -> None:
    version = make_model_version(session, annotator="fake")
    first, second, third = (make_catalog(session) for _ in range(3))
    coarse = make_cutout_set(session, first, size=8, pixel_scale=0.3)
    exact = make_cutout_set(session, first, size=8)
    grey = make_cutout_set(session, first, size=8, bands=["r"])
    only = make_cutout_set(session, second, size=8)
    unfit = make_cutout_set(session, third, size=2)

    found = supply.supply(version, FakeAnnotator, supply.cutout_sets(session))

    assert found.better == {exact.id: (), coarse.id: (exact.id,), only.id: ()}
    assert list(found.unused) == [grey.id]
    assert list(found.refused) == [unfit.id]


def test_a_refused_catalog_is_taken_up_when_a_set_that_serves_arrives(session: Session) -> None:
    version = make_model_version(session, annotator="fake")
    catalog = make_catalog(session)
    make_cutout_block(session, make_cutout_set(session, catalog, size=2))
    supply.enqueue(session, supply.supply(version, FakeAnnotator, supply.cutout_sets(session)))
    before = session.scalars(sa.select(Job.state)).all()

    make_cutout_block(session, make_cutout_set(session, catalog, size=8))
    supply.enqueue(session, supply.supply(version, FakeAnnotator, supply.cutout_sets(session)))

    assert before == ["failed"]
    assert session.scalars(sa.select(Job.state)).all() == ["todo"]


def test_uploaded_images_that_do_not_suit_an_annotator_are_no_failures(session: Session) -> None:
    version = make_model_version(session, annotator="fake")
    uploaded = make_cutout_set(session, size=4, origin="upload")

    found = supply.supply(version, FakeAnnotator, [uploaded])

    assert found.set_ids == []
    assert found.refused == {}


def test_what_was_detected_on_exposures_is_for_the_maps_alone(session: Session) -> None:
    catalog = make_catalog(session)
    detected = make_cutout_set(
        session, catalog, size=32, bands=["r"], unit="adu", dtype="uint16", origin="exposure"
    )
    pictures = make_cutout_set(session, catalog, size=8)
    sets = supply.cutout_sets(session)
    supplies = {
        annotator.name: supply.supply(
            make_model_version(session, annotator=annotator.name), annotator, sets
        )
        for annotator in (FakeAnnotator, SourceMap, ExposureMap)
    }

    assert {name: each.set_ids for name, each in supplies.items()} == {
        "fake": [pictures.id],
        "source_map": [detected.id],
        "exposure_map": [detected.id],
    }
    assert not any([*each.refused, *each.unused] for each in supplies.values())


def test_a_catalog_in_other_units_is_passed_over_and_not_refused(session: Session) -> None:
    versions = {
        annotator: make_model_version(session, annotator=annotator.name)
        for annotator in (Shreds, Blends, PairFluxes)
    }
    pictures, both = make_catalog(session, name="pictures"), make_catalog(session, name="both")
    make_cutout_block(session, make_cutout_set(session, pictures, size=128))
    make_cutout_block(session, make_cutout_set(session, both, size=128))
    small = {"unit": "nanomaggy", "dtype": "float32", "size": 32}
    make_cutout_block(session, make_cutout_set(session, both, **small))
    sets = supply.cutout_sets(session)
    supplies = [supply.supply(version, each, sets) for each, version in versions.items()]
    jobs.refuse(session, versions[Blends].id, [sets[0].id], "of an earlier version of Skygloss")

    for each in supplies:
        supply.enqueue(session, each)

    assert supply.remarks(session, supplies) == [
        "blends, pair_flux: catalog pictures passed over; its pixels are in display, "
        "they need nJy or nanomaggy"
    ]
    per_annotator = sa.select(ModelVersion.annotator, sa.func.array_agg(Job.state)).join(Job)
    states = {row[0]: row[1] for row in session.execute(per_annotator.group_by(sa.text("1")))}
    assert states == {"shreds": ["todo"] * 2, "blends": ["failed"] * 2, "pair_flux": ["failed"] * 2}
    refusal = session.scalars(sa.select(Job.error).where(Job.state == "failed")).first()
    assert refusal is not None
    assert "blends wants r in nJy or nanomaggy, 64 pixel of any scale" in refusal
    assert "the field is 8.4 arcsec wide, 16.8 are needed" in refusal


@pytest.mark.parametrize(
    ("bands", "cutouts", "reason"),
    [
        (["r"], Cutouts(("g", "r", "z"), 64, 0.05, "float32", "nJy"), None),
        (["r"], Cutouts(("F814W",), 64, 0.05, "float32", "nJy"), "no band r among F814W"),
        (["F814W"], Cutouts(("F814W",), 64, 2.0, "float32", "nanomaggy"), None),
        ([], Cutouts(("F814W",), 64, 0.05, "float32", "nJy"), None),
        ([], Cutouts(("g", "r"), 64, 0.2, "float32", "nJy"), "one band is needed, not 2: g, r"),
        (["r"], Cutouts(("r",), 54, 0.2, "int16", "nJy"), None),
        (["r"], Cutouts(("r",), 52, 1.0, "int16", "nJy"), "the field is 52.0 arcsec wide, 64.0"),
    ],
)
def test_what_measures_light_takes_the_band_of_its_card_on_any_scale(
    bands: list[str], cutouts: Cutouts, reason: str | None
) -> None:
    found = Blends.inputs_of({"inputs": {"bands": bands}}).mismatch(cutouts)

    assert (found is None) if reason is None else (found or "").startswith(reason)


@pytest.mark.parametrize(
    ("cutouts", "reason"),
    [
        (Cutouts(("u",), 32, 0.184, "uint16", "adu"), None),
        (Cutouts(("z",), 48, 2.5, "float32", "adu"), None),
        (Cutouts(("g", "r"), 32, 0.184, "uint16", "adu"), "one band is needed, not 2: g, r"),
        (
            Cutouts(("r",), 24, 0.5, "uint16", "adu"),
            "the field is 12.0 arcsec wide, 16.0 are needed",
        ),
        (Cutouts(("r",), 32, 0.5, "float32", "nJy"), "the unit is nJy, not adu"),
    ],
)
def test_the_map_of_sources_takes_one_band_on_any_scale(
    cutouts: Cutouts, reason: str | None
) -> None:
    assert SourceMap.inputs.mismatch(cutouts) == reason


def test_of_sets_on_any_scale_the_one_without_a_missing_border_fits_best() -> None:
    smaller = Cutouts(("r",), 30, 0.2, "uint16", "adu")
    whole = Cutouts(("r",), 32, 0.7, "uint16", "adu")

    assert sorted([smaller, whole], key=SourceMap.inputs.misfit) == [whole, smaller]


def test_an_annotator_waits_for_those_it_comes_after(session: Session) -> None:
    class Follower(OtherAnnotator):
        after = ("fake",)

    cutout_set = make_cutout_set(session, size=8)
    make_cutout_block(session, cutout_set)
    follower = make_model_version(session, annotator="other")
    needs = supply.supply(follower, Follower, [cutout_set])
    without_first = supply.enqueue(session, needs)
    first = make_model_version(session, annotator="fake", state="current")
    supply.enqueue(session, supply.supply(first, FakeAnnotator, [cutout_set]))
    while_waiting = supply.enqueue(session, needs)
    [claim] = jobs.claim(session, make_worker(session).id, [first.id])
    jobs.complete(session, claim, 1.0)

    assert (without_first, while_waiting) == (0, 0)
    assert supply.enqueue(session, needs) == 1
