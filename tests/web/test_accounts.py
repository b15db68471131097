"""Signing in and what it opens; what strangers, other sites and guessers do not get."""

import re
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient
from sqlalchemy import URL, Engine, select
from sqlalchemy.orm import Session

from db import experts
from db.engine import create_engine
from db.tables import Expert, Token
from tests.conftest import new_database
from tests.web.team import PASSWORD, Team, gather, sign_in, words
from web import create_app
from web.accounts import COOKIE, safe_next

FOREIGN = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://elsewhere.example"},
    {"Origin": "null"},
]
POSTS = [
    "/sign-in",
    "/sign-out",
    "/account/password",
    "/account/blind",
    "/account/tokens",
    "/account/tokens/1/revoke",
    "/labels",
    "/labels/undo",
    "/labels/classes",
    "/labels/classes/1",
    "/labels/classes/1/retire",
    "/selections/x/delete",
    "/projections/x/selections",
]


@pytest.fixture
def team(engine: Engine) -> Team:
    return gather(engine)


def cookie(client: FlaskClient) -> str:
    """The Set-Cookie line of signing in."""
    line: str = sign_in(client, "ada").headers["Set-Cookie"]
    return line


def make_token(team: Team, name: str) -> str:
    """A token for a program of somebody's."""
    page = team.browser(name).post("/account/tokens", data={"note": "nightly", "days": "30"}).text
    found = re.search(r'<pre id="secret">([^<]+)</pre>', page)
    assert found is not None
    return found[1]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_an_expert_signs_in_and_is_led_back(team: Team) -> None:
    visitor = team.visitor()
    asked = visitor.get("/account?x=1")
    assert asked.headers["Location"] == "/sign-in?next=/account?x%3D1"
    assert 'name="next" value="/account?x=1"' in visitor.get(asked.headers["Location"]).text

    answer = sign_in(visitor, "ada", next_page="/account?x=1")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/account?x=1")
    assert "role expert" in visitor.get("/account").text
    assert 'href="/account">ada</a>' in visitor.get("/sources").text


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(team: Team) -> None:
    line = cookie(team.visitor())

    assert line.startswith(f"{COOKIE}=")
    for guard in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=7776000"):
        assert guard in line
    assert "Secure" not in line


def test_the_cookie_travels_by_https_only_once_it_came_so(team: Team) -> None:
    answer = team.visitor().post(
        "/sign-in", data={"name": "ada", "password": PASSWORD}, base_url="https://sky.example"
    )

    assert "Secure" in answer.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("wanted", "leads_to"),
    [
        ("/sources?p_min=0.5", "/sources?p_min=0.5"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example/", "/"),
        ("/\\elsewhere.example/", "/"),
        ("\\\\elsewhere.example/", "/"),
        ("/\t/elsewhere.example", "/"),
        ("javascript:alert(1)", "/"),
        ("sources", "/"),
        ("http:///elsewhere.example", "/"),
        ("///elsewhere.example", "/"),
        ("http://[", "/"),
        ("", "/"),
    ],
)
def test_signing_in_leads_nowhere_else(team: Team, wanted: str, leads_to: str) -> None:
    assert safe_next(wanted) == leads_to
    assert sign_in(team.visitor(), "ada", next_page=wanted).headers["Location"] == leads_to


def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(team: Team) -> None:
    team.change("UPDATE expert SET disabled_at = now() WHERE name = 'bob'")
    pages = [
        sign_in(team.visitor(), name, password)
        for name, password in (
            ("ada", "wrong wrong"),
            ("nobody", "wrong wrong"),
            ("bob", PASSWORD),
        )
    ]

    assert {page.status_code for page in pages} == {401}
    assert not any("Set-Cookie" in page.headers for page in pages)
    texts = {re.sub('value="[a-z]+"', "", page.text) for page in pages}
    assert len(texts) == 1
    assert "do not fit together" in texts.pop()


def test_a_guesser_is_told_to_wait_and_so_is_the_owner_of_the_name(team: Team) -> None:
    visitor = team.visitor()
    answers = [sign_in(visitor, "ada", f"guess number {k}").status_code for k in range(12)]

    assert answers == [401] * 10 + [429] * 2
    told = sign_in(visitor, "ada")
    assert told.status_code == 429
    assert told.headers["Retry-After"] == "900"
    assert "Too many wrong passwords" in told.text
    assert sign_in(visitor, "bob").status_code == 303


def test_another_process_of_the_server_knows_of_the_guesses(team: Team) -> None:
    for k in range(10):
        sign_in(team.visitor(), "ada", f"guess number {k}")

    beside = create_app(team.engine).test_client()

    assert sign_in(beside, "ada").status_code == 429


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", POSTS)
def test_another_site_can_send_nothing(
    site_of_ada: FlaskClient, path: str, headers: dict[str, str]
) -> None:
    assert site_of_ada.post(path, headers=headers).status_code == 403


