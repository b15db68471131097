"""representations, search indexes, projections, saved selections, uploads"""

import sqlalchemy as sa
from alembic import context, op
from pgvector.sqlalchemy import HALFVEC
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NEW_COLUMNS = (
    (
        "representation_flags",
        "representation.flags",
        "Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled; null without representation",
    ),
    (
        "representation_version",
        "representation_version.name",
        "Model version that made the source's vector, as architecture.tag; null without representation",
    ),
)
JOINS = """
LEFT JOIN representation
    ON representation.source_id = source.id
    AND representation.model_version_id = (
        SELECT id FROM model_version WHERE annotator = 'representations' AND state = 'current'
    )
LEFT JOIN model_version AS representation_version
    ON representation_version.id = representation.model_version_id
WHERE source.ra IS NOT NULL
"""
POSITION = ("ra", "dec", "healpix")


def upgrade() -> None:
    for column in POSITION:
        op.alter_column("source", column, nullable=True)
    _comment("COLUMN source.ra", "Right ascension, ICRS [deg]; null for uploaded images")
    _comment("COLUMN source.dec", "Declination, ICRS [deg]; null for uploaded images")
    op.create_check_constraint(
        op.f("ck_source_position_whole"), "source", "num_nulls(ra, dec, healpix) IN (0, 3)"
    )
    _create_tables()
    extend_views()


def downgrade() -> None:
    first = context.script.get_revision("0002").module
    first.downgrade()
    for table in (
        "upload",
        "selection_source",
        "selection",
        "projection_tile",
        "projection_point",
        "projection",
        "search_index",
        "representation",
    ):
        op.drop_table(table)
    op.drop_constraint(op.f("ck_source_position_whole"), "source")
    op.execute("DELETE FROM source WHERE ra IS NULL")
    for column in POSITION:
        op.alter_column("source", column, nullable=False)
    _comment("COLUMN source.ra", "Right ascension, ICRS [deg]")
    _comment("COLUMN source.dec", "Declination, ICRS [deg]")
    first.upgrade()


def extend_views() -> None:
    first = context.script.get_revision("0002").module
    columns = ",\n    ".join(f"{sql} AS {name}" for name, sql, _ in (*first.COLUMNS, *NEW_COLUMNS))
    op.execute("DROP VIEW saga_candidate")
    view = first.VIEW.format(columns=columns).replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    op.execute(view + JOINS)
    op.execute("CREATE VIEW saga_candidate AS SELECT * FROM saga_selection()")
    _comment("VIEW saga_candidate", first.CANDIDATE_COMMENT)
    for name, _, comment in NEW_COLUMNS:
        _comment(f"COLUMN annotated_source.{name}", comment)
    for name, _, comment in (*first.COLUMNS, *NEW_COLUMNS):
        _comment(f"COLUMN saga_candidate.{name}", comment)


def _comment(target: str, comment: str) -> None:
    quoted = comment.replace("'", "''").replace(":", r"\:")
    op.execute(f"COMMENT ON {target} IS '{quoted}'")


