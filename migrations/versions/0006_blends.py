"""what is said of blends: blend, pair_flux, and both in annotated_source"""

from types import ModuleType

import sqlalchemy as sa
from alembic import context, op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BLEND_FLAGS = (
    "Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, "
    "8 no signal, 16 some pixels without value, 64 more than two sources, 128 light cut off at the "
    "edge, 256 saturated"
)
NEW_COLUMNS = (
    (
        "p_blend",
        "blend.p_blend",
        "Probability that the source is a blend, 0 to 1; null where blend_flags say why",
    ),
    (
        "sep_is_blend",
        "blend.sep_is_blend",
        "Whether sep finds a blend: two detections or more, or one that it marks as merged",
    ),
    (
        "blend_detections",
        "blend.sep_detections",
        "How many sources sep detects in the field that p_blend is about",
    ),
    ("blend_flags", "blend.flags", BLEND_FLAGS),
    (
        "blend_version",
        "blend_version.name",
        "Model version of p_blend, as architecture.tag; null where it was not annotated",
    ),
    ("blend_run_id", "blend.run_id", "Run that computed p_blend: run.id"),
    (
        "flux_central",
        "pair_flux.flux_central",
        "Flux of the galaxy at the centre, in the band of the model card [nJy]",
    ),
    (
        "flux_central_err",
        "pair_flux.flux_central_err",
        "Error of flux_central: half the width of its 68 % interval [nJy]",
    ),
    (
        "flux_companion",
        "pair_flux.flux_companion",
        "Flux of the other galaxy [nJy]; means nothing where there is none (see p_blend)",
    ),
    (
        "flux_companion_err",
        "pair_flux.flux_companion_err",
        "Error of flux_companion: half the width of its 68 % interval [nJy]",
    ),
    (
        "separation",
        "pair_flux.separation",
        "Distance between the centroids of the light of the two galaxies [arcsec]; "
        "null without a companion",
    ),
    (
        "sep_flux_central",
        "pair_flux.sep_flux_central",
        "AUTO flux of the central galaxy by sep, calibrated on the simulated galaxies of "
        "the card [nJy]; null where sep detects nothing there",
    ),
    (
        "sep_flux_companion",
        "pair_flux.sep_flux_companion",
        "AUTO flux of the companion by sep, likewise [nJy]; null likewise, as a lone "
        "detection counts for the galaxy it lies at, and for no other",
    ),
    (
        "pair_flux_detections",
        "pair_flux.sep_detections",
        "How many sources sep detects in the field that the fluxes are about",
    ),
    ("pair_flux_flags", "pair_flux.flags", f"{BLEND_FLAGS}, 512 no companion in the masks"),
    (
        "pair_flux_version",
        "pair_flux_version.name",
        "Model version of the fluxes, as architecture.tag; null where it was not annotated",
    ),
    ("pair_flux_run_id", "pair_flux.run_id", "Run that computed the fluxes: run.id"),
)
JOIN = """
LEFT JOIN {table}
    ON {table}.source_id = source.id
    AND {table}.model_version_id = (
        SELECT id FROM model_version WHERE annotator = '{annotator}' AND state = 'current'
    )
LEFT JOIN model_version AS {table}_version ON {table}_version.id = {table}.model_version_id
"""
JOINS = JOIN.format(table="blend", annotator="blends") + JOIN.format(
    table="pair_flux", annotator="pair_flux"
)


