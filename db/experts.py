"""Accounts of experts: passwords, roles, and the secrets that prove who sends a request.

How secrets travel (cookies, headers) is for `web.accounts`; what experts say is for `db.labels`.
Only hashes are stored: Argon2id of passwords, SHA-256 of tokens, which are random already.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import argon2
import sqlalchemy as sa
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from db import audit
from db.tables import Audit, Expert, Token

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
ROLES = ("viewer", "expert", "admin")  # each may do what the ones before it may
PROFILE = argon2.profiles.RFC_9106_LOW_MEMORY  # 64 MiB and some 50 ms for each password
SHORTEST, LONGEST = 10, 1_000  # characters of a password
SESSION_LIFE = timedelta(days=14)  # since the last use
SESSION_LIMIT = timedelta(days=90)  # since signing in
PROGRAM_PREFIX = "skygloss_"  # so that whoever finds such a token knows what it opens
MAX_PROGRAM_DAYS = 366
MAX_NOTE = 200  # characters
RENEWAL = timedelta(minutes=1)  # how exact `used_at` is, to spare writes
FAILED = "sign in failed"
WINDOW = timedelta(minutes=15)  # in which wrong passwords are counted
MAX_FAILED_HERE = 10  # for one name from one address
MAX_FAILED = 100  # for one name, or from one address


class BadAccount(ValueError):  # noqa: N818 (it reads as what happened)
    """An account cannot be as it was asked for."""


class UnknownExpert(ValueError):  # noqa: N818 (it reads as what happened)
    """There is no account of this name."""


class TooManyAttempts(ValueError):  # noqa: N818 (it reads as what happened)
    """Too many wrong passwords came for this name or from this address within WINDOW."""


def add(session: Session, name: str, password: str, role: str = "expert") -> Expert:
    """Make an account.

    Raises
    ------
    BadAccount
        The name is taken or breaks the rule, the password is too short, there is no such role.
    """
    _check_role(role)
    if not NAME.fullmatch(name):
        raise BadAccount(
            "expected a name of 1 to 64 letters, digits and . _ @ -, beginning with a letter or "
            f"digit; arrived {name[:80]!r}"
        )
    if _named(session, name):
        raise BadAccount(f"there is an account {name!r} already")
    expert = Expert(name=name, password_hash=_hashed(name, password), role=role)
    session.add(expert)
    audit.record(session, "add account", name, role=role)
    session.flush()
    return expert


def any_exist(session: Session) -> bool:
    """Tell whether there is any account at all."""
    return bool(session.scalar(select(sa.exists().select_from(Expert))))


def listed(session: Session) -> Sequence[Expert]:
    """Return every account by name."""
    return session.scalars(select(Expert).order_by(func.lower(Expert.name))).all()


def find(session: Session, name: str) -> Expert:
    """Return an account by its name, whatever its case.

    Raises
    ------
    UnknownExpert
    """
    expert = _named(session, name)
    if expert is None:
        there = ", ".join(one.name for one in listed(session)[:20]) or "none yet"
        raise UnknownExpert(f"there is no account {name[:80]!r}; there are: {there}")
    return expert


def authenticate(session: Session, name: str, password: str, address: str) -> Expert | None:
    """Return whose name and password these are, None if nobody's.

    Whether the name, the password or a disabled account was the reason is not to be told from
    the answer, nor from the time it takes. Attempts for one name are taken one after the other,
    in all processes of the server, so that none of them escapes the count; the counts are in the
    database and outlive the processes.

    Raises
    ------
    TooManyAttempts
        The password was not looked at.
    """
    name = name.replace("\0", "\N{REPLACEMENT CHARACTER}")[:64]
    _check_attempts(session, name, address)
    expert = _named(session, name)
    stored = expert.password_hash if expert else _nobodys_hash()
    fits = _fits(stored, password)
    if expert is None or not fits or expert.disabled_at is not None:
        audit.record(session, FAILED, name.lower(), address=address)
        return None
    if _hasher().check_needs_rehash(stored):
        expert.password_hash = _hasher().hash(_normalised(password))
    return expert


def sign_in(
    session: Session, name: str, password: str, address: str, note: str
) -> tuple[Expert, str] | None:
    """Return an account and the secret of a new session, None if name and password do not fit.

    Commit in both cases: failures count.

    Raises
    ------
    TooManyAttempts
    """
    expert = authenticate(session, name, password, address)
    if expert is None:
        return None
    audit.record(session, "sign in", expert.name, expert.id, address)
    return expert, _issue(session, expert.id, "session", note, SESSION_LIFE)


def add_program_token(
    session: Session, expert: Expert, note: str, days: int, address: str = ""
) -> str:
    """Return a new secret by which a program may act for this expert; it is shown only now.

    Raises
    ------
    BadAccount
    """
    if not 1 <= days <= MAX_PROGRAM_DAYS:
        raise BadAccount(f"expected 1 to {MAX_PROGRAM_DAYS} days; arrived {days}")
    if not note.strip() or "\0" in note:
        raise BadAccount("expected a note that says what the token is for; arrived none")
    secret = _issue(session, expert.id, "program", note.strip(), timedelta(days=days))
    audit.record(session, "issue token", expert.name, expert.id, address, note=note, days=days)
    return secret


def recognise(session: Session, secret: str) -> tuple[Expert, Token] | None:
    """Return whose secret this is, if it is valid and its account is enabled. Changes nothing."""
    statement = (
        select(Expert, Token)
        .join(Token, Token.expert_id == Expert.id)
        .where(
            Token.sha256 == _digest(secret),
            Token.revoked_at.is_(None),
            Token.expires_at > func.now(),
            Expert.disabled_at.is_(None),
        )
    )
    row = session.execute(statement).one_or_none()
    return (row[0], row[1]) if row else None


def needs_renewal(token: Token) -> bool:
    """Tell whether the last use of a token was so long ago that it should be noted anew."""
    return token.used_at is None or token.used_at < datetime.now(UTC) - RENEWAL


def renew(session: Session, token_id: int) -> None:
    """Note that a token was used; a session lives on from now, up to its limit."""
    longer = func.least(func.now() + SESSION_LIFE, Token.created_at + SESSION_LIMIT)
    session.execute(
        sa.update(Token)
        .where(Token.id == token_id)
        .values(
            used_at=func.now(),
            expires_at=sa.case((Token.kind == "session", longer), else_=Token.expires_at),
        )
    )


def tokens(session: Session, expert_id: int) -> Sequence[Token]:
    """Return the valid sessions and tokens of an expert, the newest first."""
    valid = select(Token).where(
        Token.expert_id == expert_id, Token.revoked_at.is_(None), Token.expires_at > func.now()
    )
    return session.scalars(valid.order_by(Token.id.desc())).all()


def revoke(session: Session, expert_id: int, token_id: int, address: str = "") -> bool:
    """End a session or token of this expert; False if the expert has no such one any more."""
    ended = session.execute(
        sa.update(Token)
        .where(Token.id == token_id, Token.expert_id == expert_id, Token.revoked_at.is_(None))
        .values(revoked_at=func.now())
        .returning(Token.kind, Token.note)
    ).one_or_none()
    if ended is None:
        return False
    word = "sign out" if ended.kind == "session" else "revoke token"
    audit.record(session, word, ended.note, expert_id, address)
    return True


def set_password(
    session: Session,
    expert: Expert,
    password: str,
    by: int | None = None,
    address: str = "",
    keep: int | None = None,
) -> None:
    """Give an account another password, and end its sessions and tokens but the one to keep.

    Raises
    ------
    BadAccount
    """
    expert.password_hash = _hashed(expert.name, password)
    _revoke_all(session, expert.id, keep)
    audit.record(session, "change password", expert.name, by, address)


def set_role(session: Session, expert: Expert, role: str) -> None:
    """Change what an expert may do.

    Raises
    ------
    BadAccount
    """
    _check_role(role)
    audit.record(session, "change role", expert.name, before=expert.role, after=role)
    expert.role = role


def set_enabled(session: Session, expert: Expert, enabled: bool) -> None:
    """Let an expert sign in again, or no more and end all sessions and tokens. Labels stay."""
    audit.record(session, "enable account" if enabled else "disable account", expert.name)
    expert.disabled_at = None if enabled else session.scalar(select(func.now()))
    if not enabled:
        _revoke_all(session, expert.id)


def set_blind(session: Session, expert_id: int, blind: bool, address: str = "") -> None:
    """Hide from an expert what others said, or show it; when it is switched is audited."""
    changed = (
        sa.update(Expert)
        .where(Expert.id == expert_id, Expert.blind != blind)
        .values(blind=blind)
        .returning(Expert.name)
    )
    name = session.scalar(changed)
    if name is not None:
        word = "blind mode on" if blind else "blind mode off"
        audit.record(session, word, name, expert_id, address)


def may(expert: Expert, role: str) -> bool:
    """Tell whether an expert's role includes another."""
    return ROLES.index(expert.role) >= ROLES.index(role)