def _create_tables() -> None:
    op.create_table(
        "selection",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name the user gave"),
        sa.Column(
            "comment",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="What the user said about it",
        ),
        sa.Column(
            "origin",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="How it was made: projection, model version and polygon, or the search",
        ),
        sa.Column(
            "n_sources",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Sources in the selection",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was saved",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_selection")),
        sa.UniqueConstraint("name", name=op.f("uq_selection_name")),
    )
    op.create_table(
        "projection",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name the user gave"),
        sa.Column(
            "model_version_id",
            sa.BigInteger(),
            nullable=False,
            comment="Whose representations are laid out",
        ),
        sa.Column("method", sa.Text(), nullable=False, comment="umap or pca"),
        sa.Column(
            "n_points",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Sources in the projection",
        ),
        sa.Column(
            "n_fitted",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Sources the layout was learnt from",
        ),
        sa.Column("seed", sa.Integer(), nullable=False, comment="Seed of the random choices"),
        sa.Column(
            "options",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Options of the method",
        ),
        sa.Column("x_min", sa.REAL(), nullable=True, comment="Left edge"),
        sa.Column("x_max", sa.REAL(), nullable=True, comment="Right edge"),
        sa.Column("y_min", sa.REAL(), nullable=True, comment="Lower edge"),
        sa.Column("y_max", sa.REAL(), nullable=True, comment="Upper edge"),
        sa.Column(
            "state",
            sa.Text(),
            server_default="building",
            nullable=False,
            comment="building or ready",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the building began",
        ),
        sa.CheckConstraint("method IN ('umap', 'pca')", name=op.f("ck_projection_method")),
        sa.CheckConstraint("state IN ('building', 'ready')", name=op.f("ck_projection_state")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_projection_model_version_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projection")),
        sa.UniqueConstraint("name", name=op.f("uq_projection_name")),
    )
    op.create_table(
        "search_index",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_version_id", sa.BigInteger(), nullable=False),
        sa.Column("metric", sa.Text(), nullable=False, comment="l1, l2 or cosine"),
        sa.Column(
            "built_until",
            sa.BigInteger(),
            nullable=False,
            comment="Largest representation.ordinal in the index; newer rows are scanned",
        ),
        sa.Column(
            "n_rows", sa.BigInteger(), nullable=False, comment="Rows in the index when it was built"
        ),
        sa.Column("m", sa.SmallInteger(), nullable=False, comment="HNSW: links per row"),
        sa.Column(
            "ef_construction",
            sa.SmallInteger(),
            nullable=False,
            comment="HNSW: candidates kept while building",
        ),
        sa.Column("build_seconds", sa.REAL(), nullable=False, comment="Time to build [s]"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False, comment="Size on disk [byte]"),
        sa.Column(
            "built_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was built",
        ),
        sa.Column(
            "recall",
            sa.REAL(),
            nullable=True,
            comment="Measured share of the true nearest rows that the index finds, 0 to 1",
        ),
        sa.Column(
            "recall_k",
            sa.SmallInteger(),
            nullable=True,
            comment="Neighbours asked for when recall was measured",
        ),
        sa.Column(
            "recall_ef",
            sa.SmallInteger(),
            nullable=True,
            comment="hnsw.ef_search when recall was measured",
        ),
        sa.Column(
            "recall_queries",
            sa.Integer(),
            nullable=True,
            comment="Searches that recall was measured on",
        ),
        sa.Column(
            "recall_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When recall was measured",
        ),
        sa.CheckConstraint("metric IN ('l1', 'l2', 'cosine')", name=op.f("ck_search_index_metric")),
        sa.CheckConstraint("recall BETWEEN 0 AND 1", name=op.f("ck_search_index_recall_range")),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_search_index_model_version_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_search_index")),
        sa.UniqueConstraint(
            "model_version_id", "metric", name=op.f("uq_search_index_model_version_id_metric")
        ),
    )
    op.create_table(
        "projection_point",
        sa.Column("projection_id", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("x", sa.REAL(), nullable=False, comment="Horizontal coordinate, arbitrary unit"),
        sa.Column("y", sa.REAL(), nullable=False, comment="Vertical coordinate, arbitrary unit"),
        sa.Column(
            "cell",
            sa.BigInteger(),
            nullable=False,
            comment="Morton code of the point on a grid of 65,536 x 65,536 over the projection",
        ),
        sa.ForeignKeyConstraint(
            ["projection_id"],
            ["projection.id"],
            name=op.f("fk_projection_point_projection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["source.id"],
            name=op.f("fk_projection_point_source_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("projection_id", "source_id", name=op.f("pk_projection_point")),
    )
    op.create_index(
        op.f("ix_projection_point_projection_id_cell"),
        "projection_point",
        ["projection_id", "cell"],
        unique=False,
    )
    op.create_index(
        op.f("ix_projection_point_source_id"), "projection_point", ["source_id"], unique=False
    )
    op.create_table(
        "projection_tile",
        sa.Column("projection_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "level",
            sa.SmallInteger(),
            nullable=False,
            comment="The projection is 2^level x 2^level tiles",
        ),
        sa.Column(
            "cell", sa.BigInteger(), nullable=False, comment="Morton code of the tile at its level"
        ),
        sa.Column("n", sa.BigInteger(), nullable=False, comment="Sources in the tile"),
        sa.Column("source_id", sa.BigInteger(), nullable=False, comment="One of them"),
        sa.ForeignKeyConstraint(
            ["projection_id"],
            ["projection.id"],
            name=op.f("fk_projection_tile_projection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["source.id"],
            name=op.f("fk_projection_tile_source_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("projection_id", "level", "cell", name=op.f("pk_projection_tile")),
    )
    op.create_index(
        op.f("ix_projection_tile_source_id"), "projection_tile", ["source_id"], unique=False
    )
    op.create_table(
        "representation",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "model_version_id", sa.BigInteger(), nullable=False, comment="Which encoder made it"
        ),
        sa.Column(
            "embedding",
            HALFVEC(),
            nullable=True,
            comment="The encoder's vector; null where flags say why",
        ),
        sa.Column(
            "reduced",
            HALFVEC(dim=40),
            nullable=True,
            comment="First 40 principal components of the embedding, as the model card defines them",
        ),
        sa.Column(
            "ordinal",
            sa.BigInteger(),
            sa.Identity(always=True),
            nullable=False,
            comment="Grows with every row: search indexes cover the rows up to one",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_representation_model_version_id"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_representation_run_id")),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["source.id"],
            name=op.f("fk_representation_source_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("source_id", "model_version_id", name=op.f("pk_representation")),
    )
    op.create_index(
        op.f("ix_representation_model_version_id_ordinal"),
        "representation",
        ["model_version_id", "ordinal"],
        unique=False,
    )
    op.create_table(
        "selection_source",
        sa.Column("selection_id", sa.BigInteger(), nullable=False),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["selection_id"],
            ["selection.id"],
            name=op.f("fk_selection_source_selection_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"],
            ["source.id"],
            name=op.f("fk_selection_source_source_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("selection_id", "source_id", name=op.f("pk_selection_source")),
    )
    op.create_index(
        op.f("ix_selection_source_source_id"), "selection_source", ["source_id"], unique=False
    )
    op.create_table(
        "upload",
        sa.Column("token", sa.Text(), nullable=False, comment="Unguessable name of the upload"),
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "file_name", sa.Text(), nullable=False, comment="Name of the file, as it was sent"
        ),
        sa.Column("sha256", sa.Text(), nullable=False, comment="SHA-256 of the file"),
        sa.Column(
            "media_type",
            sa.Text(),
            nullable=False,
            comment="What the file is: image/png, image/jpeg …",
        ),
        sa.Column(
            "note",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="What was done to the image: cropped, resampled, stretched",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it arrived",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_upload_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_upload")),
        sa.UniqueConstraint("source_id", name=op.f("uq_upload_source_id")),
    )
    op.execute("ALTER TABLE representation ALTER COLUMN embedding SET STORAGE EXTERNAL")