def upgrade() -> None:
    op.create_table(
        "blend",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "model_version_id", sa.BigInteger(), nullable=False, comment="Which network said it"
        ),
        sa.Column(
            "p_blend",
            sa.REAL(),
            nullable=True,
            comment="Probability that the source is a blend, 0 to 1; null where flags say why",
        ),
        sa.Column(
            "sep_is_blend",
            sa.Boolean(),
            nullable=True,
            comment="Whether sep finds a blend: two detections or more, or one that it marks as merged",
        ),
        sa.Column(
            "sep_detections",
            sa.SmallInteger(),
            nullable=True,
            comment="How many sources sep detects in the field the network looks at",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 64 more than two sources, 128 light cut off at the edge, 256 saturated",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.CheckConstraint("p_blend BETWEEN 0 AND 1", name=op.f("ck_blend_p_blend_range")),
        sa.CheckConstraint("sep_detections >= 0", name=op.f("ck_blend_sep_detections_range")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_blend_model_version_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_blend_run_id")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_blend_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "model_version_id", name=op.f("pk_blend")),
    )
    op.create_index(
        op.f("ix_blend_model_version_id_p_blend_source_id"),
        "blend",
        ["model_version_id", "p_blend", "source_id"],
        unique=False,
    )
    op.create_index(
        "ix_blend_disagreement",
        "blend",
        ["model_version_id", "p_blend", "source_id"],
        unique=False,
        postgresql_where=sa.text("((p_blend >= 0.5) <> sep_is_blend) IS TRUE"),
    )
    op.execute(  # so that the planner knows how rare it is
        "CREATE STATISTICS blend_disagreement ON ((p_blend >= 0.5) <> sep_is_blend) FROM blend"
    )
    op.create_table(
        "pair_flux",
        sa.Column("source_id", sa.BigInteger(), nullable=False),
        sa.Column(
            "model_version_id", sa.BigInteger(), nullable=False, comment="Which network said it"
        ),
        sa.Column(
            "flux_central",
            sa.REAL(),
            nullable=True,
            comment="Flux of the galaxy at the centre [nJy]; null where flags say why",
        ),
        sa.Column(
            "flux_central_err",
            sa.REAL(),
            nullable=True,
            comment="Error of flux_central: half the width of its 68 % interval [nJy]",
        ),
        sa.Column(
            "flux_companion",
            sa.REAL(),
            nullable=True,
            comment="Flux of the other galaxy [nJy]; means nothing where there is none (see p_blend)",
        ),
        sa.Column(
            "flux_companion_err",
            sa.REAL(),
            nullable=True,
            comment="Error of flux_companion: half the width of its 68 % interval [nJy]",
        ),
        sa.Column(
            "separation",
            sa.REAL(),
            nullable=True,
            comment="Distance between the centroids of the light of the two galaxies [arcsec]; null without a companion",
        ),
        sa.Column(
            "sep_flux_central",
            sa.REAL(),
            nullable=True,
            comment="AUTO flux of the central galaxy by sep, calibrated on the simulated galaxies of the card [nJy]; null where sep detects nothing there",
        ),
        sa.Column(
            "sep_flux_companion",
            sa.REAL(),
            nullable=True,
            comment="AUTO flux of the companion by sep, likewise [nJy]; null likewise, as a lone detection counts for the galaxy it lies at, and for no other",
        ),
        sa.Column(
            "sep_detections",
            sa.SmallInteger(),
            nullable=True,
            comment="How many sources sep detects in the field the network looks at",
        ),
        sa.Column(
            "masks",
            sa.LargeBinary(),
            nullable=True,
            comment="Where the network sees each galaxy: the mask of the central one, then that of the companion, one bit per pixel of a square field, lowest row first",
        ),
        sa.Column(
            "flags",
            sa.Integer(),
            nullable=False,
            comment="Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 64 more than two sources, 128 light cut off at the edge, 256 saturated, 512 no companion in the masks",
        ),
        sa.Column("run_id", sa.BigInteger(), nullable=False, comment="Who computed it, and when"),
        sa.CheckConstraint(
            "flux_central_err >= 0 AND flux_companion_err >= 0",
            name=op.f("ck_pair_flux_flux_errors_range"),
        ),
        sa.CheckConstraint("sep_detections >= 0", name=op.f("ck_pair_flux_sep_detections_range")),
        sa.ForeignKeyConstraint(
            ["model_version_id"], ["model_version.id"], name=op.f("fk_pair_flux_model_version_id")
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name=op.f("fk_pair_flux_run_id")),
        sa.ForeignKeyConstraint(
            ["source_id"], ["source.id"], name=op.f("fk_pair_flux_source_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("source_id", "model_version_id", name=op.f("pk_pair_flux")),
    )
    before = _labels()
    before.rewrite_sources((*before.NEW_COLUMNS, *NEW_COLUMNS), before.SOURCE_JOINS + JOINS)


def downgrade() -> None:
    first = context.script.get_revision("0002").module
    first.downgrade()
    first.upgrade()
    context.script.get_revision("0003").module.extend_views()
    before = _labels()
    before.rewrite_sources(before.NEW_COLUMNS, before.SOURCE_JOINS)
    op.drop_table("pair_flux")
    op.drop_index("ix_blend_disagreement", table_name="blend")
    op.drop_index(op.f("ix_blend_model_version_id_p_blend_source_id"), table_name="blend")
    op.drop_table("blend")


def _labels() -> ModuleType:
    module: ModuleType = context.script.get_revision("0005").module
    return module
