"""Accounts: who gets in, for how long, and what is left in the database of their secrets."""

import json
import statistics
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import argon2
import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

import cli
from db import experts
from db.tables import Audit, Expert, Token

PASSWORD = "bright stars are heavy"
HERE = "192.0.2.1"


@pytest.fixture
def ada(session: Session) -> Expert:
    return experts.add(session, "Ada", PASSWORD)


def sign_in(session: Session, name: str = "Ada", password: str = PASSWORD) -> str | None:
    found = experts.sign_in(session, name, password, HERE, "a browser")
    return found[1] if found else None


def actions(session: Session) -> list[str]:
    return list(session.scalars(select(Audit.action).order_by(Audit.id)))


def test_a_right_password_begins_a_session_whatever_the_case_of_the_name(
    session: Session, ada: Expert
) -> None:
    secret = sign_in(session, "aDA")

    assert secret is not None
    found = experts.recognise(session, secret)
    assert found is not None
    assert found[0] is ada
    assert found[1].kind == "session"


@pytest.mark.parametrize(
    ("name", "password"),
    [("Ada", "bright stars are light"), ("Ada", ""), ("Bob", PASSWORD), ("A\0da", PASSWORD)],
)
def test_anything_else_begins_none_and_is_audited(
    session: Session, ada: Expert, name: str, password: str
) -> None:
    assert sign_in(session, name, password) is None

    assert actions(session) == ["add account", "sign in failed"]


def test_no_secret_is_stored_in_clear(session: Session, ada: Expert) -> None:
    secret = sign_in(session)
    program = experts.add_program_token(session, ada, "nightly", 30)
    assert secret is not None

    rows = session.execute(
        text(
            "SELECT to_json(expert)::text FROM expert UNION ALL"
            " SELECT to_json(token)::text FROM token UNION ALL"
            " SELECT to_json(audit)::text FROM audit"
        )
    )
    everything = " ".join(rows.scalars())

    assert ada.password_hash.startswith("$argon2id$")
    for hidden in (PASSWORD, secret, program):
        assert hidden not in everything


def test_secrets_have_256_random_bits_and_differ(session: Session, ada: Expert) -> None:
    secrets = {sign_in(session) for _ in range(20)}

    assert len(secrets) == 20
    assert all(secret is not None and len(secret) == 43 for secret in secrets)


def test_a_session_ends_a_fortnight_after_its_last_use_and_after_90_days_at_most(
    session: Session, ada: Expert
) -> None:
    secret = sign_in(session)
    assert secret is not None
    token = session.scalars(select(Token)).one()
    day = timedelta(days=1)
    assert abs(token.expires_at - datetime.now(UTC) - 14 * day) < timedelta(minutes=1)

    token.created_at, token.expires_at = datetime.now(UTC) - 80 * day, datetime.now(UTC) + day
    session.flush()
    experts.renew(session, token.id)
    session.refresh(token)

    assert abs(token.expires_at - datetime.now(UTC) - 10 * day) < timedelta(minutes=1)
    token.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    session.flush()
    assert experts.recognise(session, secret) is None


def test_the_use_of_a_token_is_noted_once_a_minute(session: Session, ada: Expert) -> None:
    sign_in(session)
    token = session.scalars(select(Token)).one()

    assert experts.needs_renewal(token)
    experts.renew(session, token.id)
    session.refresh(token)
    assert not experts.needs_renewal(token)
    token.used_at = datetime.now(UTC) - timedelta(minutes=2)
    assert experts.needs_renewal(token)


def test_the_use_of_a_program_token_does_not_prolong_it(session: Session, ada: Expert) -> None:
    experts.add_program_token(session, ada, "nightly", 3)
    token = session.scalars(select(Token)).one()
    until = token.expires_at

    experts.renew(session, token.id)
    session.refresh(token)

    assert token.expires_at == until
    assert token.used_at is not None


@pytest.mark.parametrize(("note", "days"), [("", 30), ("x", 0), ("x", 367)])
def test_a_program_token_needs_a_purpose_and_an_end(
    session: Session, ada: Expert, note: str, days: int
) -> None:
    with pytest.raises(experts.BadAccount, match="expected"):
        experts.add_program_token(session, ada, note, days)


