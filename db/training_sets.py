"""What a training set says of its members beside the label, and who has a label from a cell.

Which label is the right one is for `models.agreement`; files are for `db.export`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from db.label_views import label_propagated
from db.tables import Catalog, Exposure, LabelClass, Source

Kind = Literal["exposure", "source"]

MAPS = {"exposure": "exposure_map", "source": "source_map"}
ROWS_AT_ONCE = 5_000


def facts(session: Session, kind: Kind, ids: Sequence[int]) -> dict[int, Row]:
    """Return id, name, catalog, path, ra and dec of exposures or sources, by number.

    The name of a source is its survey_id, and it has no path.
    """
    statement = _facts(kind)
    number = statement.selected_columns["id"]
    return {row.id: row for row in session.execute(statement.where(number.in_(ids)))}


def propagated(
    session: Session, kind: Kind, model_version_id: int, min_experts: int = 1
) -> Iterator[Row]:
    """Yield the members of labelled cells of a map, in bounded memory, by cell.

    Rows are those of `facts` with label_class_id, label, confidence, n_votes, n_experts, cell_row
    and cell_column. What experts said of the members themselves is not looked at.
    """
    view = label_propagated.c
    statement = _facts(kind)
    number = statement.selected_columns["id"]
    statement = (
        statement.add_columns(
            view.label_class_id,
            LabelClass.name.label("label"),
            view.confidence,
            view.n_votes,
            view.n_experts,
            view.cell_row,
            view.cell_column,
        )
        .join(label_propagated, view[f"{kind}_id"] == number)
        .join(LabelClass, LabelClass.id == view.label_class_id)
        .where(view.model_version_id == model_version_id, view.n_experts >= min_experts)
        .order_by(view.cell_row, view.cell_column, number)
    )
    yield from session.execute(statement, execution_options={"yield_per": ROWS_AT_ONCE})


def _facts(kind: Kind) -> Select[Any]:
    if kind == "exposure":
        columns: list[Any] = [Exposure.id, Exposure.name, Exposure.path, Exposure.ra, Exposure.dec]
        table: Any = Exposure
    else:
        no_path = sa.null().label("path")
        columns = [Source.id, Source.survey_id.label("name"), no_path, Source.ra, Source.dec]
        table = Source
    return select(*columns, Catalog.name.label("catalog")).join(
        Catalog, Catalog.id == table.catalog_id
    )
