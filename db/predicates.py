"""The view `annotated_source` for SQLAlchemy, and conditions on its columns as users write them."""

from __future__ import annotations

import sqlalchemy as sa

from db.tables import Catalog, ModelVersion, Representation, Shred, Source

annotated_source = sa.table(
    "annotated_source",
    sa.column("source_id", Source.__table__.c.id.type),
    sa.column("catalog_id", Source.__table__.c.catalog_id.type),
    sa.column("catalog", Catalog.__table__.c.name.type),
    *(
        sa.column(column.name, column.type)
        for column in Source.__table__.c
        if column.name not in ("id", "catalog_id")
    ),
    sa.column("has_cutout", sa.Boolean()),
    sa.column("p_shred", Shred.__table__.c.p_shred.type),
    sa.column("shred_flags", Shred.__table__.c.flags.type),
    sa.column("shred_version", ModelVersion.__table__.c.name.type),
    sa.column("shred_run_id", Shred.__table__.c.run_id.type),
    sa.column("representation_flags", Representation.__table__.c.flags.type),
    sa.column("representation_version", ModelVersion.__table__.c.name.type),
)
