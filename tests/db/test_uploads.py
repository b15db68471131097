import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from db import catalogs, column_maps, cutout_ingest, cutouts, jobs, queries, uploads
from db.catalog_readers import CatalogError
from db.cutouts import Layout
from db.queries import Selection
from db.tables import Catalog, Cutout, CutoutBlock, CutoutSet, Job, Representation, Source, Upload
from db.uploads import Image, UploadRefused
from tests.builders import make_catalog, make_model_version, make_run, make_source

LAYOUT = Layout(uploads.BANDS, 16, 0.262, "uint8", "display")
CARD = {"inputs": {"size": 16, "pixel_scale": 0.262}}


def image(level: int = 7, **values: Any) -> Image:
    defaults = {
        "pixels": np.full(LAYOUT.shape, level, np.uint8),
        "layout": LAYOUT,
        "file_name": "galaxy.png",
        "sha256": hashlib.sha256(bytes([level])).hexdigest(),
        "media_type": "image/png",
        "note": "as it came",
    }
    return Image(**(defaults | values))


def age(engine: Engine, token: str, days: float) -> None:
    with Session(engine) as session, session.begin():
        upload = session.get_one(Upload, token)
        upload.created_at -= timedelta(days=days)


def counts(engine: Engine) -> list[int | None]:
    with Session(engine) as session:
        tables = (Upload, Source, Cutout, CutoutBlock)
        return [session.scalar(select(func.count()).select_from(table)) for table in tables]


def find(engine: Engine, token: str) -> uploads.Found | None:
    with Session(engine, expire_on_commit=False) as session:
        return uploads.find(session, token)


def test_an_upload_becomes_a_source_with_a_cutout_that_a_worker_can_claim(
    engine: Engine, tmp_path: Path
) -> None:
    token = uploads.store(engine, tmp_path, image(7))

    with Session(engine, expire_on_commit=False) as session, session.begin():
        upload = session.get_one(Upload, token)
        source = session.get_one(Source, upload.source_id)
        cutout_set = session.scalars(select(CutoutSet)).one()
        block = session.scalars(select(CutoutBlock)).one()
        version = make_model_version(session, state="current")
        n_jobs = jobs.enqueue(session, version.id, [cutout_set.id])
        pixels = cutouts.read_one(tmp_path, cutout_set.store_path, block.number, 0)

    assert (source.ra, source.dec, source.healpix) == (None, None, None)
    assert (block.n, n_jobs) == (1, 1)
    np.testing.assert_array_equal(pixels, 7)


def test_tokens_cannot_be_guessed(engine: Engine, tmp_path: Path) -> None:
    tokens = {uploads.store(engine, tmp_path, image(level)) for level in range(3)}

    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 20


def test_the_same_file_is_stored_once(engine: Engine, tmp_path: Path) -> None:
    first = uploads.store(engine, tmp_path, image(7))

    assert uploads.store(engine, tmp_path, image(7)) == first
    assert uploads.store(engine, tmp_path, image(7, note="of another scale")) != first


def test_a_file_of_another_name_or_day_is_stored_anew(engine: Engine, tmp_path: Path) -> None:
    first = uploads.store(engine, tmp_path, image(7))
    renamed = uploads.store(engine, tmp_path, image(7, file_name="another.png"))
    age(engine, first, days=1.1)

    again = uploads.store(engine, tmp_path, image(7))

    assert len({first, renamed, again}) == 3


def test_an_image_that_failed_can_be_tried_again(engine: Engine, tmp_path: Path) -> None:
    token = uploads.store(engine, tmp_path, image(7))
    with Session(engine) as session, session.begin():
        version = make_model_version(
            session, annotator="representations", state="current", card=CARD
        )
        [set_id] = session.scalars(select(CutoutSet.id))
        jobs.enqueue(session, version.id, [set_id])
        session.execute(sa.update(Job).values(state="failed", error="out of memory"))

    again = uploads.store(engine, tmp_path, image(7))
    found = find(engine, again)

    assert again != token
    assert found
    assert found.state == "waiting"
    assert uploads.store(engine, tmp_path, image(7)) == again


