"""Pictures of cutouts as PNG, rendered from the pixel store when they are asked for.

A picture's address carries a token of its pixels, so that browsers may keep it for ever.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from flask import Blueprint, current_app, make_response, render_template, request, url_for
from sqlalchemy import Row
from werkzeug.wrappers import Response

from db import cutouts as store
from db import queries, uploads
from db.home import pixels as pixel_store
from models import pixels
from web.database import session
from web.errors import Missing

blueprint = Blueprint("cutouts", __name__)

THUMBNAIL = 192  # pixel: the longest side of a thumbnail
STRETCH_SCALE = 0.262  # arcsec/pixel that fluxes are per for the stretch, as for the networks
RENDERING = 2  # raise when the same pixels would look different
FOR_EVER = "public, max-age=31536000, immutable"


@blueprint.get("/cutouts/<int:cutout_set_id>/<int:source_id>.png")
def picture(cutout_set_id: int, source_id: int) -> Response:
    """Show a cutout in full size."""
    return _png(cutout_set_id, source_id, None)


@blueprint.get("/cutouts/<int:cutout_set_id>/<int:source_id>/thumbnail.png")
def thumbnail(cutout_set_id: int, source_id: int) -> Response:
    """Show a cutout no larger than a thumbnail."""
    return _png(cutout_set_id, source_id, THUMBNAIL)


def addresses(row: Row) -> dict[str, str]:
    """Return where the pictures of a row of `queries.pictures` are."""
    place = {
        "cutout_set_id": row.CutoutSet.id,
        "source_id": row.Cutout.source_id,
        "v": token(row),
    }
    return {
        "picture": url_for("cutouts.picture", **place),
        "thumbnail": url_for("cutouts.thumbnail", **place),
    }


def token(row: Row) -> str:
    """Return a word that changes whenever the pixels or the way to draw them do."""
    facts = (RENDERING, row.CutoutSet.store_path, row.CutoutBlock.number, row.Cutout.position)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def missing(row: Row | None) -> str:
    """Say why there is no picture to show; empty if there is one."""
    if row is None:
        return "no cutout"
    if row.Cutout.flags & store.CutoutFlag.NO_IMAGE:
        return "no image"
    return "unreadable image" if row.Cutout.flags & store.CutoutFlag.UNREADABLE else ""


def render(
    stored: np.ndarray, bands: list[str], unit: str, pixel_scale: float, longest: int | None
) -> bytes:
    """Draw stored pixels (h, w, b) as PNG, row 0 at the bottom, at most `longest` pixels wide."""
    from PIL import Image

    image = Image.fromarray(colour(stored, bands, unit, pixel_scale)[::-1])
    if longest is not None and max(image.size) > longest:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def colour(stored: np.ndarray, bands: list[str], unit: str, pixel_scale: float) -> np.ndarray:
    """Turn pixels (h, w, b) of any unit into uint8 (h, w, 3), grey if there are no colours.

    Fluxes per pixel are stretched as surface brightnesses, so that the same sky looks the same at
    any `pixel_scale` [arcsec/pixel].
    """
    if unit == "nanomaggy":
        stored = stored * (STRETCH_SCALE / pixel_scale) ** 2
    try:
        return pixels.to_rgb(stored[np.newaxis], bands, unit)[0]  # type: ignore[arg-type]
    except ValueError:
        grey = stored[..., 0].astype(np.float64)
        low, high = np.nanpercentile(grey, (1, 99.5)) if np.isfinite(grey).any() else (0, 1)
        scaled = np.arcsinh(10 * np.clip((grey - low) / max(high - low, 1e-12), 0, 1))
        level = np.nan_to_num(scaled / np.arcsinh(10) * 255).astype(np.uint8)
        return np.repeat(level[..., np.newaxis], 3, axis=-1)


def draw(row: Row, longest: int | None) -> bytes:
    """Draw the cutout of a row of `queries.pictures` as PNG.

    Raises
    ------
    PixelsMissing
        See `db.cutouts`.
    """
    layout = row.CutoutSet
    return render(_read(row), layout.bands, layout.unit, layout.pixel_scale, longest)


def placeholder(reason: str) -> Response:
    """Show a picture that says why there is none."""
    svg = render_template("placeholder.svg", reason=reason)
    return make_response(svg, {"Content-Type": "image/svg+xml", "Cache-Control": "no-cache"})


def _png(cutout_set_id: int, source_id: int, longest: int | None) -> Response:
    largest = 2**63 - 1
    known = max(cutout_set_id, source_id) <= largest
    row = queries.picture(session(), cutout_set_id, source_id) if known else None
    if row is None or uploads.is_upload(row.CutoutSet):
        raise Missing(
            f"Cutout set {cutout_set_id} has no cutout of source {source_id}.",
            "The page of the source shows the cutouts it has.",
        )
    if reason := missing(row):
        return placeholder(reason)
    etag = f"{token(row)}-{longest or 'full'}"
    if etag in request.if_none_match:
        response = make_response("", 304)
    else:
        try:
            png = draw(row, longest)
        except store.PixelsMissing as error:
            current_app.logger.error("%s", error)
            return placeholder("pixels not found on this server")
        response = make_response(png, {"Content-Type": "image/png"})
    response.set_etag(etag)
    named = request.args.get("v") == token(row)
    response.headers["Cache-Control"] = FOR_EVER if named else "no-cache"
    return response


def _read(row: Row) -> np.ndarray:
    root: Path = current_app.config["PIXELS"] or pixel_store()
    return store.read_one(
        root, row.CutoutSet.store_path, row.CutoutBlock.number, row.Cutout.position
    )
