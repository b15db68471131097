"""The Legacy Surveys cutout service, played by a small local server with the same moods."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from astropy.io import fits
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from db.cutout_ingest import Reading, Target, ingest
from db.cutout_service import LegacyService, Manners, ServiceError
from db.cutouts import CutoutFlag
from db.tables import Cutout
from tests.builders import make_catalog, make_source

SIZE = 16
HASTY = Manners(rate=500, n_threads=3, timeout=0.5, attempts=4, backoff=0.01)

Answer = tuple[int, dict[str, str], bytes]
Mood = Callable[[dict[str, str], int], Answer]


class Viewer(ThreadingHTTPServer):
    """Answers like the viewer; `moods` change the answers for a declination."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.moods: dict[float, Mood] = {}
        self.asked: list[dict[str, str]] = []
        self.times: list[float] = []
        self.paths: list[str] = []
        self.n_asked: Counter[float] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/viewer"

    def answer(self, path: str) -> Answer:
        query = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        if not {"ra", "dec"} <= set(query):
            return 400, {}, b"Need ra,dec keywords"
        dec = float(query["dec"])
        with self.lock:
            self.asked.append(query)
            self.times.append(time.monotonic())
            self.paths.append(urlsplit(path).path)
            self.n_asked[dec] += 1
        return self.moods.get(dec, good)(query, self.n_asked[dec])