def test_an_upload_waits_until_the_current_encoder_has_seen_it(
    engine: Engine, tmp_path: Path
) -> None:
    token = uploads.store(engine, tmp_path, image())
    before = find(engine, token)
    with Session(engine) as session, session.begin():
        version = make_model_version(
            session, annotator="representations", name="tiny.test", state="current", card=CARD
        )
        run = make_run(session, version)
        waiting = uploads.find(session, token)
        assert waiting
        row = Representation(
            source_id=waiting.upload.source_id,
            model_version_id=version.id,
            run_id=run.id,
            embedding=np.ones(40),
            flags=4,
        )
        session.add(row)

    after = find(engine, token)

    assert before
    assert (before.state, before.version) == ("waiting", None)
    assert (waiting.state, waiting.version) == ("waiting", "tiny.test")
    assert after
    assert (after.state, after.version, after.flags) == ("encoded", "tiny.test", 4)


def test_an_upload_the_encoder_can_make_nothing_of_is_flagged(
    engine: Engine, tmp_path: Path
) -> None:
    token = uploads.store(engine, tmp_path, image())
    with Session(engine) as session, session.begin():
        version = make_model_version(
            session, annotator="representations", state="current", card=CARD
        )
        upload = session.get_one(Upload, token)
        values = {"source_id": upload.source_id, "model_version_id": version.id, "flags": 8}
        session.add(Representation(**values, run_id=make_run(session, version).id))

    found = find(engine, token)

    assert found
    assert (found.state, found.flags) == ("flagged", 8)


def test_a_failed_job_keeps_its_error(engine: Engine, tmp_path: Path) -> None:
    token = uploads.store(engine, tmp_path, image())
    with Session(engine) as session, session.begin():
        version = make_model_version(session, annotator="representations", state="current")
        block_id = session.scalars(select(CutoutBlock.id)).one()
        values = {"first": 0, "last": 0, "state": "failed", "error": "out of memory"}
        session.add(Job(model_version_id=version.id, block_id=block_id, **values))

    found = find(engine, token)

    assert found
    assert (found.state, found.error) == ("failed", "out of memory")


def test_an_image_for_another_encoder_is_to_be_uploaded_again(
    engine: Engine, tmp_path: Path
) -> None:
    token = uploads.store(engine, tmp_path, image())
    with Session(engine) as session, session.begin():
        card = {"inputs": {"size": 424, "pixel_scale": 0.1}}
        make_model_version(session, annotator="representations", state="current", card=card)

    found = find(engine, token)

    assert found
    assert found.state == "failed"
    assert "upload it again" in found.error


def test_nobody_knows_an_unknown_token(engine: Engine) -> None:
    assert find(engine, "nonsense") is None


def test_after_a_week_rows_and_pixels_are_gone(engine: Engine, tmp_path: Path) -> None:
    old, new = (uploads.store(engine, tmp_path, image(level)) for level in (1, 2))
    age(engine, old, days=8)
    hidden = find(engine, old)

    newest = uploads.store(engine, tmp_path, image(3))

    assert hidden is None
    assert counts(engine) == [2, 2, 2, 2]
    assert find(engine, new)
    assert find(engine, newest)
    with Session(engine) as session:
        store_path = session.scalars(select(CutoutSet.store_path)).one()
    files = {path.name for path in (tmp_path / store_path / "pixels").glob("c.*")}
    assert files == {"c.1.0.0.0", "c.2.0.0.0"}


def test_a_place_that_became_free_is_used_again_for_other_pixels(
    engine: Engine, tmp_path: Path
) -> None:
    age(engine, uploads.store(engine, tmp_path, image(1)), days=8)
    token = uploads.store(engine, tmp_path, image(2))

    with Session(engine) as session:
        source_id = session.get_one(Upload, token).source_id
        row = queries.pictures(session, [source_id])[source_id]
        where = (row.CutoutSet.store_path, row.CutoutBlock.number, row.Cutout.position)
        pixels = cutouts.read_one(tmp_path, *where)

    np.testing.assert_array_equal(pixels, 2)
    assert counts(engine) == [1, 1, 1, 1]