def test_a_revoked_token_opens_nothing_and_nobody_revokes_another_ones(
    session: Session, ada: Expert
) -> None:
    bob = experts.add(session, "bob", PASSWORD)
    secret = sign_in(session)
    assert secret is not None
    token = experts.tokens(session, ada.id)[0]

    assert not experts.revoke(session, bob.id, token.id)
    assert experts.recognise(session, secret)
    assert experts.revoke(session, ada.id, token.id)
    assert experts.recognise(session, secret) is None
    assert not experts.revoke(session, ada.id, token.id)
    assert list(experts.tokens(session, ada.id)) == []


def test_a_disabled_account_is_out_at_once_and_stays_out(session: Session, ada: Expert) -> None:
    secret = sign_in(session)
    assert secret is not None

    experts.set_enabled(session, ada, False)
    session.flush()

    assert experts.recognise(session, secret) is None
    assert sign_in(session) is None
    experts.set_enabled(session, ada, True)
    session.flush()
    assert experts.recognise(session, secret) is None
    assert sign_in(session) is not None


def test_another_password_ends_every_session_and_token_but_the_one_to_keep(
    session: Session, ada: Expert
) -> None:
    here, elsewhere = sign_in(session), sign_in(session)
    program = experts.add_program_token(session, ada, "nightly", 30)
    assert here is not None
    assert elsewhere is not None
    kept = experts.recognise(session, here)
    assert kept is not None

    experts.set_password(session, ada, "dim stars are many", ada.id, keep=kept[1].id)
    session.flush()

    assert experts.recognise(session, here)
    assert experts.recognise(session, elsewhere) is None
    assert experts.recognise(session, program) is None
    assert sign_in(session) is None
    assert sign_in(session, password="dim stars are many")


@pytest.mark.parametrize("password", ["short", "x" * 1001, "Ada1234567"])
def test_a_password_that_is_easily_guessed_is_refused(session: Session, password: str) -> None:
    with pytest.raises(experts.BadAccount, match="expected a password"):
        experts.add(session, "Ada", password)


@pytest.mark.parametrize("name", ["", "-ada", "a b", "<b>", "ä", "x" * 65, "a\0"])
def test_a_name_that_breaks_the_rule_is_refused(session: Session, name: str) -> None:
    with pytest.raises(experts.BadAccount, match="expected a name"):
        experts.add(session, name, PASSWORD)


def test_a_name_is_taken_whatever_its_case(session: Session, ada: Expert) -> None:
    with pytest.raises(experts.BadAccount, match="already"):
        experts.add(session, "ADA", PASSWORD)


def test_a_letter_with_an_accent_is_the_same_from_every_keyboard(session: Session) -> None:
    experts.add(session, "ada", "ein heller Gr\N{LATIN SMALL LETTER U WITH DIAERESIS}nstern")

    assert sign_in(session, "ada", "ein heller Gru\N{COMBINING DIAERESIS}nstern")


