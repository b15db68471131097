"""An origin of pixels: the cutout service of the Legacy Surveys, asked politely and only once.

Answers are kept on disk by URL, so that an interrupted ingest goes on where it stopped and a
repeated one asks for nothing. Positions that the survey has not observed are remembered, too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlencode

import httpx
import numpy as np
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from db.cutout_fits import read_cutout
from db.cutout_ingest import Reading, Target, read_in_parallel
from db.cutouts import CutoutFlag, Layout

BASE_URL = "https://www.legacysurvey.org/viewer"
LARGEST = 512  # pixel, what the service documents
LONGEST_PAUSE = 600.0  # seconds that a Retry-After may ask us to wait
REMEMBER_OUTSIDE = 30 * 86400  # seconds after which an unobserved position is asked for again
BROKEN_AFTER = 5  # sources in a row that could not be had: then the service is down
N_PROBES = 20  # sources asked about before 404 for all of them means a wrong address
HEADER_BYTES = 200_000  # allowed for beside the pixels


class ServiceError(RuntimeError):
    """The service cannot serve what was asked for; going on makes no sense."""


class _Transient(Exception):  # noqa: N818
    """Worth another try."""


class _Outside(Exception):  # noqa: N818
    """The survey has not observed this position."""


class _WrongContent(Exception):  # noqa: N818
    """The answer is sound, but not what was asked for."""


@dataclass(frozen=True)
class Manners:
    """How the service is asked."""

    rate: float = 5.0  # requests per second, all threads together
    n_threads: int = 4
    timeout: float = 60.0  # seconds
    attempts: int = 6
    backoff: float = 1.0  # seconds; doubled with each attempt, with a random part


class LegacyService:
    """FITS cutouts [nanomaggy] from the Legacy Surveys viewer, or a server that talks like it."""

    word = "service"
    advice = ""

    def __init__(
        self,
        cache: Path,
        bands: Sequence[str] = ("g", "r", "z"),
        size: int = 128,
        pixel_scale: float = 0.262,
        layer: str = "ls-dr10",
        base_url: str = BASE_URL,
        manners: Manners | None = None,
    ) -> None:
        """`cache` is a folder for answers; `layer` is the viewer's name of the data release."""
        if size > LARGEST:
            raise ServiceError(f"the service gives at most {LARGEST} pixels, but {size} are wanted")
        self.layout = Layout(tuple(bands), size, pixel_scale, "float32", "nanomaggy")
        self._layer = layer
        self._base_url = base_url.rstrip("/")
        self._cache = cache / "legacy"
        self._manners = manners or Manners()
        self._stopped = threading.Event()
        self._clock = _Clock(self._manners.rate, self._stopped)
        self._client = httpx.Client(
            timeout=self._manners.timeout,
            follow_redirects=True,
            headers={"User-Agent": f"skygloss/{version('skygloss')}"},
        )
        self._n_served = 0
        self._reached = False  # the address and the layer have given an image, now or before
        self._n_failed_in_a_row = 0

    def close(self) -> None:
        """Stop waiting, and close the connections."""
        self._stopped.set()
        self._client.close()

    def covers(self, targets: Sequence[Target]) -> np.ndarray:
        """Say for which targets there may be pixels: only asking tells, so all, shape (n,)."""
        return np.ones(len(targets), bool)

    def read(self, targets: Sequence[Target]) -> Iterator[Reading]:
        """Yield one reading per target, in order.

        Raises
        ------
        ServiceError
            The service refuses the request, sends other bands than asked for, is down, or knows
            nothing of sources from all over the targets.
        """
        self._probe(targets)
        return read_in_parallel(self._read_target, targets, self._manners.n_threads)

    def _probe(self, targets: Sequence[Target]) -> None:
        """Make sure that 404 will mean a hole in the survey, not a wrong address or layer."""
        if self._reached or len(targets) < N_PROBES:
            return
        for i in np.linspace(0, len(targets) - 1, N_PROBES).astype(int):
            reading = self._read_target(targets[i])
            if self._reached or reading.flags != CutoutFlag.NO_IMAGE:
                return
        raise ServiceError(
            f"{self._base_url} has no image (404 Not Found) of any of {N_PROBES} sources from all "
            f"over the {len(targets)} asked for. Expected the address of a Legacy Surveys viewer "
            f"and a layer of it that covers them; is {self._layer!r} one? They were not flagged."
        )

    def url(self, target: Target) -> str:
        """Return the address of a target's cutout."""
        query = {
            "ra": f"{target.ra:.7f}",
            "dec": f"{target.dec:.7f}",
            "layer": self._layer,
            "pixscale": f"{self.layout.pixel_scale:g}",
            "bands": "".join(self.layout.bands),
            "size": self.layout.size,
        }
        return f"{self._base_url}/fits-cutout?{urlencode(query)}"

    def _read_target(self, target: Target) -> Reading:
        url = self.url(target)
        try:
            pixels = self._kept(url)
            if pixels is None:
                pixels = self._fetch(url)
        except _Outside as error:
            return Reading(None, CutoutFlag.NO_IMAGE, str(error))
        except _WrongContent as error:
            if not self._n_served:
                raise ServiceError(f"{error} ({url})") from error
            return Reading(None, CutoutFlag.UNREADABLE, str(error))
        except _Transient as error:
            return self._failed(error)
        self._n_served += 1
        self._n_failed_in_a_row = 0
        return Reading(pixels)

    def _failed(self, error: _Transient) -> Reading:
        """Flag one source that could not be had; give up when there have been many in a row."""
        self._n_failed_in_a_row += 1
        if self._n_failed_in_a_row >= BROKEN_AFTER:
            raise ServiceError(
                f"{self._base_url} failed for {BROKEN_AFTER} sources in a row, the last time with: "
                f"{error}. What was fetched is kept; run the same command again later."
            ) from error
        return Reading(None, CutoutFlag.UNREADABLE, str(error))

    def _fetch(self, url: str) -> np.ndarray:
        """Ask for a cutout, several times if need be, and keep it."""
        tries = Retrying(
            retry=retry_if_exception_type(_Transient),
            stop=stop_after_attempt(self._manners.attempts) | stop_when_event_set(self._stopped),
            wait=wait_random_exponential(self._manners.backoff, max=60),
            sleep=sleep_using_event(self._stopped),
            reraise=True,
        )
        content, pixels = tries(self._ask, url)
        if not np.nan_to_num(pixels).any():
            self._keep(url, b"")
            raise _Outside("outside the survey's footprint (all pixels are 0)")
        self._keep(url, content)
        return pixels

    def _ask(self, url: str) -> tuple[bytes, np.ndarray]:
        """Ask once; return the answer and the pixels in it."""
        self._clock.wait()
        try:
            with self._client.stream("GET", url) as response:
                content = self._receive(response)
        except httpx.RequestError as error:
            raise _Transient(f"{type(error).__name__}: {error}") from error
        self._check_status(response, content, url)
        pixels = self._decode(content)
        self._reached = True
        return content, pixels

    def _receive(self, response: httpx.Response) -> bytes:
        """Read the body, but not more than a cutout can have."""
        size, n_bands = self.layout.size, len(self.layout.bands)
        limit = size * size * max(n_bands, 8) * 8 + HEADER_BYTES
        content = bytearray()
        for piece in response.iter_bytes():
            content += piece
            if len(content) > limit:
                raise ServiceError(
                    f"expected at most {limit} bytes for a cutout of {size} pixels, but "
                    f"{response.url} sent more"
                )
        return bytes(content)

    def _check_status(self, response: httpx.Response, content: bytes, url: str) -> None:
        status = f"{response.status_code} {response.reason_phrase}"
        if response.status_code == 404:
            if self._n_served:  # or else the address may be wrong altogether
                self._keep(url, b"")
            raise _Outside(f"outside the survey's footprint ({status})")
        if response.status_code in (408, 429) or response.status_code >= 500:
            self._clock.pause(_retry_after(response, url))
            raise _Transient(status)
        if response.status_code != 200:
            said = content[:200].decode(errors="replace").strip()
            raise ServiceError(f"expected a FITS cutout from {url}, but got {status}: {said}")

    def _decode(self, content: bytes) -> np.ndarray:
        """Return the pixels (h, w, b) of an answer, bands in our order."""
        try:
            pixels, told = read_cutout(content)
        except Exception as error:  # a damaged file can make the reader raise anything
            raise _Transient(f"the answer is not a whole FITS image: {error}") from error
        wanted = self.layout.bands
        sent = told.get("bands", wanted)
        if pixels.shape != self.layout.shape or set(sent) != set(wanted):
            height, width, n_bands = pixels.shape
            raise _WrongContent(
                f"asked the service for bands {''.join(wanted)} and {self.layout.size} pixels, but "
                f"it sent {n_bands} band(s) ({''.join(sent)} by the header) and {width} x {height} "
                f"pixels; it falls back to its own bands if layer {self._layer!r} lacks one"
            )
        return pixels[..., [sent.index(band) for band in wanted]].astype(self.layout.dtype)

    def _kept(self, url: str) -> np.ndarray | None:
        """Return a cutout that was fetched before, None if there is none that is sound."""
        try:
            content = self._path(url).read_bytes()
            age = time.time() - self._path(url).stat().st_mtime
        except FileNotFoundError:
            return None
        self._reached = True
        if not content:
            if age < REMEMBER_OUTSIDE:
                raise _Outside("outside the survey's footprint (remembered)")
            return None
        try:
            return self._decode(content)
        except _Transient:
            return None

    def _keep(self, url: str, content: bytes) -> None:
        """Put an answer on disk, all or nothing; an empty one says there is no image."""
        path = self._path(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)

    def _path(self, url: str) -> Path:
        key = hashlib.sha256(url.encode()).hexdigest()
        return self._cache / key[:2] / f"{key}.fits"


class _Clock:
    """Spaces requests out, for all threads together."""

    def __init__(self, rate: float, stopped: threading.Event) -> None:
        self._interval = 1 / rate
        self._stopped = stopped
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait for this request's turn."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self._interval
        self._stopped.wait(max(0.0, turn - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Let no further request start for a while."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(response: httpx.Response, url: str) -> float:
    """Return for how long [s] the service asks not to be asked, 0 if it does not say."""
    said = response.headers.get("Retry-After", "0").strip()
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except ValueError:
            return 0.0
    if seconds > LONGEST_PAUSE:
        raise ServiceError(
            f"{url} asks to be left alone for {seconds:.0f} s ({response.status_code}). What was "
            "fetched is kept; run the same command again later, or ask more slowly."
        )
    return max(0.0, seconds)
