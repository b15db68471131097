"""The commands `skygloss users …`: who has an account, in which role, and what lets them in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click
from sqlalchemy.orm import Session

from db import console, experts
from db.engine import session_factory

PASSWORD_STDIN = click.option(
    "--password-stdin", is_flag=True, help="Read the password from a line of the standard input."
)


@click.group()
def users() -> None:
    """Give and take the accounts of experts.

    While there is no account, whoever reaches the pages may do everything but label. From the first
    one on, saving and deleting selections needs an expert who is signed in.
    """


@users.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(experts.ROLES),
    default="expert",
    show_default=True,
    help="viewer reads, expert labels and changes the label classes, admin sees the audit.",
)
@PASSWORD_STDIN
def add(name: str, role: str, password_stdin: bool) -> None:
    """Make an account for NAME; the password is asked for."""
    with _session() as session:
        experts.add(session, name, _password(password_stdin), role)
    click.echo(f"{name}: account made, role {role}")


@users.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the accounts for machines.")
def list_(as_json: bool) -> None:
    """List the accounts."""
    with _session() as session:
        found = experts.listed(session)
    if as_json:
        names = ("id", "name", "role", "blind", "created_at", "disabled_at")
        console.emit([{name: getattr(one, name) for name in names} for one in found])
        return
    rows = [
        (one.name, one.role, "disabled" if one.disabled_at else "", f"{one.created_at:%Y-%m-%d}")
        for one in found
    ]
    console.print_table("", ("name", "role", "state", "since"), rows)
    if not found:
        click.echo("There are no accounts yet: skygloss users add NAME")


@users.command()
@click.argument("name")
@PASSWORD_STDIN
def password(name: str, password_stdin: bool) -> None:
    """Give NAME another password; all sessions and tokens end."""
    with _session() as session:
        expert = experts.find(session, name)
        experts.set_password(session, expert, _password(password_stdin))
    click.echo(f"{expert.name}: password changed, signed out everywhere")


@users.command()
@click.argument("name")
@click.argument("role", type=click.Choice(experts.ROLES))
def role(name: str, role: str) -> None:
    """Give NAME another role."""
    with _session() as session:
        expert = experts.find(session, name)
        experts.set_role(session, expert, role)
    click.echo(f"{expert.name}: role {role}")


@users.command()
@click.argument("name")
def disable(name: str) -> None:
    """Let NAME in no more; sessions and tokens end, labels stay."""
    with _session() as session:
        expert = experts.find(session, name)
        experts.set_enabled(session, expert, False)
    click.echo(f"{expert.name}: disabled")


@users.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let NAME sign in again."""
    with _session() as session:
        expert = experts.find(session, name)
        experts.set_enabled(session, expert, True)
    click.echo(f"{expert.name}: enabled")


@users.command()
@click.argument("name")
@click.option("--note", required=True, help="What the token is for.")
@click.option("--days", default=90, show_default=True, help="How long it is valid.")
def token(name: str, note: str, days: int) -> None:
    """Print a token by which a program may act for NAME; it cannot be shown again."""
    with _session() as session:
        expert = experts.find(session, name)
        secret = experts.add_program_token(session, expert, note, days)
    click.echo(secret)


@contextmanager
def _session() -> Iterator[Session]:
    """Open a session that commits in the end; what cannot be done becomes a message."""
    factory = session_factory(console.open_database())
    with (
        console.friendly_errors(experts.BadAccount, experts.UnknownExpert),
        factory.begin() as session,
    ):
        yield session


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    return answer
