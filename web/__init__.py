"""The window: server-rendered pages over what `db.queries` reads. Never loads a network."""

from __future__ import annotations

from pathlib import Path

from flask import Flask, redirect
from sqlalchemy import Engine
from werkzeug.wrappers import Response

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def create_app(engine: Engine | None = None, pixels: Path | None = None) -> Flask:
    """Build the application.

    Parameters
    ----------
    engine : Engine, optional
        Default: made on the first request, for DATABASE_URL or the embedded server.
    pixels : Path, optional
        Root of the pixel store; default `db.home.pixels()`.
    """
    from web import (
        accounts,
        cutouts,
        database,
        disagreements,
        errors,
        exposures,
        formats,
        health,
        label_classes,
        label_history,
        labels,
        maps,
        projections,
        search,
        selections,
        sources,
        status,
        uploads,
        versions,
    )

    app = Flask(__name__)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.jinja_options = {"trim_blocks": True, "lstrip_blocks": True}
    database.register(app, engine)
    formats.register(app)
    errors.register(app)
    accounts.register(app)
    labels.register(app)
    app.config["PIXELS"] = pixels
    app.config["MAX_CONTENT_LENGTH"] = uploads.MAX_BYTES
    for module in (
        sources,
        search,
        projections,
        exposures,
        maps,
        selections,
        uploads,
        cutouts,
        status,
        versions,
        accounts,
        label_classes,
        label_history,
        disagreements,
        labels,
        health,
    ):
        app.register_blueprint(module.blueprint)
    app.add_url_rule("/", "home", _home)
    app.after_request(_secure)
    return app


def _home() -> Response:
    return redirect("/sources")


def _secure(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response
