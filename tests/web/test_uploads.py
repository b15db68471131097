"""Uploading an image to search with: good and bad files, and the whole way through a worker."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from flask import Flask
from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from db import cutouts, home, model_versions, queries
from db.tables import CutoutBlock, Job, Source, Upload
from tests.builders import make_catalog, make_cutout_set, make_sources, make_worker
from tests.db.test_pictures import fits_file, fits_of_size, picture_file, png_of_size
from tests.encoders import SIZE, make_card
from web import create_app, uploads
from workers.annotators.representations import Representations
from workers.device import Device
from workers.runner import Runner
from workers.station import Options

MACHINE = {"Accept": "application/json"}
SOME = np.random.default_rng(3).integers(0, 255, (128, 128, 3), np.uint8)


@pytest.fixture
def app(engine: Engine, environment: dict[str, str]) -> Flask:
    return create_app(engine)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def field(engine: Engine, environment: dict[str, str], tmp_path: Path) -> np.ndarray:
    """Five sources whose pictures (n, s, s, 3) a worker has encoded with a tiny encoder."""
    images = np.random.default_rng(0).integers(0, 255, (5, SIZE, SIZE, 3), np.uint8)
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = make_catalog(session, name="field")
        cutout_set = make_cutout_set(session, catalog, bands=["z", "r", "g"], size=SIZE)
        sources = make_sources(session, 5, catalog)
        card = make_card(tmp_path)
        found = (card.annotator, card.name, card.sha256, card.as_dict())
        model_versions.register(session, *found).state = "current"
    with cutouts.Writer(engine, home.pixels(), cutout_set) as writer:
        for source, pixels in zip(sources, images, strict=True):
            writer.append(source.id, pixels)
    work(engine)
    return images


def work(engine: Engine) -> None:
    """Let a worker do what waits."""
    options = Options(batch_size=4, until_idle=True, back_off=0.05)
    Runner(engine, home.pixels(), [Representations], options, Device("cpu"), lambda name: []).run()


def send(
    client: FlaskClient, content: bytes, name: str = "galaxy.png", **fields: Any
) -> TestResponse:
    headers = fields.pop("headers", MACHINE)
    data = {"file": (io.BytesIO(content), name), **fields}
    return client.post("/uploads", data=data, headers=headers)


def stored(engine: Engine, token: str) -> np.ndarray:
    """The pixels that the encoder will see, row 0 at the bottom."""
    with Session(engine) as session:
        source_id = session.get_one(Upload, token).source_id
        row = queries.pictures(session, [source_id])[source_id]
        place = (row.CutoutSet.store_path, row.CutoutBlock.number, row.Cutout.position)
        return cutouts.read_one(home.pixels(), *place)


def test_the_picture_of_a_source_is_encoded_by_a_worker_and_finds_that_source_first(
    engine: Engine, client: FlaskClient, field: np.ndarray
) -> None:
    content = picture_file(field[3][::-1])
    accepted = send(client, content)
    before = client.get(f"/search?upload={accepted.json['token']}").text

    work(engine)
    state = client.get(accepted.headers["Location"], headers=MACHINE).json
    page = client.get(f"/search?upload={accepted.json['token']}").text
    answer = client.get(f"{state['search']}&k=5").json

    assert accepted.status_code == 202
    assert accepted.json["state"] == "waiting"
    assert "Waiting for a worker" in before
    assert state["state"] == "encoded"
    assert state["version"] == "tiny.test"
    assert answer["sources"][0]["distance"] == 0
    with Session(engine) as session:
        fourth = session.scalars(select(Source.survey_id).order_by(Source.id).offset(3)).first()
    assert answer["sources"][0]["survey_id"] == fourth
    assert len(answer["sources"]) == 5
    with Session(engine) as session:
        own = session.get_one(Upload, accepted.json["token"]).source_id
    assert client.get(f"/search?id={own}").status_code == 404
    assert client.get(f"/search.json?like={own}").status_code == 404
    assert "your image" in page
    assert "galaxy.png" in page


def test_readers_are_sent_to_the_page_that_waits(client: FlaskClient) -> None:
    response = send(client, picture_file(SOME), headers={"Accept": "text/html"})
    page = client.get(response.headers["Location"])

    assert response.status_code == 303
    assert response.headers["Location"].startswith("/search?upload=")
    assert '<meta http-equiv="refresh" content="3">' in page.text
    assert page.status_code == 200


def test_the_page_says_whether_anybody_is_there_to_look(
    engine: Engine, client: FlaskClient
) -> None:
    address = f"/search?upload={send(client, picture_file(SOME)).json['token']}"
    alone = client.get(address).text
    with Session(engine) as session, session.begin():
        make_worker(session)
    with_worker = client.get(address).text

    assert "No worker is running" in alone
    assert "skygloss worker" in alone
    assert "A worker is alive" in with_worker
    assert "unless it was started for other annotators" in with_worker


def test_programs_that_search_too_early_are_told_to_wait(client: FlaskClient) -> None:
    token = send(client, picture_file(SOME)).json["token"]

    early = client.get(f"/search.json?upload={token}")

    assert early.status_code == 202
    assert early.json["state"] == "waiting"
    assert int(early.headers["Retry-After"]) > 0


def test_a_failure_of_the_encoder_is_shown(
    engine: Engine, client: FlaskClient, field: np.ndarray
) -> None:
    token = send(client, picture_file(field[1])).json["token"]
    with Session(engine) as session, session.begin():
        version = model_versions.current(session, ["representations"])[0]
        block_id = session.scalar(select(func.max(CutoutBlock.id)))
        job = {"model_version_id": version.id, "block_id": block_id, "state": "failed"}
        session.add(Job(**job, first=0, last=0, error="out of <memory>"))

    page = client.get(f"/search?upload={token}").text

    assert "could not be encoded" in page
    assert "out of &lt;memory&gt;" in page


def test_a_picture_without_signal_is_said_to_be_one(
    engine: Engine, client: FlaskClient, field: np.ndarray
) -> None:
    token = send(client, picture_file(np.full((SIZE, SIZE, 3), 80, np.uint8))).json["token"]
    work(engine)

    page = client.get(f"/search?upload={token}").text

    assert "nothing to search with" in page
    assert "no signal" in page
    assert client.get(f"/search.json?upload={token}").status_code == 422


def test_the_same_file_leads_to_the_same_page(client: FlaskClient) -> None:
    first, again = (send(client, picture_file(SOME)).json["token"] for _ in range(2))
    other_scale = send(client, picture_file(SOME), pixel_scale="0.3").json["token"]

    assert again == first
    assert other_scale != first


def test_an_uploaded_picture_is_shown_by_its_token_only(
    engine: Engine, client: FlaskClient
) -> None:
    token = send(client, picture_file(SOME)).json["token"]
    with Session(engine) as session:
        source_id = session.get_one(Upload, token).source_id
        set_id = queries.pictures(session, [source_id])[source_id].CutoutSet.id

    picture = client.get(f"/uploads/{token}.png")

    shown = np.asarray(Image.open(io.BytesIO(picture.data)))
    np.testing.assert_array_equal(shown, SOME)
    assert "private" in picture.headers["Cache-Control"]
    assert client.get(f"/cutouts/{set_id}/{source_id}.png").status_code == 404
    assert client.get(f"/cutouts/{set_id}/{source_id}/thumbnail.png").status_code == 404
    assert client.get(f"/sources/{source_id}").status_code == 404
    assert client.get(f"/search?id={source_id}").status_code == 404
    assert "uploads" not in client.get("/status").text.replace("/uploads", "")


def test_a_large_picture_is_cut_and_a_small_one_padded(engine: Engine, client: FlaskClient) -> None:
    large = np.zeros((400, 300, 3), np.uint8)
    large[136:264, 86:214] = SOME
    small = np.full((40, 40, 3), 90, np.uint8)

    cut = send(client, picture_file(large)).json
    padded = send(client, picture_file(small)).json

    np.testing.assert_array_equal(stored(engine, cut["token"])[::-1], SOME)
    assert "the central 33.5″ are looked at" in cut["note"]
    assert (stored(engine, padded["token"]) == 90).all()
    assert "filled with background" in padded["note"]


def test_the_scale_is_the_users_before_the_headers_before_the_encoders(
    client: FlaskClient,
) -> None:
    scale = {"CD1_1": -0.5 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.5 / 3600}
    content = fits_file(
        SOME[..., 0].astype(np.float32), CTYPE1="RA---TAN", CTYPE2="DEC--TAN", **scale
    )

    by_header = send(client, content, "a.fits").json["note"]
    by_user = send(client, content, "a.fits", pixel_scale="0.2").json["note"]
    whole = send(client, content, "a.fits", whole="1").json["note"]
    by_default = send(client, picture_file(SOME)).json["note"]

    assert "0.5″, as its header says" in by_header
    assert "0.2″, as you said" in by_user
    assert "so that all of it is seen" in whole
    assert "0.262″, as the encoder learnt" in by_default


def test_fluxes_are_stretched_as_for_the_networks(engine: Engine, client: FlaskClient) -> None:
    flux = np.zeros((3, 128, 128), np.float32)
    flux[:, 60:68, 60:68] = 1.0
    flux[0, 0, 0] = np.nan
    answer = send(client, fits_file(flux, BANDS="grz"), "grz.fits").json

    pixels = stored(engine, answer["token"])

    assert "z, r, g fluxes in nanomaggies shown as red, green, blue" in answer["note"]
    assert pixels[64, 64].min() > 150
    assert pixels[5, 5].tolist() == [32, 32, 32]


def test_one_plane_of_anything_becomes_grey(engine: Engine, client: FlaskClient) -> None:
    wild = np.random.default_rng(1).normal(0, 1, (128, 128)).astype(np.float32)
    wild[3, 3], wild[4, 4], wild[5, 5] = np.inf, -np.inf, 3e38
    answer = send(client, fits_file(wild), "r.fits").json

    pixels = stored(engine, answer["token"])

    assert "in grey" in answer["note"]
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert np.ptp(pixels) > 100


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "No image came"),
        (b"x", 415, "expected a PNG, JPEG or FITS"),
        (b"only words", 415, "expected a PNG, JPEG or FITS"),
        (b"GIF89a" + bytes(90), 415, "expected a PNG, JPEG or FITS"),
        (picture_file(SOME)[:999], 422, "cannot be read"),
        (picture_file(SOME[:15]), 422, "16 to 4,096 pixels on a side"),
        (png_of_size(30_000, 30_000), 422, "16 to 4,096 pixels on a side"),
        (png_of_size(5_000, 20), 422, "5,000 x 20"),
        (fits_of_size(10**9, 1), 422, "1000000000"),
        (fits_file(np.full((20, 20), np.nan, np.float32)), 422, "no pixel has a finite value"),
    ],
)
def test_a_bad_file_is_explained(
    engine: Engine, client: FlaskClient, content: bytes, status: int, words: str
) -> None:
    answer = send(client, content)
    page = send(client, content, headers={"Accept": "text/html"})

    assert answer.status_code == page.status_code == status
    assert words.lower() in answer.json["detail"].lower()
    assert answer.json["advice"]
    assert "Traceback" not in page.text
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Source)) == 0


def test_a_request_without_a_file_is_explained(client: FlaskClient) -> None:
    answers = [client.post("/uploads", data=data, headers=MACHINE) for data in ({}, {"file": "x"})]

    assert [answer.status_code for answer in answers] == [400, 400]


def test_a_huge_file_is_refused_unread(client: FlaskClient) -> None:
    claim = {"CONTENT_LENGTH": str(uploads.MAX_BYTES + 1)}
    answer = client.post("/uploads", headers=MACHINE, environ_overrides=claim)

    assert answer.status_code == 413
    assert "at most 20 MB" in answer.json["detail"]


@pytest.mark.parametrize("scale", ["abc", "0", "-1", "nan", "inf", "1e9", "0.001"])
def test_a_pixel_scale_that_cannot_be_is_explained(client: FlaskClient, scale: str) -> None:
    answer = send(client, picture_file(SOME), pixel_scale=scale)

    assert answer.status_code == 400
    assert answer.json["parameter"] == "pixel_scale"


def test_a_scale_that_makes_the_picture_a_speck_is_explained(client: FlaskClient) -> None:
    answer = send(client, picture_file(SOME), pixel_scale="0.005")

    assert answer.status_code == 422
    assert "is the pixel scale right?" in answer.json["detail"]


def test_a_name_is_only_a_name(engine: Engine, client: FlaskClient) -> None:
    names = ["../../etc/passwd", "<b>.png", "", "x" * 999]
    answers = [
        send(client, picture_file(SOME[: 100 + k]), name).json for k, name in enumerate(names)
    ]

    assert [answer.get("file_name") for answer in answers[:2]] == ["passwd", "<b>.png"]
    assert len(answers[3]["file_name"]) == 200
    page = client.get(f"/search?upload={answers[1]['token']}").text
    assert "<b>.png" not in page
    assert "&lt;b&gt;.png" in page


@pytest.mark.parametrize(
    "headers",
    [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}],
)
def test_pages_of_other_sites_cannot_upload(
    engine: Engine, client: FlaskClient, headers: dict[str, str]
) -> None:
    answer = send(client, picture_file(SOME), headers={**MACHINE, **headers})

    assert answer.status_code == 403
    assert "page of another site" in answer.json["detail"]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Upload)) == 0


def test_a_full_queue_asks_for_patience(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.uploads.MAX_WAITING", 0)

    answer = send(client, picture_file(SOME))

    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "60"
    assert "wait for a worker" in answer.json["detail"]


def test_images_do_not_queue_for_ever_to_be_read(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PATIENCE", 0.05)

    with uploads._one_at_a_time:
        refused = send(client, picture_file(SOME))
    accepted = send(client, picture_file(SOME))

    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert "at once" in refused.json["detail"]
    assert accepted.status_code == 202


def test_a_store_that_cannot_be_written_says_so_without_details(
    engine: Engine, tmp_path: Path, environment: dict[str, str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    client = create_app(engine, blocked).test_client()

    answer = send(client, picture_file(SOME))

    assert answer.status_code == 503
    assert "could not be kept" in answer.json["detail"]
    assert str(tmp_path) not in answer.text


@pytest.mark.parametrize("path", ["/uploads/nonsense", "/uploads/nonsense.png", "/uploads/a%00b"])
def test_an_unknown_token_is_not_found(client: FlaskClient, path: str) -> None:
    answer = client.get(path, headers=MACHINE)

    assert answer.status_code == 404
    assert "no such upload" in answer.json["detail"]


def test_reading_the_state_is_for_programs_and_readers(client: FlaskClient) -> None:
    token = send(client, picture_file(SOME)).json["token"]

    machine = client.get(f"/uploads/{token}", headers=MACHINE)
    reader = client.get(f"/uploads/{token}", headers={"Accept": "text/html"})

    assert machine.json["state"] == "waiting"
    assert machine.headers["Cache-Control"] == "no-store"
    assert reader.headers["Location"] == f"/search?upload={token}"


def test_a_fits_file_is_read_whole(client: FlaskClient) -> None:
    buffer = io.BytesIO()
    fits.CompImageHDU(SOME[..., 0].astype(np.int16)).writeto(buffer)

    answer = send(client, buffer.getvalue(), "galaxy.fits.fz")

    assert answer.status_code == 202
    assert answer.json["note"].startswith("FITS, 128 × 128 pixels")
