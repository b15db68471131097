"""`skygloss evaluate contamination`: what share of a selection is shreds, and how sure is that.

The counting is done by the database, the correction for the classifier's errors in
`models.scores`; the errors are those of the card of the current version.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import sqlalchemy as sa
from sqlalchemy.orm import Session

from db import console, model_versions
from db.engine import session_factory
from models.scores import Counts, Interval, contamination

SELECTIONS = ("annotated_source", "saga_candidate")
THRESHOLD = 0.5  # where the cards' completeness and specificity hold


@dataclass(frozen=True)
class Selected:
    """What the current version of shreds said about a selection."""

    n_sources: int
    n_judged: int
    n_called: int  # shreds


@click.command("contamination")
@click.option("--catalog", help="Only sources of this catalog.")
@click.option(
    "--selection",
    type=click.Choice(SELECTIONS),
    default=SELECTIONS[0],
    show_default=True,
    help="The view to count in: every source, or the SAGA-like candidates.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers for machines.")
def contamination_command(catalog: str | None, selection: str, as_json: bool) -> None:
    """Estimate the share of shreds in a selection, corrected for classifier error.

    A source counts as called a shred from probability 0.5 on. The 95 % interval carries the size of
    the selection and what is known of the classifier's completeness and specificity.
    """
    engine = console.open_database()
    try:
        with session_factory(engine)() as session:
            name, errors = _current_errors(session)
            found = count(session, selection, catalog)
        share = contamination(found.n_called, found.n_judged, errors)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        numbers = {"version": name, **vars(found), "contamination": share.as_dict()}
        click.echo(json.dumps(numbers))
    else:
        click.echo(_sentence(name, found, share))


def count(session: Session, selection: str, catalog: str | None = None) -> Selected:
    """Count the sources of a view that were judged, and called shreds.

    Raises
    ------
    ValueError
        No source of the selection has been judged.
    """
    view = sa.table(selection, sa.column("catalog", sa.Text), sa.column("p_shred", sa.REAL))
    wanted = [] if catalog is None else [view.c.catalog == catalog]
    is_called = view.c.p_shred >= THRESHOLD
    found = Selected(
        *session.execute(
            sa.select(
                sa.func.count(),
                sa.func.count(view.c.p_shred),
                sa.func.count().filter(is_called),
            )
            .select_from(view)
            .where(*wanted)
        ).one()
    )
    if not found.n_judged:
        where = selection + (f" of catalog {catalog!r}" if catalog else "")
        raise ValueError(
            f"{where} has {found.n_sources:,} sources and none with a probability: "
            "annotate it first (skygloss annotate)"
        )
    return found


def errors_of(card: Mapping[str, Any]) -> Counts:
    """Confusion matrix of a card, from labelled sources the network had never seen.

    Raises
    ------
    ValueError
        The card has none.
    """
    try:
        return Counts(**{name: int(card["errors"][name]) for name in ("tp", "fn", "tn", "fp")})
    except KeyError as error:
        raise ValueError(
            f"the card of {card.get('name', 'the current version')} must give errors with tp, fn, "
            f"tn and fp to correct a share; {error} is missing"
        ) from error


def _current_errors(session: Session) -> tuple[str, Counts]:
    current = model_versions.current(session, ["shreds"])
    if not current:
        raise ValueError("no version of shreds is current: annotate first (skygloss annotate)")
    return current[0].name, errors_of(current[0].card)


def _sentence(name: str, found: Selected, share: Interval) -> str:
    called = found.n_called / found.n_judged
    return (
        f"{100 * share.value:.1f} % of the selection are shreds"
        f" (95 % interval {100 * share.low:.1f} to {100 * share.high:.1f} %).\n"
        f"{name} called {found.n_called:,} of {found.n_judged:,} judged sources shreds"
        f" ({100 * called:.1f} %); {found.n_sources - found.n_judged:,} of {found.n_sources:,}"
        " have no probability."
    )