def test_hashes_grow_stronger_when_their_owner_signs_in(
    session: Session, ada: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ada.password_hash
    stronger = argon2.Parameters(**{**vars_of(argon2.profiles.CHEAPEST), "time_cost": 2})
    monkeypatch.setattr(experts, "PROFILE", stronger)

    assert sign_in(session)

    assert ada.password_hash != before
    assert "t=2" in ada.password_hash
    assert sign_in(session)


def vars_of(profile: argon2.Parameters) -> dict[str, Any]:
    return {name: getattr(profile, name) for name in argon2.Parameters.__slots__}


def test_the_shipped_cost_is_that_of_rfc_9106() -> None:
    """The tests use less, so that this looks at the module as it is shipped."""
    source = experts.__file__
    with open(source, encoding="utf-8") as file:
        assert "PROFILE = argon2.profiles.RFC_9106_LOW_MEMORY" in file.read()
    assert argon2.profiles.RFC_9106_LOW_MEMORY.memory_cost == 65_536
    assert argon2.profiles.RFC_9106_LOW_MEMORY.type is argon2.Type.ID


def test_an_unknown_name_takes_as_long_as_a_wrong_password(
    session: Session, ada: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    dearer = argon2.Parameters(**{**vars_of(argon2.profiles.CHEAPEST), "memory_cost": 16_384})
    monkeypatch.setattr(experts, "PROFILE", dearer)
    monkeypatch.setattr(experts, "MAX_FAILED_HERE", 1_000)
    experts.set_password(session, ada, PASSWORD)
    taken: dict[str, list[float]] = {"Ada": [], "nobody": []}
    sign_in(session, "nobody", "wrong wrong")

    for _ in range(7):
        for name, times in taken.items():
            began = time.perf_counter()
            sign_in(session, name, "wrong wrong")
            times.append(time.perf_counter() - began)

    known, unknown = (statistics.median(times) for times in taken.values())
    assert 0.5 < known / unknown < 2


def test_a_thousand_wrong_passwords_are_hardly_looked_at(
    session: Session, ada: Expert, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = 0
    for k in range(1000):
        try:
            assert sign_in(session, password=f"guess number {k}") is None
        except experts.TooManyAttempts:
            refused += 1

    assert refused == 990
    with pytest.raises(experts.TooManyAttempts):
        sign_in(session)
    assert actions(session).count("sign in failed") == 10


def test_guesses_from_many_addresses_are_stopped_too(session: Session, ada: Expert) -> None:
    def guess(k: int) -> None:
        experts.sign_in(session, "ada", "wrong wrong", f"192.0.2.{k}", "")

    for k in range(100):
        guess(k)

    with pytest.raises(experts.TooManyAttempts):
        guess(200)


def test_one_password_for_many_names_is_stopped_too(session: Session, ada: Expert) -> None:
    for k in range(100):
        assert sign_in(session, f"name{k}", "password123") is None

    with pytest.raises(experts.TooManyAttempts):
        sign_in(session, "name100", "password123")
    assert experts.sign_in(session, "Ada", PASSWORD, "198.51.100.7", "elsewhere")


def test_after_a_quarter_of_an_hour_the_right_password_is_looked_at_again(
    session: Session, ada: Expert
) -> None:
    for _ in range(10):
        sign_in(session, password="wrong wrong")
    with pytest.raises(experts.TooManyAttempts):
        sign_in(session)

    session.execute(text("UPDATE audit SET created_at = created_at - interval '16 min'"))

    assert sign_in(session)


def test_guesses_at_the_same_time_are_all_counted(engine: Engine) -> None:
    """Two processes cannot both see nine failures and look at an eleventh password."""
    with Session(engine) as session, session.begin():
        experts.add(session, "Ada", PASSWORD)
    with Session(engine) as first, Session(engine) as second:
        experts.authenticate(first, "Ada", "wrong wrong", HERE)
        second.execute(text("SET LOCAL lock_timeout = '200ms'"))

        with pytest.raises(Exception, match="lock timeout"):
            experts.authenticate(second, "ada", "wrong wrong", HERE)


@pytest.mark.parametrize(
    ("role", "may"),
    [("viewer", (True, False, False)), ("expert", (True, True, False)), ("admin", (True,) * 3)],
)
def test_each_role_includes_the_ones_before(
    session: Session, role: str, may: tuple[bool, ...]
) -> None:
    expert = experts.add(session, "ada", PASSWORD, role)

    assert tuple(experts.may(expert, wanted) for wanted in experts.ROLES) == may


def run(*words: str, entered: str = "") -> Any:
    return CliRunner().invoke(cli.main, ["users", *words], input=entered)


def test_the_commands_make_change_and_close_accounts(
    environment: dict[str, str], engine: Engine
) -> None:
    assert run("list").output == "There are no accounts yet: skygloss users add NAME\n"
    asked = run("add", "ada", "--role", "admin", entered=f"{PASSWORD}\n{PASSWORD}\n")
    piped = run("add", "bob", "--password-stdin", entered="dim stars are many\n")
    assert "ada: account made, role admin" in asked.output
    assert PASSWORD not in asked.output
    assert piped.exit_code == 0
    secret = run("token", "ADA", "--note", "nightly").output.strip()

    assert run("role", "bob", "viewer").exit_code == 0
    assert (
        run("password", "bob", "--password-stdin", entered="other words are here\n").exit_code == 0
    )
    assert run("disable", "bob").exit_code == 0

    found = json.loads(run("list", "--json").output)
    assert [(one["name"], one["role"], bool(one["disabled_at"])) for one in found] == [
        ("ada", "admin", False),
        ("bob", "viewer", True),
    ]
    assert run("enable", "bob").exit_code == 0
    with Session(engine) as session:
        assert sign_in(session, "bob", "other words are here")
        recognised = experts.recognise(session, secret)
        assert recognised is not None
        assert recognised[0].name == "ada"
        audited = session.scalar(select(func.count()).select_from(Audit))
        assert audited == 8


def test_the_commands_say_what_is_wrong(environment: dict[str, str]) -> None:
    unknown, short = run("disable", "eve"), run("add", "x", "--password-stdin", entered="abc\n")

    assert (unknown.exit_code, short.exit_code) == (1, 1)
    assert "there is no account 'eve'; there are: none yet" in unknown.output
    assert "expected a password of 10 to 1,000 characters; arrived 3" in short.output
