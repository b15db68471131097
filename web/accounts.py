"""Who is reading: signing in and out, the own account, and which views need which role.

A browser shows a secret in a cookie, a program in an Authorization header. What secrets are worth
is for `db.experts` to say. While there is no account at all, only what needs somebody's name is
closed; everything else is as open as on a laptop of one user.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Blueprint, Flask, g, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest, Forbidden, TooManyRequests, Unauthorized
from werkzeug.wrappers import Response

from db import audit, experts
from db.tables import Expert, Token
from web.database import session, writing_session
from web.errors import Missing, sentence, wants_json
from web.parameters import encode_position, read_arguments, read_positions
from web.requests import same_origin

blueprint = Blueprint("accounts", __name__)

COOKIE = "skygloss_session"
View = TypeVar("View", bound=Callable[..., Any])


class SignInNeeded(Unauthorized):
    """Nobody is signed in, and the view needs to know who asks."""

    description = "You need to sign in for this."
    advice = "Sign in, or send a program's token as `Authorization: Bearer …`."


class NotYours(Forbidden):
    """The role of whoever is signed in does not include this."""


class TooOften(TooManyRequests):
    """Too many wrong passwords came."""

    description = "Too many wrong passwords were tried, so no password is looked at for a while."
    advice = f"Try again in {experts.WINDOW.seconds // 60} minutes."

    def __init__(self) -> None:
        super().__init__(retry_after=experts.WINDOW.seconds)


class BadAccount(BadRequest):
    """What was sent cannot become part of an account."""

    advice = "Change what is wrong and send it again; nothing was changed."


def register(app: Flask) -> None:
    """Find out who is reading before every request, and tell the templates."""
    app.before_request(_recognise)
    app.after_request(_keep_private)
    app.jinja_env.globals["signed_in"] = current
    app.jinja_env.globals["may"] = may


def current() -> Expert | None:
    """Return who is signed in, or None."""
    return cast("Expert | None", g.get("expert"))


def may(role: str) -> bool:
    """Tell whether whoever is reading has a role."""
    expert = current()
    return expert is not None and experts.may(expert, role)


def needs(role: str, once_accounts_exist: bool = False) -> Callable[[View], View]:
    """Decorate a view that only some may use; a view that changes things is closed to other sites.

    Parameters
    ----------
    role : str
        viewer, expert or admin; each includes the ones before it.
    once_accounts_exist : bool
        While there is no account at all, let everybody.
    """

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def guarded(*arguments: Any, **keywords: Any) -> Any:
            if request.method not in ("GET", "HEAD"):
                same_origin()
            if not (once_accounts_exist and not experts.any_exist(session())):
                expert = current()
                if expert is None:
                    return _ask_to_sign_in()
                if not experts.may(expert, role):
                    raise NotYours(
                        f"This needs the role {role}; {expert.name} has the role {expert.role}."
                    )
            return view(*arguments, **keywords)

        return cast(View, guarded)

    return decorate


def safe_next(address: str) -> str:
    """Return an address if it leads to a page of this site, else that of the first page."""
    plain = address.isprintable() and "\\" not in address
    return address if plain and re.match("/(?!/)", address) else "/"


def _ask_to_sign_in() -> Response:
    if wants_json():
        raise SignInNeeded
    here = request.full_path if request.method == "GET" else _page_before()
    return redirect(url_for("accounts.sign_in", next=here.rstrip("?")), 303)


def _page_before() -> str:
    """Return the address of the page whose form was sent."""
    parts = urlsplit(request.headers.get("Referer", ""))
    return safe_next(parts._replace(scheme="", netloc="", fragment="").geturl() or "/")


@blueprint.get("/sign-in")
def sign_in() -> Response | str:
    """Ask for name and password."""
    wanted = safe_next(request.args.get("next", "/"))
    if current() is not None:
        return redirect(wanted)
    return _sign_in_page(wanted)


@blueprint.post("/sign-in")
def begin() -> Response | tuple[str, int]:
    """Begin a session, and go back to the page that wanted it."""
    same_origin()
    name, password = _field("name").strip(), request.form.get("password", "")
    wanted = safe_next(request.form.get("next", "/"))
    browser = request.headers.get("User-Agent", "")
    try:
        with writing_session() as own:
            proof = experts.sign_in(own, name, password, address(), browser)
    except experts.TooManyAttempts as error:
        raise TooOften from error
    if proof is None:
        return _sign_in_page(wanted, name, wrong=True), 401
    answer = redirect(wanted, 303)
    answer.set_cookie(
        COOKIE,
        proof[1],
        max_age=experts.SESSION_LIMIT,
        httponly=True,
        samesite="Strict",
        secure=request.is_secure,
    )
    return answer


@blueprint.post("/sign-out")
def sign_out() -> Response:
    """End this session."""
    same_origin()
    expert = current()
    if expert is not None:
        with writing_session() as own:
            experts.revoke(own, expert.id, g.token.id, address())
    answer = redirect(url_for("accounts.sign_in"), 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="Strict", secure=request.is_secure)
    return answer


@blueprint.get("/account")
@needs("viewer")
def account() -> str:
    """Show the own account."""
    return _account_page()


@blueprint.post("/account/password")
@needs("viewer")
def change_password() -> str:
    """Change the own password; other sessions and all tokens end."""
    _refuse_programs()
    expert = _me()
    new = request.form.get("new", "")
    if new != request.form.get("again", ""):
        raise BadAccount("The new password was typed in two different ways.")
    try:
        with writing_session() as own:
            known = experts.authenticate(
                own, expert.name, request.form.get("password", ""), address()
            )
            if known is not None:
                experts.set_password(own, known, new, expert.id, address(), keep=g.token.id)
    except experts.TooManyAttempts as error:
        raise TooOften from error
    except experts.BadAccount as error:
        raise BadAccount(sentence(error)) from error
    if known is None:
        raise BadAccount("The present password is not the one that was typed.")
    return _account_page(done="Your password is changed. You are signed out everywhere else.")


@blueprint.post("/account/blind")
@needs("viewer")
def change_blind() -> Response:
    """Hide what others say, or show it."""
    _refuse_programs()
    with writing_session() as own:
        experts.set_blind(own, _me().id, request.form.get("blind") == "yes", address())
    return redirect(safe_next(request.form.get("next", url_for("accounts.account"))), 303)


@blueprint.post("/account/tokens")
@needs("viewer")
def add_token() -> str:
    """Make a token for a program and show it, this once."""
    _refuse_programs()
    days = _field("days")
    if not days.isdecimal():
        raise BadAccount(f"Expected a number of days; arrived {days[:20]!r}.")
    try:
        with writing_session() as own:
            secret = experts.add_program_token(own, _me(), _field("note"), int(days[:9]), address())
    except experts.BadAccount as error:
        raise BadAccount(sentence(error)) from error
    return _account_page(secret=secret)


@blueprint.post("/account/tokens/<int:token_id>/revoke")
@needs("viewer")
def revoke_token(token_id: int) -> Response:
    """End one of the own sessions or tokens."""
    with writing_session() as own:
        if token_id >= 2**63 or not experts.revoke(own, _me().id, token_id, address()):
            raise Missing("You have no such session or token.", "The account page lists yours.")
    return redirect(url_for("accounts.account"), 303)


@blueprint.get("/audit")
@needs("admin")
def audit_page() -> str:
    """Show what happened to accounts, classes and selections."""
    read_arguments(("after", "before"))
    page = audit.listed(session(), *read_positions("audit"))
    return render_template(
        "audit.html",
        rows=page.rows,
        previous=encode_position(page.previous, "audit"),
        next=encode_position(page.next, "audit"),
    )


def address() -> str:
    """Return the network address of the reader, or of a proxy that `serve` was not told of."""
    return request.remote_addr or ""


def _recognise() -> None:
    """Note whose secret came with the request, if any."""
    if request.endpoint in ("static", "health.healthz"):
        return
    secret, is_program = _secret()
    if not secret:
        return
    found = experts.recognise(session(), secret)
    if found is None or (found[1].kind == "program") != is_program:
        if is_program:
            raise SignInNeeded("This token is not valid: unknown, expired or revoked.")
        return
    g.expert, g.token = found
    if experts.needs_renewal(found[1]):
        with writing_session() as own:
            experts.renew(own, g.token.id)


def _secret() -> tuple[str, bool]:
    """Return what the request shows, and whether in the way of programs."""
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return secret.strip(), True
    return request.cookies.get(COOKIE, ""), False


def _keep_private(response: Response) -> Response:
    """Let no cache between us and the reader keep pages of somebody who is signed in."""
    if current() is not None and "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "private, no-cache"
    return response


def _refuse_programs() -> None:
    if cast(Token, g.token).kind == "program":
        raise NotYours("A program's token opens no password, no other tokens and no blind mode.")


def _me() -> Expert:
    expert = current()
    assert expert is not None  # the view needs a role
    return expert


def _field(name: str) -> str:
    words = request.form.get(name, "")
    if "\0" in words:
        raise BadAccount(f"Field {name}: expected text without null characters.")
    return words


def _sign_in_page(wanted: str, name: str = "", wrong: bool = False) -> str:
    return render_template(
        "sign_in.html",
        next=wanted,
        name=name,
        wrong=wrong,
        any_exist=experts.any_exist(session()),
    )


def _account_page(done: str = "", secret: str = "") -> str:
    return render_template(
        "account.html",
        tokens=experts.tokens(session(), _me().id),
        here=g.token.id,
        done=done,
        secret=secret,
        shortest=experts.SHORTEST,
        max_days=experts.MAX_PROGRAM_DAYS,
    )