def _named(session: Session, name: str) -> Expert | None:
    if "\0" in name:
        return None
    return session.scalar(select(Expert).where(func.lower(Expert.name) == name.lower()))


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise BadAccount(f"expected a role of {', '.join(ROLES)}; arrived {role!r}")


def _check_attempts(session: Session, name: str, address: str) -> None:
    queue = func.hashtextextended("sign in " + name.lower(), 0)
    session.execute(select(func.pg_advisory_xact_lock(queue)))
    named, here = Audit.subject == name.lower(), Audit.address == address
    n = func.count()
    recent = (Audit.action == FAILED) & (Audit.created_at > func.now() - WINDOW)
    counts = select(n.filter(named & here), n.filter(named), n.filter(here)).where(recent)
    n_here, n_named, n_address = session.execute(counts).one()
    if n_here >= MAX_FAILED_HERE or max(n_named, n_address) >= MAX_FAILED:
        raise TooManyAttempts("too many wrong passwords for this name or from this address")


def _issue(session: Session, expert_id: int, kind: str, note: str, life: timedelta) -> str:
    secret = (PROGRAM_PREFIX if kind == "program" else "") + secrets.token_urlsafe(32)
    session.add(
        Token(
            expert_id=expert_id,
            kind=kind,
            sha256=_digest(secret),
            note=note[:MAX_NOTE],
            expires_at=func.now() + life,
        )
    )
    session.flush()
    return secret


