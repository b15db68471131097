"""first light"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "catalog",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="Name the user gave"),
        sa.Column(
            "survey",
            sa.Text(),
            nullable=False,
            comment="Column map used, e.g. legacy, sdss, ps1, nsa",
        ),
        sa.Column(
            "release",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Data release, e.g. DR10",
        ),
        sa.Column(
            "column_map",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The column map, as data",
        ),
        sa.Column(
            "n_sources",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Sources in the catalog",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the catalog was first ingested",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog")),
        sa.UniqueConstraint("name", name=op.f("uq_catalog_name")),
    )
    op.create_table(
        "model_version",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "annotator", sa.Text(), nullable=False, comment="The annotator's word, e.g. shreds"
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="architecture.tag"),
        sa.Column(
            "weights_sha256", sa.Text(), nullable=False, comment="SHA-256 of the weights file"
        ),
        sa.Column(
            "card",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=False,
            comment="The model card",
        ),
        sa.Column(
            "state",
            sa.Text(),
            server_default="candidate",
            nullable=False,
            comment="candidate, current (one per annotator) or retired",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the version was registered",
        ),
        sa.CheckConstraint(
            "state IN ('candidate', 'current', 'retired')", name=op.f("ck_model_version_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_version")),
        sa.UniqueConstraint("annotator", "name", name=op.f("uq_model_version_annotator_name")),
    )
    op.create_index(
        "uq_model_version_current",
        "model_version",
        ["annotator"],
        unique=True,
        postgresql_where=sa.text("state = 'current'"),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("host", sa.Text(), nullable=False, comment="Machine name"),
        sa.Column("pid", sa.Integer(), nullable=False, comment="Process number"),
        sa.Column(
            "device",
            sa.Text(),
            nullable=False,
            comment="What computes: cpu, or the name of the GPU",
        ),
        sa.Column(
            "device_note",
            sa.Text(),
            server_default="",
            nullable=False,
            comment="Why no GPU is used, in plain words",
        ),
        sa.Column(
            "code_version", sa.Text(), nullable=False, comment="Version of Skygloss that ran"
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the process started",
        ),
        sa.Column(
            "heartbeat_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Last sign of life",
        ),
        sa.Column(
            "stopped_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it left in good order",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_worker")),
    )
    op.create_table(
        "catalog_file",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("catalog_id", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False, comment="File name"),
        sa.Column(
            "fingerprint",
            sa.Text(),
            nullable=False,
            comment="Identifies the content: size and SHA-256",
        ),
        sa.Column(
            "n_read",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Rows read and committed so far",
        ),
        sa.Column(
            "n_new",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Sources this file added",
        ),
        sa.Column(
            "n_rejected",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Rows rejected, listed in rejection",
        ),
        sa.Column(
            "source_id_before",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Largest source id when reading began: this file added only larger ones",
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When reading began",
        ),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the last row was committed",
        ),
        sa.ForeignKeyConstraint(
            ["catalog_id"],
            ["catalog.id"],
            name=op.f("fk_catalog_file_catalog_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_file")),
        sa.UniqueConstraint(
            "catalog_id", "fingerprint", name=op.f("uq_catalog_file_catalog_id_fingerprint")
        ),
    )
    op.create_table(
        "cutout_set",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("catalog_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "name", sa.Text(), nullable=False, comment="Name the user gave, unique in the catalog"
        ),
        sa.Column(
            "bands",
            sa.ARRAY(sa.Text()),
            nullable=False,
            comment="Bands, in the order of the last array axis",
        ),
        sa.Column("size", sa.Integer(), nullable=False, comment="Side length [pixel]"),
        sa.Column("pixel_scale", sa.Double(), nullable=False, comment="Pixel scale [arcsec/pixel]"),
        sa.Column(
            "dtype", sa.Text(), nullable=False, comment="NumPy name of the pixels' type, e.g. uint8"
        ),
        sa.Column(
            "unit",
            sa.Text(),
            nullable=False,
            comment="Unit of a pixel: nanomaggy, nJy, adu or display",
        ),
        sa.Column(
            "store_path",
            sa.Text(),
            nullable=False,
            comment="Group in the pixel store, relative to its root",
        ),
        sa.Column(
            "origin",
            sa.Text(),
            nullable=False,
            comment="Where the pixels came from: folder, mosaic, service",
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the set was made",
        ),
        sa.CheckConstraint("pixel_scale > 0", name=op.f("ck_cutout_set_pixel_scale_positive")),
        sa.CheckConstraint("size > 0", name=op.f("ck_cutout_set_size_positive")),
        sa.ForeignKeyConstraint(
            ["catalog_id"],
            ["catalog.id"],
            name=op.f("fk_cutout_set_catalog_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cutout_set")),
        sa.UniqueConstraint("catalog_id", "name", name=op.f("uq_cutout_set_catalog_id_name")),
    )
    op.create_table(
        "run",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("worker_id", sa.BigInteger(), nullable=False),
        sa.Column("model_version_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "options",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
            comment="Batch size, precision, Keras backend",
        ),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="When the model was loaded",
        ),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When the worker left in good order",
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_run_model_version_id")
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_run_worker_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_run")),
    )
    op.create_index(op.f("ix_run_model_version_id"), "run", ["model_version_id"], unique=False)
    op.create_table(
        "source",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("catalog_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "survey_id", sa.Text(), nullable=False, comment="Identifier in the survey, as text"
        ),
        sa.Column("ra", sa.Double(), nullable=False, comment="Right ascension, ICRS [deg]"),
        sa.Column("dec", sa.Double(), nullable=False, comment="Declination, ICRS [deg]"),
        sa.Column(
            "healpix",
            sa.BigInteger(),
            nullable=False,
            comment="HEALPix cell, nested scheme, order 29 (as in HATS _healpix_29)",
        ),
        sa.Column(
            "mag_g", sa.REAL(), nullable=True, comment="g magnitude, extinction-corrected [mag AB]"
        ),
        sa.Column(
            "mag_r", sa.REAL(), nullable=True, comment="r magnitude, extinction-corrected [mag AB]"
        ),
        sa.Column(
            "mag_i", sa.REAL(), nullable=True, comment="i magnitude, extinction-corrected [mag AB]"
        ),
        sa.Column(
            "mag_z", sa.REAL(), nullable=True, comment="z magnitude, extinction-corrected [mag AB]"
        ),
        sa.Column("mag_g_err", sa.REAL(), nullable=True, comment="1-sigma error of mag_g [mag]"),
        sa.Column("mag_r_err", sa.REAL(), nullable=True, comment="1-sigma error of mag_r [mag]"),
        sa.Column("mag_i_err", sa.REAL(), nullable=True, comment="1-sigma error of mag_i [mag]"),
        sa.Column("mag_z_err", sa.REAL(), nullable=True, comment="1-sigma error of mag_z [mag]"),
        sa.Column(
            "type", sa.Text(), nullable=True, comment="Morphological type, in the survey's words"
        ),
        sa.Column("shape_r", sa.REAL(), nullable=True, comment="Half-light radius [arcsec]"),
        sa.Column(
            "shape_r_err", sa.REAL(), nullable=True, comment="1-sigma error of shape_r [arcsec]"
        ),
        sa.Column("axis_ratio", sa.REAL(), nullable=True, comment="Minor over major axis, 0 to 1"),
        sa.Column(
            "position_angle",
            sa.REAL(),
            nullable=True,
            comment="Position angle of the major axis, east of north [deg]",
        ),
        sa.Column("redshift", sa.REAL(), nullable=True, comment="Redshift"),
        sa.Column(
            "nobs_min",
            sa.SmallInteger(),
            nullable=True,
            comment="Smallest number of exposures in any of the survey's g, r, z",
        ),
        sa.Column(
            "mask",
            sa.Integer(),
            nullable=True,
            comment="Bits masked in every exposure of g, r or z (0 is clean)",
        ),
        sa.Column(
            "fracmasked_max",
            sa.REAL(),
            nullable=True,
            comment="Largest fraction of masked pixels in g, r, z",
        ),
        sa.Column(
            "fracflux_max",
            sa.REAL(),
            nullable=True,
            comment="Largest ratio of neighbours' flux to own flux in g, r, z",
        ),
        sa.Column(
            "fracin_max",
            sa.REAL(),
            nullable=True,
            comment="Largest fraction of the model flux inside the blob in g, r, z",
        ),
        sa.Column(
            "rchisq_max", sa.REAL(), nullable=True, comment="Largest reduced chi2 in g, r, z"
        ),
        sa.Column(
            "rchisq_min", sa.REAL(), nullable=True, comment="Smallest reduced chi2 in g, r, z"
        ),
        sa.Column(
            "extra",
            postgresql.JSONB(astext_type=sa.Text()),
            nullable=True,
            comment="Every column of the file that the column map does not name",
        ),
        sa.CheckConstraint("dec >= -90 AND dec <= 90", name=op.f("ck_source_dec_range")),
        sa.CheckConstraint("ra >= 0 AND ra < 360", name=op.f("ck_source_ra_range")),
        sa.ForeignKeyConstraint(
            ["catalog_id"], ["catalog.id"], name=op.f("fk_source_catalog_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_source")),
        sa.UniqueConstraint("catalog_id", "survey_id", name=op.f("uq_source_catalog_id_survey_id")),
    )
    op.create_index(op.f("ix_source_healpix"), "source", ["healpix"], unique=False)
    op.create_index(
        "ix_source_mag_r",
        "source",
        ["mag_r"],
        unique=False,
        postgresql_where=sa.text("mag_r IS NOT NULL"),
    )
    op.create_table(
        "cutout_block",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("cutout_set_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "number", sa.Integer(), nullable=False, comment="0-based place of the block in its set"
        ),
        sa.Column(
            "n",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="Cutouts in the block",
        ),
        sa.Column(
            "sealed_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it became complete; never edited after",
        ),
        sa.ForeignKeyConstraint(
            ["cutout_set_id"],
            ["cutout_set.id"],
            name=op.f("fk_cutout_block_cutout_set_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_cutout_block")),
        sa.UniqueConstraint(
            "cutout_set_id", "number", name=op.f("uq_cutout_block_cutout_set_id_number")
        ),
    )
    op.create_table(
        "host_match",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "host_id", sa.BigInteger(), nullable=False, comment="The host: a source with a redshift"
        ),
        sa.Column(
            "separation_arcsec", sa.REAL(), nullable=False, comment="Angle to the host [arcsec]"
        ),
        sa.Column(
            "separation_kpc",
            sa.REAL(),
            nullable=False,
            comment="Projected distance at the host's redshift [kpc], flat LCDM H0=70 Om0=0.3",
        ),
        sa.ForeignKeyConstraint(
            ["host_id"], ["source.id"], name=op.f("fk_host_match_host_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_host_match_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "host_id", name=op.f("pk_host_match")),
    )
    op.create_index(op.f("ix_host_match_host_id"), "host_match", ["host_id"], unique=False)
    op.create_table(
        "rejection",
        sa.Column("catalog_file_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "row",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="0-based row in the file",
        ),
        sa.Column(
            "survey_id", sa.Text(), nullable=True, comment="Identifier, when it was readable"
        ),
        sa.Column("reason", sa.Text(), nullable=False, comment="What was wrong with the row"),
        sa.ForeignKeyConstraint(
            ["catalog_file_id"],
            ["catalog_file.id"],
            name=op.f("fk_rejection_catalog_file_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("catalog_file_id", "row", name=op.f("pk_rejection")),
    )
    op.create_table(
        "shred",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "model_version_id", sa.BigInteger(), nullable=False, comment="Which network said it"
        ),
        sa.Column(
            "p_shred",
            sa.REAL(),
            nullable=True,
            comment="Probability that the source is a shred, 0 to 1; null where flags say why",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.CheckConstraint("p_shred BETWEEN 0 AND 1", name=op.f("ck_shred_p_shred_range")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_shred_model_version_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_shred_run_id")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_shred_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "model_version_id", name=op.f("pk_shred")),
    )
    op.create_index(
        op.f("ix_shred_model_version_id_p_shred_source_id"),
        "shred",
        ["model_version_id", "p_shred", "source_id"],
        unique=False,
    )
    op.create_index(
        "ix_shred_flagged",
        "shred",
        ["model_version_id", "source_id"],
        unique=False,
        postgresql_where=sa.text("flags <> 0"),
    )
    op.create_table(
        "cutout",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column("cutout_set_id", sa.BigInteger(), nullable=False),
        sa.Column("block_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "position", sa.SmallInteger(), nullable=False, comment="0-based place in the block"
        ),
        sa.Column(
            "flags",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="1 no image, 2 unreadable image, 4 partly outside the image",
        ),
        sa.ForeignKeyConstraint(
            ["block_id"], ["cutout_block.id"], name=op.f("fk_cutout_block_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["cutout_set_id"],
            ["cutout_set.id"],
            name=op.f("fk_cutout_cutout_set_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_cutout_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "cutout_set_id", name=op.f("pk_cutout")),
        sa.UniqueConstraint("block_id", "position", name=op.f("uq_cutout_block_id_position")),
    )
    op.create_index(op.f("ix_cutout_cutout_set_id"), "cutout", ["cutout_set_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("model_version_id", sa.BigInteger(), nullable=False),
        sa.Column("block_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "first",
            sa.SmallInteger(),
            nullable=False,
            comment="First position of the block, included",
        ),
        sa.Column(
            "last",
            sa.SmallInteger(),
            nullable=False,
            comment="Last position of the block, included",
        ),
        sa.Column(
            "state",
            sa.Text(),
            server_default="todo",
            nullable=False,
            comment="todo, doing, done, failed or split",
        ),
        sa.Column(
            "attempt",
            sa.SmallInteger(),
            server_default="0",
            nullable=False,
            comment="How often it was claimed",
        ),
        sa.Column("worker_id", sa.BigInteger(), nullable=True, comment="Who holds or last held it"),
        sa.Column(
            "lease_until",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="While doing: free again after this",
        ),
        sa.Column(
            "not_before",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="Not claimed earlier than this (back-off)",
        ),
        sa.Column("error", sa.Text(), nullable=True, comment="Last error, kept"),
        sa.Column("seconds", sa.REAL(), nullable=True, comment="From claim to completion [s]"),
        sa.Column(
            "finished_at",
            sa.DateTime(timezone=True),
            nullable=True,
            comment="When it was done, failed or split",
        ),
        sa.CheckConstraint(
            "(state = 'doing') = (lease_until IS NOT NULL)", name=op.f("ck_job_lease")
        ),
        sa.CheckConstraint(
            "state IN ('todo', 'doing', 'done', 'failed', 'split')", name=op.f("ck_job_state")
        ),
        sa.ForeignKeyConstraint(
            ["block_id"], ["cutout_block.id"], name=op.f("fk_job_block_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_job_model_version_id")
        ),
        sa.ForeignKeyConstraint(["worker_id"], ["worker.id"], name=op.f("fk_job_worker_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "model_version_id",
            "block_id",
            "first",
            "last",
            name=op.f("uq_job_model_version_id_block_id_first_last"),
        ),
    )
    op.create_index(op.f("ix_job_block_id"), "job", ["block_id"], unique=False)
    op.create_index(
        "ix_job_todo",
        "job",
        ["block_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'todo'"),
    )
    op.create_index(
        "ix_job_doing",
        "job",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'doing'"),
    )
    op.create_index(
        "ix_job_failed",
        "job",
        ["model_version_id"],
        unique=False,
        postgresql_where=sa.text("state = 'failed'"),
    )
    op.execute(
        "CREATE FUNCTION wake_workers() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN NOTIFY skygloss_work; RETURN NULL; END $$"
    )
    op.execute(
        "CREATE TRIGGER wake_workers AFTER INSERT OR UPDATE OF sealed_at ON cutout_block "
        "FOR EACH STATEMENT EXECUTE FUNCTION wake_workers()"
    )
    op.execute(
        "CREATE TRIGGER wake_workers AFTER INSERT OR UPDATE OF state ON model_version "
        "FOR EACH STATEMENT EXECUTE FUNCTION wake_workers()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER wake_workers ON model_version")
    op.execute("DROP TRIGGER wake_workers ON cutout_block")
    op.execute("DROP FUNCTION wake_workers")
    op.drop_index("ix_job_failed", table_name="job", postgresql_where=sa.text("state = 'failed'"))
    op.drop_index("ix_job_doing", table_name="job", postgresql_where=sa.text("state = 'doing'"))
    op.drop_index("ix_job_todo", table_name="job", postgresql_where=sa.text("state = 'todo'"))
    op.drop_index(op.f("ix_job_block_id"), table_name="job")
    op.drop_table("job")
    op.drop_index(op.f("ix_cutout_cutout_set_id"), table_name="cutout")
    op.drop_table("cutout")
    op.drop_index("ix_shred_flagged", table_name="shred", postgresql_where=sa.text("flags <> 0"))
    op.drop_index(op.f("ix_shred_model_version_id_p_shred_source_id"), table_name="shred")
    op.drop_table("shred")
    op.drop_table("rejection")
    op.drop_index(op.f("ix_host_match_host_id"), table_name="host_match")
    op.drop_table("host_match")
    op.drop_table("cutout_block")
    op.drop_index(
        "ix_source_mag_r", table_name="source", postgresql_where=sa.text("mag_r IS NOT NULL")
    )
    op.drop_index(op.f("ix_source_healpix"), table_name="source")
    op.drop_table("source")
    op.drop_index(op.f("ix_run_model_version_id"), table_name="run")
    op.drop_table("run")
    op.drop_table("cutout_set")
    op.drop_table("catalog_file")
    op.drop_table("worker")
    op.drop_index(
        "uq_model_version_current",
        table_name="model_version",
        postgresql_where=sa.text("state = 'current'"),
    )
    op.drop_table("model_version")
    op.drop_table("catalog")
