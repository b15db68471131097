"""Images to search with: the one place where a page takes something in.

The image waits for a worker, which encodes it like any other cutout; the page of the search shows
how far that is.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    current_app,
    jsonify,
    make_response,
    redirect,
    request,
    url_for,
)
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import (
    BadRequest,
    HTTPException,
    RequestEntityTooLarge,
    ServiceUnavailable,
    UnprocessableEntity,
    UnsupportedMediaType,
)
from werkzeug.wrappers import Response as BaseResponse

from db import pictures, uploads
from db.cutouts import Layout
from db.home import HomeUnavailable
from db.home import pixels as pixel_store
from db.queries import pictures as cutouts_of
from web import cutouts
from web.database import engine, release, session
from web.errors import Missing, wants_json
from web.framing import frame
from web.parameters import BadParameter
from web.requests import same_origin

blueprint = Blueprint("uploads", __name__)

MAX_BYTES = 20 * 2**20  # of a request that carries an image
MAX_NAME = 200  # characters kept of a file's name
SCALES = (0.005, 20.0)  # arcsec/pixel
PATIENCE = 10.0  # seconds that an image waits for those before it
RETRY_AFTER = 10  # seconds
_one_at_a_time = threading.Lock()  # a large image takes much memory while it is unpacked


class NoFile(BadRequest):
    """The form came without an image."""

    description = "No image came with this request, or an empty one."
    advice = "Choose a PNG, JPEG or FITS file; programs send it as the form field 'file'."


class TooLarge(RequestEntityTooLarge):
    """The image is larger than anybody needs to search with."""

    description = f"An image may have at most {MAX_BYTES // 2**20} MB; this request is larger."
    advice = "Cut the galaxy out of it, or make the image smaller."


@blueprint.post("/uploads")
def upload() -> BaseResponse:
    """Take an image in; 303 to the page that searches with it, or 202 for programs."""
    same_origin()
    if (request.content_length or 0) > MAX_BYTES:
        raise TooLarge
    token = _store(_image())
    state = url_for("uploads.state", token=token)
    if not wants_json():
        return redirect(url_for("search.page", upload=token), 303)
    response = jsonify(_facts(token))
    response.status_code = 202
    response.headers["Location"] = state
    return response


@blueprint.get("/uploads/<token>")
def state(token: str) -> BaseResponse:
    """Tell programs what became of an upload; show readers the search."""
    facts = _facts(token)
    if not wants_json():
        return redirect(url_for("search.page", upload=token))
    response = jsonify(facts)
    response.headers["Cache-Control"] = "no-store"
    if facts["state"] == "waiting":
        response.headers["Retry-After"] = "2"
    return response


@blueprint.get("/uploads/<token>.png")
def picture(token: str) -> Response:
    """Show an uploaded image as the encoder sees it."""
    found = known(token)
    row = cutouts_of(session(), [found.upload.source_id])[found.upload.source_id]
    png = cutouts.draw(row, None)
    return make_response(png, {"Content-Type": "image/png", "Cache-Control": "private, max-age=60"})


def known(token: str) -> uploads.Found:
    """Return an upload that is still there; Missing otherwise."""
    found = uploads.find(session(), token) if "\0" not in token else None
    if found is None:
        raise Missing(
            "There is no such upload, or it is no longer kept.",
            f"Uploads are deleted after {uploads.RETENTION.days} days: upload the image again.",
        )
    return found


def _facts(token: str) -> dict[str, Any]:
    found = known(token)
    return {
        "token": token,
        "state": found.state,
        "version": found.version,
        "error": found.error,
        "flags": found.flags,
        "file_name": found.upload.file_name,
        "note": found.upload.note,
        "kept_until": (found.upload.created_at + uploads.RETENTION).isoformat(),
        "search": url_for("search.answer", upload=token),
        "page": url_for("search.page", upload=token),
    }


def _image() -> uploads.Image:
    """The image of the request, decoded and framed for the current encoder."""
    scale, whole = _pixel_scale(), _whole()
    file = request.files.get("file")
    content = file.read() if file else b""
    if not content or file is None:
        raise NoFile
    layout = uploads.wanted_layout(session())
    release()
    if not _one_at_a_time.acquire(timeout=PATIENCE):
        raise _busy("Too many images are being read at once.", RETRY_AFTER)
    try:
        return _framed(file, content, layout, scale, whole)
    finally:
        _one_at_a_time.release()


def _framed(
    file: FileStorage, content: bytes, layout: Layout, scale: float | None, whole: bool
) -> uploads.Image:
    try:
        decoded = pictures.decode(content)
        framed = frame(decoded, layout, scale, whole)
    except pictures.UnknownFormat as error:
        raise _refusal(UnsupportedMediaType, error, "Save it as PNG, JPEG or FITS.") from error
    except pictures.UnusablePicture as error:
        raise _refusal(UnprocessableEntity, error, "Try another image.") from error
    name = (file.filename or "").replace("\0", "").replace("\\", "/").rpartition("/")[2]
    return uploads.Image(
        pixels=framed.pixels,
        layout=layout,
        file_name=name[-MAX_NAME:] or "image",
        sha256=hashlib.sha256(content).hexdigest(),
        media_type=decoded.media_type,
        note=framed.note,
        flags=framed.flags,
    )


def _store(image: uploads.Image) -> str:
    try:
        root: Path = current_app.config["PIXELS"] or pixel_store()
        return uploads.store(engine(), root, image)
    except uploads.UploadRefused as error:
        raise _busy(error, error.retry_after) from error
    except (OSError, HomeUnavailable) as error:
        current_app.logger.error("an upload could not be kept: %s", error)
        advice = "Whoever runs this server finds the reason in its log."
        raise _refusal(ServiceUnavailable, "The image could not be kept.", advice) from error


def _busy(why: object, retry_after: int) -> Any:
    answer = _refusal(ServiceUnavailable, why, "Try again later.")
    answer.retry_after = retry_after
    return answer


def _refusal(kind: type[HTTPException], why: object, advice: str) -> Any:
    words = str(why)
    answer: Any = kind(words[:1].upper() + words[1:] + ("" if words.endswith((".", "?")) else "."))
    answer.advice = advice
    return answer


def _pixel_scale() -> float | None:
    word = request.form.get("pixel_scale", "").strip()
    if not word:
        return None
    try:
        scale = float(word)
    except ValueError:
        scale = 0.0
    if not SCALES[0] <= scale <= SCALES[1]:
        expected = f"arcsec per pixel from {SCALES[0]:g} to {SCALES[1]:g}"
        raise BadParameter("pixel_scale", expected, word)
    return scale


def _whole() -> bool:
    word = request.form.get("whole", "")
    if word not in ("", "1"):
        raise BadParameter("whole", "1, or nothing", word)
    return word == "1"
