"""Whether the process lives (`/healthz`) and can serve pages (`/readyz`), for machines."""

from __future__ import annotations

from flask import Blueprint, current_app, jsonify
from sqlalchemy.exc import SQLAlchemyError
from werkzeug.wrappers import Response

from db.engine import DatabaseUnavailable
from web.database import engine

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer as long as the process does."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response | tuple[Response, int]:
    """Answer 200 if the database is reachable and at the expected migration, otherwise 503."""
    from db import schema  # alembic takes a while to import

    try:
        schema.check(engine())
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        current_app.logger.error("not ready: %s", error)
        return jsonify(status="unavailable", reason="see the log of the server"), 503
    return jsonify(status="ok")