def _revoke_all(session: Session, expert_id: int, keep: int | None = None) -> None:
    session.execute(
        sa.update(Token)
        .where(
            Token.expert_id == expert_id,
            Token.revoked_at.is_(None),
            Token.id.is_distinct_from(keep),
        )
        .values(revoked_at=func.now())
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _hasher() -> argon2.PasswordHasher:
    return argon2.PasswordHasher.from_parameters(PROFILE)


def _nobodys_hash() -> str:
    """Return a hash that no password has, to compare with where there is no account."""
    cost = f"m={PROFILE.memory_cost},t={PROFILE.time_cost},p={PROFILE.parallelism}"
    return f"$argon2id$v={PROFILE.version}${cost}${'A' * 22}${'A' * 43}"


def _hashed(name: str, password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadAccount(
            f"expected a password of {SHORTEST} to {LONGEST:,} characters; arrived {len(password)}"
        )
    if name.lower() in password.lower() and len(password) < len(name) + SHORTEST:
        raise BadAccount("expected a password that is more than the name with a few characters")
    return _hasher().hash(_normalised(password))


def _fits(stored: str, password: str) -> bool:
    try:
        return _hasher().verify(stored, _normalised(password[:LONGEST]))
    except (VerificationError, InvalidHashError):
        return False


def _normalised(password: str) -> bytes:
    """Write letters with accents in one way, because keyboards differ."""
    return unicodedata.normalize("NFC", password).encode(errors="replace")
