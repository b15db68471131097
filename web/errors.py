"""Error pages: what was expected, what arrived and what to do; as JSON for those who ask for it."""

from __future__ import annotations

from flask import Flask, current_app, jsonify, make_response, render_template, request
from sqlalchemy.exc import DBAPIError, OperationalError
from werkzeug.exceptions import HTTPException, InternalServerError, NotFound, ServiceUnavailable
from werkzeug.wrappers import Response

from db.engine import DatabaseUnavailable
from web.parameters import BadParameter

QUERY_CANCELED = "57014"
SCHEMA_MISSING = ("42P01", "42883", "42703")  # undefined table, function, column


class Missing(NotFound):
    """Something that was asked for by name is not there."""

    def __init__(self, description: str, advice: str) -> None:
        super().__init__(description)
        self.advice = advice


def sentence(error: Exception) -> str:
    """An error's words as a page says them: with a capital and a full stop."""
    words = str(error)
    return f"{words[0].upper()}{words[1:]}."


def register(app: Flask) -> None:
    """Answer every error with a page, or JSON."""
    app.register_error_handler(HTTPException, _answer)
    app.register_error_handler(DatabaseUnavailable, _unavailable)
    app.register_error_handler(DBAPIError, _database)
    app.register_error_handler(Exception, _unexpected)


def wants_json() -> bool:
    """Whether the request asks for JSON, by its address or its Accept header.

    Whoever sends JSON, or a program's token, gets JSON unless pages are liked better.
    """
    if request.path.endswith(".json"):
        return True
    accepted = request.accept_mimetypes
    json, page = accepted["application/json"], accepted["text/html"]
    bearer = request.headers.get("Authorization", "").lower().startswith("bearer ")
    return json > page or (json == page and (request.is_json or bearer))


def _answer(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:
        return error.get_response()
    facts = {
        "status": error.code,
        "title": "Parameter not understood" if isinstance(error, BadParameter) else error.name,
        "detail": error.description,
        "parameter": getattr(error, "parameter", None),
        "expected": getattr(error, "expected", None),
        "arrived": getattr(error, "arrived", None),
        "advice": getattr(error, "advice", None),
    }
    if wants_json():
        answer = jsonify({k: v for k, v in facts.items() if v is not None})
    else:
        answer = make_response(render_template("error.html", **facts))
    answer.status_code = error.code
    if retry_after := getattr(error, "retry_after", None):
        answer.headers["Retry-After"] = str(retry_after)
    return answer


def _unavailable(error: DatabaseUnavailable) -> Response:
    current_app.logger.error("database unavailable: %s", error)
    answer = ServiceUnavailable("The database cannot be used at the moment.")
    answer.advice = (  # type: ignore[attr-defined]
        "Try again in a moment. Whoever runs this server finds the reason in its log."
    )
    return _answer(answer)


def _database(error: DBAPIError) -> Response:
    code = getattr(error.orig, "pgcode", None)
    if code == QUERY_CANCELED:
        answer = ServiceUnavailable("The database took too long over this and was stopped.")
        advice = "Narrow the selection: a catalog, a smaller circle or a tighter range."
        if request.args.get("space") == "embedding":
            advice += " Or search the principal components: whole vectors take long to read."
    elif code in SCHEMA_MISSING:
        answer = ServiceUnavailable("The database is not at the version this Skygloss expects.")
        advice = "Whoever runs this server: run `skygloss migrate`."
    elif isinstance(error, OperationalError):
        return _unavailable(DatabaseUnavailable(str(error.orig).strip()))
    else:
        return _unexpected(error)
    current_app.logger.error("%s %s", request.full_path, error)
    answer.advice = advice  # type: ignore[attr-defined]
    return _answer(answer)


def _unexpected(error: Exception) -> Response:
    current_app.logger.exception("%s failed", request.full_path)
    answer = InternalServerError("This page ran into a mistake of ours.", original_exception=error)
    answer.advice = (  # type: ignore[attr-defined]
        "The server's log has the details. Please report it with the address of this page."
    )
    return _answer(answer)