def test_a_crash_between_pixels_and_rows_leaves_no_row(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("db.cutouts.Writer._add_rows", broken)
        with pytest.raises(KeyboardInterrupt):
            uploads.store(engine, tmp_path, image(1))
    left = counts(engine)
    uploads.store(engine, tmp_path, image(2))

    assert left == [0, 0, 0, 0]
    assert counts(engine) == [1, 1, 1, 1]


def test_too_many_waiting_uploads_are_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.uploads.MAX_WAITING", 2)
    first = uploads.store(engine, tmp_path, image(1))
    uploads.store(engine, tmp_path, image(2))

    with pytest.raises(UploadRefused, match="wait for a worker") as refused:
        uploads.store(engine, tmp_path, image(3))

    assert refused.value.retry_after > 0
    assert uploads.store(engine, tmp_path, image(1)) == first
    assert counts(engine)[0] == 2


def test_too_many_uploads_in_an_hour_are_refused(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.uploads.MAX_PER_HOUR", 1)
    token = uploads.store(engine, tmp_path, image(1))

    with pytest.raises(UploadRefused, match="last hour"):
        uploads.store(engine, tmp_path, image(2))
    age(engine, token, days=0.1)

    assert uploads.store(engine, tmp_path, image(2))


def test_the_wanted_layout_is_that_of_the_current_card(session: Session) -> None:
    without = uploads.wanted_layout(session)
    card = {"inputs": {"size": 64, "pixel_scale": 0.5}}
    make_model_version(session, annotator="representations", state="current", card=card)

    assert (without.size, without.pixel_scale) == (128, 0.262)
    found = uploads.wanted_layout(session)
    assert (found.size, found.pixel_scale, found.unit) == (64, 0.5, "display")


def test_uploads_do_not_show_up_among_catalogs_and_sources(engine: Engine, tmp_path: Path) -> None:
    with Session(engine) as session, session.begin():
        source_id = make_source(session, make_catalog(session, name="field")).id
    token = uploads.store(engine, tmp_path, image())

    with Session(engine) as session:
        upload_id = session.get_one(Upload, token).source_id
        shown = {
            sort: [row["source_id"] for row in queries.sources(session, Selection(), sort, 9)[1]]
            for sort in queries.SORTS
        }
        total = queries.count(session, Selection())
        by_name = queries.sources(session, Selection(survey_id=token), "-p", 9)[0].rows
        names = [catalog.name for catalog in queries.catalogs(session)]
        annotated = queries.annotated(session, [upload_id])

    assert set(map(tuple, shown.values())) == {(source_id,)}
    assert total.n == 1
    assert by_name == []
    assert names == ["field"]
    assert annotated == []


def test_no_catalog_can_be_called_uploads(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "uploads.csv"
    path.write_text("id,ra,dec\na,1,2\n")

    with pytest.raises(CatalogError, match="kept for images uploaded"):
        catalogs.ingest(engine, path, column_maps.named("generic"))


def test_nobody_ingests_cutouts_into_the_catalog_of_uploads(engine: Engine, tmp_path: Path) -> None:
    uploads.store(engine, tmp_path, image())

    with pytest.raises(cutout_ingest.NothingToRead, match="there is no catalog 'uploads'"):
        cutout_ingest.ingest(engine, tmp_path, "uploads", "mine", None)  # type: ignore[arg-type]


def test_an_older_catalog_of_that_name_is_left_alone(engine: Engine, tmp_path: Path) -> None:
    with Session(engine) as session, session.begin():
        make_catalog(session, name="uploads", survey="legacy")

    with pytest.raises(UploadRefused, match="is called 'uploads'"):
        uploads.store(engine, tmp_path, image())

    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Source)) == 0
        assert [c.name for c in queries.catalogs(session)] == ["uploads"]
        assert session.scalars(select(Catalog.survey)).all() == ["legacy"]


def test_a_worker_that_comes_too_late_does_no_harm(engine: Engine, tmp_path: Path) -> None:
    token = uploads.store(engine, tmp_path, image())
    with Session(engine) as session, session.begin():
        version = make_model_version(session, state="current")
        run = make_run(session, version)
        set_ids = session.scalars(select(CutoutSet.id)).all()
        jobs.enqueue(session, version.id, set_ids)
        claim = jobs.claim(session, run.worker_id, [version.id])[0]
    age(engine, token, days=8)
    uploads.prune(engine, tmp_path)

    with Session(engine) as session, pytest.raises(jobs.LostClaim):
        jobs.complete(session, claim, 1.0)
    with Session(engine) as session:
        assert session.scalar(sa.select(func.count()).select_from(Job)) == 0
