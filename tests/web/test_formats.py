from datetime import UTC, datetime

import pytest

from db.tables import Cutout, Shred
from web import formats
from workers.annotators.cutouts import PictureFlag


@pytest.mark.parametrize(
    ("ra", "dec", "expected"),
    [
        (0.0, 0.0, "00ʰ00ᵐ00.00ˢ +00°00′00.0″"),
        (203.940483, -3.549743, "13ʰ35ᵐ45.72ˢ −03°32′59.1″"),
        (359.99999999, -0.00001, "00ʰ00ᵐ00.00ˢ −00°00′00.0″"),
        (15.0, 89.99999999, "01ʰ00ᵐ00.00ˢ +90°00′00.0″"),
    ],
)
def test_positions_never_show_sixty_seconds(ra: float, dec: float, expected: str) -> None:
    assert formats.sexagesimal(ra, dec) == expected


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (None, "–"),
        (0.0, "<0.001"),
        (0.0001, "<0.001"),
        (0.5, "0.500"),
        (0.9999, ">0.999"),
        (1.0, ">0.999"),
    ],
)
def test_a_probability_is_never_written_as_a_certainty(p: float | None, expected: str) -> None:
    assert formats.probability(p) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (None, "–"),
        (0, "0 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (7205, "2 h"),
        (90_000, "1 d 1 h"),
    ],
)
def test_durations_have_two_neighbouring_units(seconds: float | None, expected: str) -> None:
    assert formats.duration(seconds).replace("\u202f", " ") == expected


def test_numbers_are_grouped_and_missing_values_are_dashes() -> None:
    assert formats.count(1234567).replace("\u202f", " ") == "1 234 567"
    assert formats.value(None) == "–"
    assert formats.value(float("nan")) == "–"
    assert formats.value(-0.25, "dec") == "−0.250000"


def test_units_are_taken_from_the_comment() -> None:
    comment = "Half-light radius [arcsec]"

    assert formats.unit(comment) == "″"
    assert formats.meaning(comment) == "Half-light radius"
    assert formats.unit("Redshift") == ""


def test_every_flag_of_the_annotator_has_words_in_the_column_comment() -> None:
    comment = Shred.__table__.c.flags.comment

    for flag in PictureFlag:
        assert formats.flag_words(int(flag), comment) != f"flag {int(flag)}"
    assert formats.flag_words(1 | 8, comment) == "no image, no signal"


def test_unknown_flags_are_shown_by_their_number() -> None:
    assert formats.flag_words(1024, Cutout.__table__.c.flags.comment or "") == "flag 1024"
    assert formats.flag_words(0) == ""


def test_times_are_in_utc() -> None:
    assert formats.moment(datetime(2026, 11, 1, 5, 7, tzinfo=UTC)) == "1 Nov 2026, 05:07 UTC"