@pytest.fixture(scope="module")
def site_of_ada(server_url: URL, template: URL) -> Iterator[FlaskClient]:
    """One application for all attempts of other sites: none of them changes anything."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        yield gather(engine).browser("ada")
        engine.dispose()


@pytest.mark.parametrize(
    "secret",
    ["", "x", "A" * 43, "skygloss_" + "A" * 43, "é", "a'; DROP TABLE token; --", "x" * 3000],
)
def test_a_secret_that_was_made_up_opens_nothing(team: Team, secret: str) -> None:
    visitor = team.visitor()
    if secret.isascii():
        visitor.set_cookie(COOKIE, secret)
        assert visitor.get("/account").status_code == 303
        assert visitor.get("/sources").status_code == 200

    headers = {"Authorization": f"Bearer {secret}"}
    answer = team.visitor().get("/account", headers=headers)
    assert answer.status_code in (303, 401)
    assert (answer.status_code == 401) or secret == ""


def test_the_hash_in_the_database_opens_nothing(team: Team) -> None:
    team.browser("ada")
    with Session(team.engine) as session:
        stored = session.scalars(select(Token.sha256)).one()

    assert team.visitor().get("/account", headers=bearer(stored)).status_code == 401


def test_a_session_that_is_over_asks_to_sign_in_again(team: Team) -> None:
    ada = team.browser("ada")
    assert ada.get("/account").status_code == 200

    team.change("UPDATE token SET expires_at = now()")

    assert ada.get("/account").status_code == 303
    assert team.say("ada", subjects=[team.cell(0, 0)], label_class_id=team.good).status_code == 401


def test_using_a_session_prolongs_it(team: Team) -> None:
    ada = team.browser("ada")
    team.change("UPDATE token SET expires_at = now() + interval '1 hour'")

    ada.get("/sources")

    with Session(team.engine) as session:
        token = session.scalars(select(Token)).one()
        assert token.used_at is not None
        assert (token.expires_at - token.used_at).days == 14


def test_signing_out_ends_the_session_for_good(team: Team) -> None:
    ada = team.browser("ada")
    stolen = ada.get_cookie(COOKIE)
    assert stolen is not None

    ada.post("/sign-out")

    assert ada.get_cookie(COOKIE) is None
    thief = team.visitor()
    thief.set_cookie(COOKIE, stolen.value)
    assert thief.get("/account").status_code == 303


def test_a_cookie_is_no_token_and_a_token_no_cookie(team: Team) -> None:
    secret = make_token(team, "ada")
    session_cookie = team.browser("ada").get_cookie(COOKIE)
    assert session_cookie is not None
    visitor = team.visitor()
    visitor.set_cookie(COOKIE, secret)

    assert visitor.get("/account").status_code == 303
    assert team.visitor().get("/account", headers=bearer(session_cookie.value)).status_code == 401


def test_a_program_labels_with_its_token_until_it_is_revoked(team: Team) -> None:
    headers = bearer(make_token(team, "ada"))
    body = {"request": "r1", "subjects": [team.exposure(0)], "label_class_id": team.good}
    program = team.visitor()
    assert program.post("/labels", json=body, headers=headers).status_code == 201

    page = team.browser("ada").get("/account").text
    number = re.search(r"/account/tokens/(\d+)/revoke", page)
    assert number is not None
    assert team.browser("bob").post(number[0]).status_code == 404
    assert program.get("/account", headers=headers).status_code == 200
    assert team.browser("ada").post(number[0]).status_code == 303

    refused = program.post("/labels", json=body, headers=headers)
    assert refused.status_code == 401
    assert "not valid" in refused.json["detail"]  # type: ignore[index]


def test_a_token_makes_no_tokens_and_changes_no_password(team: Team) -> None:
    headers = bearer(make_token(team, "ada"))
    program = team.visitor()
    new = {"password": PASSWORD, "new": "dim stars are many", "again": "dim stars are many"}

    assert program.post("/account/password", data=new, headers=headers).status_code == 403
    more = {"note": "more", "days": "300"}
    assert program.post("/account/tokens", data=more, headers=headers).status_code == 403


def test_a_token_is_shown_once(team: Team) -> None:
    secret = make_token(team, "ada")

    page = team.browser("ada").get("/account").text

    assert "nightly" in page
    assert secret not in page


@pytest.mark.parametrize("days", ["", "0", "400", "-1", "1e2", "9" * 30, "²"])
def test_a_token_without_an_end_is_refused(team: Team, days: str) -> None:
    answer = team.browser("ada").post("/account/tokens", data={"note": "x", "days": days})

    assert answer.status_code == 400


def test_the_own_password_is_changed_with_the_old_one_only(team: Team) -> None:
    ada, elsewhere = team.browser("ada"), team.visitor()
    sign_in(elsewhere, "ada")
    new = {"new": "dim stars are many", "again": "dim stars are many"}

    wrong = ada.post("/account/password", data={"password": "wrong wrong", **new})
    assert wrong.status_code == 400
    typo = {"password": PASSWORD, "new": "dim stars are many", "again": "dim stars are few"}
    assert "two different ways" in ada.post("/account/password", data=typo).text
    short = {"password": PASSWORD, "new": "dim", "again": "dim"}
    assert "Expected a password of 10" in ada.post("/account/password", data=short).text
    assert ada.post("/account/password", data={"password": PASSWORD, **new}).status_code == 200

    assert ada.get("/account").status_code == 200
    assert elsewhere.get("/account").status_code == 303
    assert sign_in(team.visitor(), "ada").status_code == 401
    assert sign_in(team.visitor(), "ada", "dim stars are many").status_code == 303


def test_whoever_holds_a_session_cannot_guess_the_password_either(team: Team) -> None:
    guess = {"password": "wrong wrong", "new": "dim stars are many", "again": "dim stars are many"}
    answers = [
        team.browser("ada").post("/account/password", data=guess).status_code for _ in range(12)
    ]

    assert answers == [400] * 10 + [429] * 2


def test_switching_blind_mode_is_audited_and_closed_to_programs(team: Team) -> None:
    ada = team.browser("ada")
    for word in ("yes", "yes", "no"):
        ada.post("/account/blind", data={"blind": word})

    answer = team.visitor().post(
        "/account/blind", data={"blind": "yes"}, headers=bearer(make_token(team, "ada"))
    )

    assert answer.status_code == 403
    switched = [row for row in team.audited() if row[0].startswith("blind mode")]
    assert switched == [("blind mode on", "ada"), ("blind mode off", "ada")]


def test_blind_mode_is_switched_on_the_account_page(team: Team) -> None:
    ada = team.browser("ada")
    assert "Hide what others say" in ada.get("/account").text

    ada.post("/account/blind", data={"blind": "yes"})

    assert "See what others say" in ada.get("/account").text


def test_the_audit_is_for_admins(team: Team) -> None:
    sign_in(team.visitor(), "eve", "wrong wrong")
    team.browser("ada").post("/labels/classes", data={"name": "Ghosts"})

    assert team.visitor().get("/audit").status_code == 303
    refused = team.browser("ada").get("/audit")
    assert refused.status_code == 403
    assert "needs the role admin; ada has the role expert" in refused.text
    page = words(team.browser("root").get("/audit").text)
    for what in ("sign in failed eve", "ada add class Ghosts", "command line add account root"):
        assert what in page


def test_everything_about_accounts_is_audited(team: Team) -> None:
    new = "dim stars are many"
    ada = team.browser("ada")
    make_token(team, "ada")
    ada.post("/account/password", data={"password": PASSWORD, "new": new, "again": new})
    ada.post("/sign-out")

    assert [
        action for action, _ in team.audited() if action not in ("add account", "add class")
    ] == [
        "sign in",
        "issue token",
        "change password",
        "sign out",
    ]


def test_pages_of_somebody_are_kept_by_no_cache_between(team: Team) -> None:
    assert (
        team.browser("ada").get("/labels/history").headers["Cache-Control"] == "private, no-cache"
    )


def test_an_error_page_needs_no_database_to_know_who_reads(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = team.browser("ada")

    assert "ada" in ada.get("/nowhere").text
    team.change("ALTER TABLE token RENAME TO gone")
    answer = ada.get("/sources")
    assert answer.status_code == 503
    assert "skygloss migrate" in answer.text


def test_without_any_account_everything_is_as_before_and_labels_say_what_to_do(
    engine: Engine,
) -> None:
    client = create_app(engine).test_client()

    assert client.post("/selections/none/delete").status_code == 404
    assert "skygloss users add NAME" in client.get("/sign-in").text
    assert client.post("/labels", json={}).status_code == 401


def test_with_accounts_selections_are_changed_by_experts_only(team: Team) -> None:
    path = "/selections/none/delete"
    visitor = team.visitor()
    asked = visitor.post(path, headers={"Referer": "http://localhost/selections"})
    assert asked.headers["Location"] == "/sign-in?next=/selections"

    assert visitor.post(path, headers={"Accept": "application/json"}).status_code == 401
    assert team.browser("vera").post(path).status_code == 403
    assert team.browser("ada").post(path).status_code == 404
    save = "/projections/none/selections"
    assert visitor.post(save, headers={"Accept": "application/json"}).status_code == 401
    assert team.browser("vera").post(save).status_code == 403


def test_a_deleted_selection_is_audited(team: Team) -> None:
    team.change("INSERT INTO selection (name, n_sources, origin) VALUES ('blue', 0, '{}')")

    team.browser("ada").post("/selections/blue/delete")

    assert ("delete selection", "blue") in team.audited()


def test_an_expert_who_becomes_a_viewer_labels_no_more_at_once(team: Team) -> None:
    team.browser("ada")
    with Session(team.engine) as session, session.begin():
        experts.set_role(
            session, session.scalars(select(Expert).filter_by(name="ada")).one(), "viewer"
        )

    answer = team.say("ada", subjects=[team.cell(0, 0)], label_class_id=team.good)

    assert answer.status_code == 403
