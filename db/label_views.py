"""The views on labels, as statements name them. What they say: `\\d+` in psql, docs/labels.md."""

from __future__ import annotations

import sqlalchemy as sa

SUBJECT_COLUMNS = ("source_id", "exposure_id", "model_version_id", "cell_row", "cell_column")
_CELL_LABEL = (
    *("model_version_id", "cell_row", "cell_column", "label_class_id", "n_votes", "n_experts"),
    *("n_direct", "n_agree", "confidence"),
)
_OTHER_TYPES: dict[str, sa.types.TypeEngine] = {
    "comment": sa.Text(),
    "blind": sa.Boolean(),
    "created_at": sa.DateTime(timezone=True),
    "confidence": sa.REAL(),
}


def _view(name: str, *columns: str) -> sa.TableClause:
    return sa.table(name, *(sa.column(c, _OTHER_TYPES.get(c, sa.BigInteger())) for c in columns))


label_current = _view(
    "label_current",
    *SUBJECT_COLUMNS,
    *("label_id", "expert_id", "label_class_id", "comment", "blind", "created_at"),
)
label_majority = _view("label_majority", *SUBJECT_COLUMNS, "label_class_id", "n_votes", "n_experts")
cell_label = {
    "exposure_map": _view("exposure_cell_label", *_CELL_LABEL),
    "source_map": _view("source_cell_label", *_CELL_LABEL),
}
label_propagated = _view("label_propagated", "source_id", "exposure_id", *_CELL_LABEL)
