"""exposures, self-organizing maps, experts and their labels"""

import sqlalchemy as sa
from alembic import op
from pgvector.sqlalchemy import HALFVEC, VECTOR
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COMMENTS = (  # column, what it says before, what it says now
    (
        "source.ra",
        "Right ascension, ICRS [deg]; null for uploaded images",
        "Right ascension, ICRS [deg]; null for uploaded images, and on CCDs without WCS",
    ),
    (
        "source.dec",
        "Declination, ICRS [deg]; null for uploaded images",
        "Declination, ICRS [deg]; null for uploaded images, and on CCDs without WCS",
    ),
    (
        "cutout_set.origin",
        "Where the pixels came from: folder, mosaic, service",
        "Where the pixels came from: folder, mosaic, service, upload, exposure",
    ),
)


def upgrade() -> None:
    op.create_table(
        "expert",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="What the person signs in with"),
        sa.Column(
            "password_hash", sa.Text(), nullable=False, comment="Argon2id hash of the password"
        ),
        sa.Column(
            "role",
            sa.Text(),
            server_default="expert",
            nullable=False,
            comment="viewer (reads), expert (labels, classes), admin (audit)",
        ),
        sa.Column(
            "blind",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="Whether pages hide what others said from this person",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the account was made",
        ),
        sa.Column(
            "disabled_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Since when the person may not sign in; labels stay",
        ),
        sa.CheckConstraint(
            "name ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'", name=op.f("ck_expert_name")
        ),
        sa.CheckConstraint("role IN ('viewer', 'expert', 'admin')", name=op.f("ck_expert_role")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_expert")),
    )
    op.create_index(
        "uq_expert_lower_name", "expert", [sa.literal_column("lower(name)")], unique=True
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "expert_id",
            sa.BigInteger(),
            nullable=True,
            comment="Who did it; null for the command line",
        ),
        sa.Column(
            "action", sa.Text(), nullable=False, comment="What was done, e.g. sign in, add class"
        ),
        sa.Column(
            "subject", sa.Text(), server_default="", nullable=False, comment="To whom or what"
        ),
        sa.Column(
            "address",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Network address it came from",
        ),
        sa.Column(
            "details",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Particulars",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it happened",
        ),
        sa.ForeignKeyConstraint(["expert_id"], ["expert.id"], name=op.f("fk_audit_expert_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_index(op.f("ix_audit_created_at"), "audit", ["created_at"])
    op.create_table(
        "label_class",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name the team gave, free to change"),
        sa.Column(
            "key",
            sa.Text(),
            nullable=True,
            comment="Key that gives this label, one letter or digit",
        ),
        sa.Column(
            "colour", sa.SmallInteger(), nullable=False, comment="Place in the palette of the pages"
        ),
        sa.Column(
            "description", sa.Text(), server_default="", nullable=False, comment="What belongs here"
        ),
        sa.Column("created_by", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was added",
        ),
        sa.Column(
            "retired_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Since when it is not offered any more; labels stay",
        ),
        sa.CheckConstraint("key ~ '^[a-z0-9]$'", name=op.f("ck_label_class_key")),
        sa.CheckConstraint("colour BETWEEN 0 AND 11", name=op.f("ck_label_class_colour")),
        sa.ForeignKeyConstraint(
            ["created_by"], ["expert.id"], name=op.f("fk_label_class_created_by")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_class")),
    )
    op.create_index(
        "uq_label_class_key",
        "label_class",
        ["key"],
        unique=True,
        postgresql_where=sa.text("retired_at IS NULL"),
    )
    op.create_index(
        "uq_label_class_lower_name",
        "label_class",
        [sa.literal_column("lower(name)")],
        unique=True,
        postgresql_where=sa.text("retired_at IS NULL"),
    )
    op.create_table(
        "prototype",
        sa.Column("model_version_id", sa.BigInteger(), nullable=False),
        sa.Column("cell_row", sa.SmallInteger(), nullable=False, comment="0-based row of the map"),
        sa.Column(
            "cell_column", sa.SmallInteger(), nullable=False, comment="0-based column of the map"
        ),
        sa.Column(
            "latent", HALFVEC(), nullable=False, comment="The prototype, in the network's code"
        ),
        sa.Column(
            "decoded",
            HALFVEC(),
            nullable=False,
            comment="What the network makes of it, 0 to 1, row by row: a cutout, its lowest row first (source_map), or a histogram over the cells of the source map (exposure_map)",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_prototype_model_version_id")
        ),
        sa.PrimaryKeyConstraint(
            "model_version_id", "cell_row", "cell_column", name=op.f("pk_prototype")
        ),
    )
    op.create_table(
        "token",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("expert_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False, comment="session or program"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="SHA-256 of the secret"),
        sa.Column(
            "note",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="What it is for, or the browser",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was issued",
        ),
        sa.Column(
            "used_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="Last use, to about a minute",
        ),
        sa.Column(
            "expires_at", sa.DateTime(timezone=True), nullable=False, comment="Not valid after this"
        ),
        sa.Column(
            "revoked_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was signed out or revoked",
        ),
        sa.CheckConstraint("kind IN ('session', 'program')", name=op.f("ck_token_kind")),
        sa.ForeignKeyConstraint(["expert_id"], ["expert.id"], name=op.f("fk_token_expert_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
        sa.UniqueConstraint("sha256", name=op.f("uq_token_sha256")),
    )
    op.create_index(op.f("ix_token_expert_id"), "token", ["expert_id"], unique=False)
    op.create_table(
        "exposure",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "catalog_id", sa.BigInteger(), nullable=False, comment="Catalog that its sources are in"
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="File name without its endings, e.g. 1234567p",
        ),
        sa.Column(
            "path", sa.Text(), nullable=False, comment="Where the file was when it was ingested"
        ),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="Identifies the content: size and SHA-256",
        ),
        sa.Column("instrument", sa.Text(), nullable=True, comment="Camera, from the header"),
        sa.Column("band", sa.Text(), nullable=True, comment="Filter, from the header"),
        sa.Column(
            "mjd",
            sa.Double(),
            nullable=True,
            comment="Start of the exposure, Modified Julian Date, UTC [d]",
        ),
        sa.Column("exposure_time", sa.REAL(), nullable=True, comment="Exposure time [s]"),
        sa.Column(
            "ra",
            sa.Double(),
            nullable=True,
            comment="Right ascension of the centre, ICRS [deg]; null without usable WCS",
        ),
        sa.Column(
            "dec",
            sa.Double(),
            nullable=True,
            comment="Declination of the centre, ICRS [deg]; null without usable WCS",
        ),
        sa.Column(
            "healpix",
            sa.BigInteger(),
            nullable=True,
            comment="HEALPix cell of the centre, nested scheme, order 29",
        ),
        sa.Column("pixel_scale", sa.REAL(), nullable=True, comment="Pixel scale [arcsec/pixel]"),
        sa.Column("n_ccds", sa.SmallInteger(), nullable=False, comment="CCDs in the file"),
        sa.Column(
            "n_detected", sa.Integer(), nullable=False, comment="Sources detected on all CCDs"
        ),
        sa.Column(
            "n_sampled",
            sa.Integer(),
            nullable=False,
            comment="Sources stored: a fair random sample of those detected whose cutout lies wholly on "
            "the CCD; it stands for all detected",
        ),
        sa.Column(
            "block_id",
            sa.BigInteger(),
            nullable=True,
            comment="Their cutouts; null if there are none",
        ),
        sa.Column(
            "preview",
            sa.Text(),
            nullable=True,
            comment="Picture of the exposure, a file relative to the root of the pixel store",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 nothing detected, 2 some CCDs unusable, 4 no CCD usable, 8 no usable WCS, 16 header facts missing",
        ),
        sa.Column(
            "header",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="Cards of the primary header",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was ingested",
        ),
        sa.CheckConstraint("n_sampled BETWEEN 0 AND n_detected", name=op.f("ck_exposure_sampled")),
        sa.CheckConstraint(
            "num_nulls(ra, dec, healpix) IN (0, 3)", name=op.f("ck_exposure_position_whole")
        ),
        sa.ForeignKeyConstraint(
            ["block_id"], ["cutout_block.id"], name=op.f("fk_exposure_block_id")
        ),
        sa.ForeignKeyConstraint(
            ["catalog_id"], ["catalog.id"], name=op.f("fk_exposure_catalog_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exposure")),
        sa.UniqueConstraint("block_id", name=op.f("uq_exposure_block_id")),
        sa.UniqueConstraint("catalog_id", "name", name=op.f("uq_exposure_catalog_id_name")),
    )
    op.create_index(op.f("ix_exposure_healpix"), "exposure", ["healpix"], unique=False)
    op.create_table(
        "ccd",
        sa.Column("exposure_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "number",
            sa.SmallInteger(),
            nullable=False,
            comment="0-based place among the images of the file",
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="Name of the extension, e.g. ccd07"),
        sa.Column("width", sa.Integer(), nullable=False, comment="Columns [pixel]"),
        sa.Column("height", sa.Integer(), nullable=False, comment="Rows [pixel]"),
        sa.Column(
            "footprint",
            sa.ARRAY(sa.Double(), dimensions=1),
            nullable=True,
            comment="Corners on the sky, ra and dec in turn, ICRS [deg]; null without usable WCS",
        ),
        sa.Column(
            "background", sa.REAL(), nullable=True, comment="Median background [file's unit]"
        ),
        sa.Column(
            "background_rms", sa.REAL(), nullable=True, comment="Noise of a pixel [file's unit]"
        ),
        sa.Column(
            "fwhm",
            sa.REAL(),
            nullable=True,
            comment="Median full width at half maximum of the sources [pixel]",
        ),
        sa.Column(
            "ellipticity",
            sa.REAL(),
            nullable=True,
            comment="Median 1 - b/a of the sources, 0 is round",
        ),
        sa.Column("n_detected", sa.Integer(), nullable=False, comment="Sources detected"),
        sa.Column("n_sampled", sa.Integer(), nullable=False, comment="Sources stored"),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 unreadable, 2 no signal, 4 part of the pixels without signal (a dead amplifier), 8 some pixels without value, 16 no usable WCS, 32 nothing detected, 64 too crowded to deblend",
        ),
        sa.ForeignKeyConstraint(
            ["exposure_id"], ["exposure.id"], name=op.f("fk_ccd_exposure_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("exposure_id", "number", name=op.f("pk_ccd")),
    )
    op.create_table(
        "exposure_cell",
        sa.Column("exposure_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version_id", sa.BigInteger(), nullable=False, comment="Which map"),
        sa.Column(
            "cell_row",
            sa.SmallInteger(),
            nullable=True,
            comment="0-based row of the nearest prototype; null where flags say why",
        ),
        sa.Column(
            "cell_column",
            sa.SmallInteger(),
            nullable=True,
            comment="0-based column of the nearest prototype",
        ),
        sa.Column(
            "quantization_error",
            sa.REAL(),
            nullable=True,
            comment="Euclidean distance to the nearest prototype, in the network's code",
        ),
        sa.Column(
            "margin",
            sa.REAL(),
            nullable=True,
            comment="How much farther the second nearest prototype is; near 0 is borderline",
        ),
        sa.Column(
            "latent",
            HALFVEC(),
            nullable=True,
            comment="The exposure in the network's code: what looks alike lies close together",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no source with a cell, 2 fewer than 30 sources counted, 4 far from every prototype (novel)",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.ForeignKeyConstraint(
            ["exposure_id"],
            ["exposure.id"],
            name=op.f("fk_exposure_cell_exposure_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_exposure_cell_model_version_id"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_exposure_cell_run_id")),
        sa.PrimaryKeyConstraint("exposure_id", "model_version_id", name=op.f("pk_exposure_cell")),
    )
    op.create_index(
        op.f("ix_exposure_cell_model_version_id_cell_row_cell_column_quantization_error"),
        "exposure_cell",
        ["model_version_id", "cell_row", "cell_column", "quantization_error"],
        unique=False,
        postgresql_include=["exposure_id", "margin"],
    )
    op.create_table(
        "exposure_histogram",
        sa.Column("exposure_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "model_version_id",
            sa.BigInteger(),
            nullable=False,
            comment="The version of the source map",
        ),
        sa.Column(
            "counts",
            VECTOR(),
            nullable=False,
            comment="Sources in each cell, row by row, times n_detected over the sources counted",
        ),
        sa.Column(
            "n_counted", sa.Integer(), nullable=False, comment="Sampled sources that have a cell"
        ),
        sa.Column(
            "weight",
            sa.Double(),
            nullable=False,
            comment="Detected sources that a counted one stands for",
        ),
        sa.ForeignKeyConstraint(
            ["exposure_id"],
            ["exposure.id"],
            name=op.f("fk_exposure_histogram_exposure_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"],
            ["model_version.id"],
            name=op.f("fk_exposure_histogram_model_version_id"),
        ),
        sa.PrimaryKeyConstraint(
            "exposure_id", "model_version_id", name=op.f("pk_exposure_histogram")
        ),
    )
    op.create_table(
        "label",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("expert_id", sa.BigInteger(), nullable=False, comment="Who said it"),
        sa.Column("action", sa.Text(), nullable=False, comment="label, clear, comment or undo"),
        sa.Column(
            "label_class_id", sa.BigInteger(), nullable=True, comment="What the person says it is"
        ),
        sa.Column("source_id", sa.BigInteger(), nullable=True, comment="Said of this source"),
        sa.Column("exposure_id", sa.BigInteger(), nullable=True, comment="Said of this exposure"),
        sa.Column(
            "model_version_id", sa.BigInteger(), nullable=True, comment="Said of a cell of this map"
        ),
        sa.Column("cell_row", sa.SmallInteger(), nullable=True, comment="0-based row of that cell"),
        sa.Column(
            "cell_column", sa.SmallInteger(), nullable=True, comment="0-based column of that cell"
        ),
        sa.Column(
            "undoes",
            sa.BigInteger(),
            nullable=True,
            comment="The row of the same person that this one takes back",
        ),
        sa.Column(
            "comment", sa.Text(), server_default="", nullable=False, comment="The person's remark"
        ),
        sa.Column(
            "blind",
            sa.Boolean(),
            server_default="false",
            nullable=False,
            comment="Whether it was said without seeing what others said",
        ),
        sa.Column(
            "request",
            sa.Text(),
            nullable=False,
            comment="Name the page gave the request, so that sending it again changes nothing",
        ),
        sa.Column(
            "item",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="0-based place in the request",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When it was said",
        ),
        sa.CheckConstraint(
            "(action = 'label') = (label_class_id IS NOT NULL)", name=op.f("ck_label_class")
        ),
        sa.CheckConstraint("(action = 'undo') = (undoes IS NOT NULL)", name=op.f("ck_label_undo")),
        sa.CheckConstraint("action <> 'comment' OR comment <> ''", name=op.f("ck_label_comment")),
        sa.CheckConstraint(
            "action IN ('label', 'clear', 'comment', 'undo')", name=op.f("ck_label_action")
        ),
        sa.CheckConstraint(
            "num_nonnulls(source_id, exposure_id, cell_row) = 1 AND num_nonnulls(model_version_id, cell_row, cell_column) IN (0, 3)",
            name=op.f("ck_label_subject"),
        ),
        sa.ForeignKeyConstraint(["expert_id"], ["expert.id"], name=op.f("fk_label_expert_id")),
        sa.ForeignKeyConstraint(
            ["exposure_id"], ["exposure.id"], name=op.f("fk_label_exposure_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(
            ["label_class_id"], ["label_class.id"], name=op.f("fk_label_label_class_id")
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_label_model_version_id")
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_label_source_id"), ondelete="RESTRICT"
        ),
        sa.ForeignKeyConstraint(["undoes"], ["label.id"], name=op.f("fk_label_undoes")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label")),
        sa.UniqueConstraint(
            "expert_id", "request", "item", name=op.f("uq_label_expert_id_request_item")
        ),
    )
    op.create_index(
        "ix_label_cell",
        "label",
        ["model_version_id", "cell_row", "cell_column"],
        unique=False,
        postgresql_where=sa.text("cell_row IS NOT NULL"),
    )
    op.create_index(
        "ix_label_exposure",
        "label",
        ["exposure_id"],
        unique=False,
        postgresql_where=sa.text("exposure_id IS NOT NULL"),
    )
    op.create_index(op.f("ix_label_label_class_id"), "label", ["label_class_id"], unique=False)
    op.create_index(
        "ix_label_source",
        "label",
        ["source_id"],
        unique=False,
        postgresql_where=sa.text("source_id IS NOT NULL"),
    )
    op.create_index(
        "uq_label_undoes",
        "label",
        ["undoes"],
        unique=True,
        postgresql_where=sa.text("undoes IS NOT NULL"),
    )
    op.create_table(
        "source_cell",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version_id", sa.BigInteger(), nullable=False, comment="Which map"),
        sa.Column(
            "cell_row",
            sa.SmallInteger(),
            nullable=True,
            comment="0-based row of the nearest prototype; null where flags say why",
        ),
        sa.Column(
            "cell_column",
            sa.SmallInteger(),
            nullable=True,
            comment="0-based column of the nearest prototype",
        ),
        sa.Column(
            "quantization_error",
            sa.REAL(),
            nullable=True,
            comment="Euclidean distance to the nearest prototype, in the network's code",
        ),
        sa.Column(
            "margin",
            sa.REAL(),
            nullable=True,
            comment="How much farther the second nearest prototype is; near 0 is borderline",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 32 far from every prototype",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_source_cell_model_version_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_source_cell_run_id")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_source_cell_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "model_version_id", name=op.f("pk_source_cell")),
    )
    op.create_index(
        op.f("ix_source_cell_model_version_id_cell_row_cell_column_quantization_error"),
        "source_cell",
        ["model_version_id", "cell_row", "cell_column", "quantization_error"],
        unique=False,
        postgresql_include=["source_id", "margin"],
    )
    op.add_column(
        "source",
        sa.Column(
            "exposure_id",
            sa.BigInteger(),
            nullable=True,
            comment="The exposure it was detected on; null for sources of a survey's catalog",
        ),
    )
    op.add_column(
        "source",
        sa.Column(
            "ccd",
            sa.SmallInteger(),
            nullable=True,
            comment="Number of the CCD it was detected on, as in ccd.number",
        ),
    )
    op.add_column(
        "source",
        sa.Column("x", sa.REAL(), nullable=True, comment="Column on that CCD, 0-based [pixel]"),
    )
    op.add_column(
        "source",
        sa.Column("y", sa.REAL(), nullable=True, comment="Row on that CCD, 0-based [pixel]"),
    )
    op.create_index(
        "ix_source_exposure",
        "source",
        ["exposure_id"],
        unique=False,
        postgresql_where=sa.text("exposure_id IS NOT NULL"),
    )
    op.create_foreign_key(
        op.f("fk_source_exposure_id"),
        "source",
        "exposure",
        ["exposure_id"],
        ["id"],
        ondelete="CASCADE",
    )
    op.create_check_constraint(
        op.f("ck_source_detection_whole"), "source", "num_nulls(exposure_id, ccd, x, y) IN (0, 4)"
    )
    for column, _, comment in COMMENTS:
        op.execute(f"COMMENT ON COLUMN {column} IS '{comment}'")


def downgrade() -> None:
    for column, comment, _ in COMMENTS:
        op.execute(f"COMMENT ON COLUMN {column} IS '{comment}'")
    op.drop_constraint(op.f("ck_source_detection_whole"), "source")
    for column in ("y", "x", "ccd", "exposure_id"):
        op.drop_column("source", column)
    for table in (
        "source_cell",
        "label",
        "exposure_histogram",
        "exposure_cell",
        "ccd",
        "exposure",
        "token",
        "prototype",
        "label_class",
        "audit",
        "expert",
    ):
        op.drop_table(table)