class _Handler(BaseHTTPRequestHandler):
    server: Viewer

    def do_GET(self) -> None:
        status, headers, body = self.server.answer(self.path)
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("Content-Length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def cube(dec: float, bands: str, size: int) -> np.ndarray:
    """Pixels (b, h, w) that say where, and in which band, they are."""
    planes = [np.full((size, size), dec + ord(band), "f4") for band in bands]
    return np.stack(planes)


def as_fits(pixels: np.ndarray, bands: str | None) -> bytes:
    header = fits.Header({"BANDS": bands} if bands else {})
    file = BytesIO()
    fits.PrimaryHDU(pixels.astype(">f4"), header).writeto(file)
    return file.getvalue()


def good(query: dict[str, str], _nth: int) -> Answer:
    """What the viewer does; it falls back to its default bands when one is unknown."""
    bands = query["bands"] if set(query["bands"]) <= set("griz") else "grz"
    return 200, {}, as_fits(cube(float(query["dec"]), bands, int(query["size"])), bands)


def first(times: int, bad: Answer) -> Mood:
    return lambda query, nth: bad if nth <= times else good(query, nth)


def always(answer: Answer) -> Mood:
    return lambda _query, _nth: answer


def sleepy(query: dict[str, str], nth: int) -> Answer:
    if nth == 1:
        time.sleep(1.5 * HASTY.timeout)
    return good(query, nth)


def cut_off(query: dict[str, str], nth: int) -> Answer:
    status, headers, body = good(query, nth)
    if nth > 1:
        return status, headers, body
    return status, {"Content-Length": str(len(body))}, body[: len(body) // 2]


def cut_off_unnoticed(query: dict[str, str], nth: int) -> Answer:
    status, headers, body = good(query, nth)
    return status, headers, body if nth > 1 else body[: len(body) // 2]


def refuse_the_sixth(viewer: Viewer) -> Mood:
    refusal = (418, {}, b"no")
    return lambda query, nth: refusal if len(viewer.asked) == 6 else good(query, nth)


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    server = Viewer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def make_service(viewer: Viewer, tmp_path: Path) -> Iterator[Callable[..., LegacyService]]:
    made = []

    def make(bands: str = "grz", manners: Manners = HASTY, size: int = SIZE) -> LegacyService:
        service = LegacyService(
            tmp_path / "cache", bands, size, base_url=viewer.address, manners=manners
        )
        made.append(service)
        return service

    yield make
    for service in made:
        service.close()


def target(dec: float) -> Target:
    return Target(1, f"at {dec}", 190.1086, dec, 0)


def read(service: LegacyService, *decs: float) -> list[Reading]:
    return list(service.read([target(dec) for dec in decs]))


def values(reading: Reading) -> list[float]:
    assert reading.pixels is not None
    return [float(value) for value in reading.pixels[0, 0]]


def test_the_request_has_the_documented_address_and_parameters(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    read(make_service(), 1.2005)

    assert viewer.paths == ["/viewer/fits-cutout"]
    assert viewer.asked == [
        {
            "ra": "190.1086000",
            "dec": "1.2005000",
            "layer": "ls-dr10",
            "pixscale": "0.262",
            "bands": "grz",
            "size": "16",
        }
    ]


def test_pixels_arrive_in_the_order_of_the_sources_and_of_the_bands(
    make_service: Callable[..., LegacyService],
) -> None:
    service = make_service("zgr")

    readings = read(service, *range(1, 41))

    assert [values(reading) for reading in readings] == [
        [dec + ord(band) for band in "zgr"] for dec in range(1, 41)
    ]
    assert service.layout.unit == "nanomaggy"


def test_what_was_fetched_is_not_asked_for_again(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    first_time = read(make_service(), 1, 2)

    second_time = read(make_service(), 1, 2)

    assert len(viewer.asked) == 2
    assert list(map(values, second_time)) == list(map(values, first_time))


def test_a_damaged_answer_in_the_cache_is_fetched_again(
    viewer: Viewer, make_service: Callable[..., LegacyService], tmp_path: Path
) -> None:
    read(make_service(), 1)
    (kept,) = (tmp_path / "cache").rglob("*.fits")
    kept.write_bytes(b"damaged")

    reading = read(make_service(), 1)[0]

    assert reading.pixels is not None
    assert len(viewer.asked) == 2


@pytest.mark.parametrize(
    "bad",
    [
        (500, {}, b"oops"),
        (503, {"Retry-After": "0.1"}, b""),
        (429, {"Retry-After": "0.1"}, b"slow down"),
        (200, {}, b"<html>maintenance</html>"),
        (200, {}, b""),
    ],
    ids=["500", "503", "429", "a web page", "nothing"],
)
def test_a_passing_failure_is_tried_again(
    viewer: Viewer, make_service: Callable[..., LegacyService], bad: Answer
) -> None:
    viewer.moods[1] = first(2, bad)

    reading = read(make_service(), 1)[0]

    assert reading.pixels is not None
    assert viewer.n_asked[1] == 3


@pytest.mark.filterwarnings("ignore:File may have been truncated")
@pytest.mark.parametrize("mood", [sleepy, cut_off, cut_off_unnoticed])
def test_slow_and_partial_answers_are_tried_again(
    viewer: Viewer, make_service: Callable[..., LegacyService], mood: Mood
) -> None:
    viewer.moods[1] = mood

    reading = read(make_service(), 1)[0]

    assert values(reading) == [1 + ord(band) for band in "grz"]
    assert viewer.n_asked[1] == 2


def test_retry_after_holds_back_every_thread(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[1] = first(1, (429, {"Retry-After": "0.6"}, b""))
    manners = Manners(rate=20, n_threads=3, timeout=2, backoff=0.01)

    read(make_service(manners=manners), *range(1, 9))

    pauses = np.diff(sorted(viewer.times))
    assert pauses.max() > 0.4


def test_a_retry_after_of_an_hour_ends_the_ingest_with_the_reason(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[1] = always((429, {"Retry-After": "3600"}, b""))

    with pytest.raises(ServiceError, match="left alone for 3600 s"):
        read(make_service(), 1)


def test_requests_are_no_more_frequent_than_the_rate(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    manners = Manners(rate=20, n_threads=8)

    read(make_service(manners=manners), *range(1, 13))

    assert viewer.times[-1] - viewer.times[0] > 0.8 * 11 / 20


@pytest.mark.parametrize(
    "answer",
    [(404, {}, b"not here"), (200, {}, as_fits(np.zeros((3, SIZE, SIZE)), "grz"))],
    ids=["404", "an empty image"],
)
def test_a_position_outside_the_footprint_is_flagged_and_remembered(
    viewer: Viewer, make_service: Callable[..., LegacyService], answer: Answer
) -> None:
    viewer.moods[5] = always(answer)

    readings = [read(make_service(manners=Manners(n_threads=1, rate=500)), 1, 5)[1]]
    readings += read(make_service(), 5)

    assert [(reading.pixels, reading.flags) for reading in readings] == [
        (None, CutoutFlag.NO_IMAGE)
    ] * 2
    assert viewer.n_asked[5] == 1


def test_not_found_is_not_remembered_while_the_address_may_be_wrong(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[5] = always((404, {}, b""))
    read(make_service(), 5)
    del viewer.moods[5]

    assert read(make_service(), 5)[0].pixels is not None


def test_not_found_everywhere_ends_the_ingest_before_anything_is_flagged(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods = dict.fromkeys(map(float, range(1, 81)), always((404, {}, b"no such page")))

    with pytest.raises(ServiceError, match=r"404 Not Found.*address.*'ls-dr10'.*not flagged"):
        make_service().read([target(dec) for dec in range(1, 81)])

    assert len(viewer.asked) == 20


@pytest.mark.parametrize("zeros", [False, True])
def test_a_catalog_that_is_mostly_outside_the_footprint_is_read(
    viewer: Viewer, make_service: Callable[..., LegacyService], zeros: bool
) -> None:
    empty = as_fits(np.zeros((3, SIZE, SIZE)), "grz")
    viewer.moods = dict.fromkeys(map(float, range(1, 81)), always((404, {}, b"")))
    viewer.moods[63] = always((200, {}, empty)) if zeros else good

    readings = read(make_service(), *range(1, 81))

    assert sum(reading.pixels is not None for reading in readings) == (0 if zeros else 1)
    assert sum(reading.flags == CutoutFlag.NO_IMAGE for reading in readings) == (
        80 if zeros else 79
    )


def test_default_bands_sent_silently_are_noticed(
    make_service: Callable[..., LegacyService],
) -> None:
    with pytest.raises(ServiceError, match=r"asked .* bands gru .* sent 3 band\(s\) \(grz"):
        read(make_service("gru"), 1)


@pytest.mark.parametrize("header", ["gr", None])
def test_a_cube_with_too_few_planes_is_noticed(
    viewer: Viewer, make_service: Callable[..., LegacyService], header: str | None
) -> None:
    viewer.moods[1] = always((200, {}, as_fits(cube(1, "gr", SIZE), header)))

    with pytest.raises(ServiceError, match=r"sent 2 band\(s\)"):
        read(make_service(), 1)


def test_one_odd_answer_among_good_ones_is_only_flagged(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[2] = always((200, {}, as_fits(cube(2, "grz", SIZE // 2), "grz")))

    readings = read(make_service(manners=Manners(n_threads=1, rate=500)), 1, 2, 3)

    assert [reading.flags for reading in readings] == [0, CutoutFlag.UNREADABLE, 0]
    assert "8 x 8 pixels" in readings[1].reason


def test_a_source_that_always_fails_is_flagged_and_the_others_are_fetched(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[2] = always((500, {}, b""))

    readings = read(make_service(), 1, 2, 3)

    assert [reading.flags for reading in readings] == [0, CutoutFlag.UNREADABLE, 0]
    assert viewer.n_asked[2] == HASTY.attempts


def test_a_service_that_is_down_ends_the_ingest(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    decs = range(1, 40)
    viewer.moods = dict.fromkeys(map(float, decs), always((502, {}, b"")))

    with pytest.raises(ServiceError, match="5 sources in a row, the last time with: 502"):
        read(make_service(), *decs)


def test_a_refused_request_is_explained_in_the_words_of_the_service(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[1] = always((400, {}, b"Need ra,dec keywords"))

    with pytest.raises(ServiceError, match="400 Bad Request: Need ra,dec keywords"):
        read(make_service(), 1)


def test_more_pixels_than_the_service_gives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="at most 512 pixels, but 600"):
        LegacyService(tmp_path, size=600)


def test_an_endless_answer_is_not_read_to_its_end(
    viewer: Viewer, make_service: Callable[..., LegacyService]
) -> None:
    viewer.moods[1] = always((200, {}, bytes(2_000_000)))

    with pytest.raises(ServiceError, match="sent more"):
        read(make_service(), 1)


def test_an_interrupted_ingest_goes_on_where_it_stopped(
    engine: Engine, viewer: Viewer, make_service: Callable[..., LegacyService], tmp_path: Path
) -> None:
    with Session(engine) as session, session.begin():
        catalog = make_catalog(session, name="field", n_sources=12)
        for dec in range(1, 13):
            make_source(session, catalog, dec=dec, survey_id=str(dec))
    viewer.moods = dict.fromkeys(map(float, range(1, 13)), refuse_the_sixth(viewer))
    one_by_one = Manners(rate=500, n_threads=1)
    with pytest.raises(ServiceError, match="418"):
        ingest(engine, tmp_path, "field", "legacy", make_service(manners=one_by_one))
    fetched = [float(query["dec"]) for query in viewer.asked[:5]]

    report = ingest(engine, tmp_path, "field", "legacy", make_service())

    assert (report.n_new, report.problems) == (12, [])
    assert [viewer.n_asked[dec] for dec in fetched] == [1] * 5
    with Session(engine) as session:
        assert session.scalars(select(Cutout.flags)).all() == [0] * 12
