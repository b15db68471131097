"""label_current, label_majority, label_propagated, annotated_exposure; cells and labels in annotated_source"""

from alembic import context, op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SUBJECT = "source_id, exposure_id, model_version_id, cell_row, cell_column"

LABEL_CURRENT = """
CREATE VIEW label_current AS
SELECT id AS label_id, expert_id, label_class_id, {subject}, comment, blind, created_at
FROM (
    SELECT DISTINCT ON (expert_id, {subject}) label.*
    FROM label
    WHERE action IN ('label', 'clear')
        AND NOT EXISTS (SELECT FROM label AS undo WHERE undo.undoes = label.id)
    ORDER BY expert_id, {subject}, id DESC
) AS last_word
WHERE action = 'label'
"""

LABEL_MAJORITY = """
CREATE VIEW label_majority AS
SELECT {subject}, label_class_id, n_votes, n_experts
FROM (
    SELECT *,
        sum(n_votes) OVER subject AS n_experts,
        max(n_votes) OVER subject AS n_most,
        count(*) OVER (PARTITION BY {subject}, n_votes) AS n_level
    FROM (
        SELECT {subject}, label_class_id, count(*) AS n_votes
        FROM label_current
        GROUP BY {subject}, label_class_id
    ) AS vote
    WINDOW subject AS (PARTITION BY {subject})
) AS counted
WHERE n_votes = n_most AND n_level = 1
"""

# The labels of a cell's members count as draws: of n looked at, k bear the label of the cell.
LABEL_PROPAGATED = """
CREATE VIEW label_propagated AS
WITH member AS (
    SELECT NULL::bigint AS source_id, exposure_id, model_version_id, cell_row, cell_column
    FROM exposure_cell WHERE flags & 4 = 0
    UNION ALL
    SELECT source_id, NULL, model_version_id, cell_row, cell_column
    FROM source_cell WHERE flags & 32 = 0
), direct AS (
    SELECT exposure_cell.model_version_id, exposure_cell.cell_row, exposure_cell.cell_column,
        label_majority.label_class_id, count(*) AS n
    FROM label_majority JOIN exposure_cell USING (exposure_id)
    GROUP BY 1, 2, 3, 4
    UNION ALL
    SELECT source_cell.model_version_id, source_cell.cell_row, source_cell.cell_column,
        label_majority.label_class_id, count(*)
    FROM label_majority JOIN source_cell USING (source_id)
    GROUP BY 1, 2, 3, 4
), cell AS (
    SELECT label_majority.model_version_id, label_majority.cell_row, label_majority.cell_column,
        label_majority.label_class_id, n_votes, n_experts,
        coalesce(sum(direct.n), 0) AS n_direct,
        coalesce(sum(direct.n) FILTER (
            WHERE direct.label_class_id = label_majority.label_class_id), 0) AS n_agree
    FROM label_majority
    LEFT JOIN direct USING (model_version_id, cell_row, cell_column)
    WHERE label_majority.cell_row IS NOT NULL
    GROUP BY 1, 2, 3, 4, 5, 6
)
SELECT member.source_id, member.exposure_id, member.model_version_id, member.cell_row,
    member.cell_column, cell.label_class_id, cell.n_votes, cell.n_experts, cell.n_direct,
    cell.n_agree,
    (cell.n_votes / cell.n_experts * (cell.n_agree + 1) / (cell.n_direct + 1))::real AS confidence
FROM cell JOIN member USING (model_version_id, cell_row, cell_column)
"""

ANNOTATED_EXPOSURE = """
CREATE VIEW annotated_exposure AS
SELECT {columns}
FROM exposure
JOIN catalog ON catalog.id = exposure.catalog_id
LEFT JOIN exposure_cell
    ON exposure_cell.exposure_id = exposure.id
    AND exposure_cell.model_version_id = (
        SELECT id FROM model_version WHERE annotator = 'exposure_map' AND state = 'current'
    )
LEFT JOIN model_version AS exposure_map_version
    ON exposure_map_version.id = exposure_cell.model_version_id
LEFT JOIN label_propagated AS propagated
    ON propagated.exposure_id = exposure.id
    AND propagated.model_version_id = exposure_cell.model_version_id
LEFT JOIN label_class AS propagated_class ON propagated_class.id = propagated.label_class_id
"""

MAJORITY_OF = (
    "(SELECT label_class.name FROM label_majority JOIN label_class"
    " ON label_class.id = label_majority.label_class_id WHERE label_majority.{0}_id = {0}.id)"
)
LABEL_COMMENT = (
    "Name of the label class that most experts gave it themselves; null without label or on a tie"
)

EXPOSURE_COLUMNS = (
    ("exposure_id", "exposure.id", "Number of the exposure in this database"),
    ("catalog", "catalog.name", "Name of the catalog that its sources are in"),
    ("name", "exposure.name", "File name without its endings"),
    ("path", "exposure.path", "Where the file was when it was ingested"),
    ("instrument", "exposure.instrument", "Camera"),
    ("band", "exposure.band", "Filter"),
    ("mjd", "exposure.mjd", "Start of the exposure, Modified Julian Date, UTC [d]"),
    ("exposure_time", "exposure.exposure_time", "Exposure time [s]"),
    ("ra", "exposure.ra", "Right ascension of the centre, ICRS [deg]"),
    ("dec", "exposure.dec", "Declination of the centre, ICRS [deg]"),
    ("healpix", "exposure.healpix", "HEALPix cell of the centre, nested scheme, order 29"),
    ("pixel_scale", "exposure.pixel_scale", "Pixel scale [arcsec/pixel]"),
    ("n_ccds", "exposure.n_ccds", "CCDs in the file"),
    ("n_detected", "exposure.n_detected", "Sources detected on all CCDs"),
    ("n_sampled", "exposure.n_sampled", "Sources stored"),
    (
        "flags",
        "exposure.flags",
        "Data problems as bits, 0 is clean: 1 nothing detected, 2 some CCDs unusable, 4 no CCD usable, 8 no usable WCS, 16 header facts missing",
    ),
    ("cell_row", "exposure_cell.cell_row", "0-based row on the current map of exposures"),
    ("cell_column", "exposure_cell.cell_column", "0-based column on the current map of exposures"),
    (
        "quantization_error",
        "exposure_cell.quantization_error",
        "Distance to the nearest prototype, in the network's code",
    ),
    (
        "margin",
        "exposure_cell.margin",
        "How much farther the second nearest prototype is; near 0 is borderline",
    ),
    (
        "exposure_map_flags",
        "exposure_cell.flags",
        "Data problems as bits, 0 is clean: 1 no source with a cell, 2 fewer than 30 sources counted, 4 far from every prototype (novel)",
    ),
    (
        "exposure_map_version",
        "exposure_map_version.name",
        "Version of the map of exposures, as architecture.tag",
    ),
    ("label", MAJORITY_OF.format("exposure"), LABEL_COMMENT),
    (
        "propagated_label",
        "propagated_class.name",
        "Name of the label class that most experts gave its cell; novel exposures get none",
    ),
    (
        "propagated_confidence",
        "propagated.confidence",
        "Share of experts who said so of the cell, times (1 + members labelled the same) / (1 + members labelled), 0 to 1",
    ),
)
NEW_COLUMNS = (
    (
        "exposure_id",
        "source.exposure_id",
        "Number of the exposure it was detected on; null for sources of a survey's catalog",
    ),
    ("ccd", "source.ccd", "Number of the CCD it was detected on"),
    ("x", "source.x", "Column on that CCD, 0-based [pixel]"),
    ("y", "source.y", "Row on that CCD, 0-based [pixel]"),
    ("source_cell_row", "source_cell.cell_row", "0-based row on the current map of sources"),
    (
        "source_cell_column",
        "source_cell.cell_column",
        "0-based column on the current map of sources",
    ),
    (
        "source_map_version",
        "source_map_version.name",
        "Version of the map of sources, as architecture.tag; null without cell",
    ),
    ("label", MAJORITY_OF.format("source"), LABEL_COMMENT),
)
JOINS = """
LEFT JOIN source_cell
    ON source_cell.source_id = source.id
    AND source_cell.model_version_id = (
        SELECT id FROM model_version WHERE annotator = 'source_map' AND state = 'current'
    )
LEFT JOIN model_version AS source_map_version
    ON source_map_version.id = source_cell.model_version_id
"""
COMMENTS = (
    (
        "label_current",
        "Each expert's last word on each subject, without what was undone or cleared",
    ),
    ("label_majority", "What most experts say of a subject; subjects with a tie are left out"),
    (
        "label_propagated",
        "The label of a cell carried to its members, with a confidence; never mixed with label_current",
    ),
    (
        "annotated_exposure",
        "One row per exposure: header facts, the current version of every opinion, labels",
    ),
)


def upgrade() -> None:
    columns = ",\n    ".join(f"{sql} AS {name}" for name, sql, _ in EXPOSURE_COLUMNS)
    for view in (
        LABEL_CURRENT.format(subject=SUBJECT),
        LABEL_MAJORITY.format(subject=SUBJECT),
        LABEL_PROPAGATED,
        ANNOTATED_EXPOSURE.format(columns=columns),
    ):
        op.execute(view)
    for view, comment in COMMENTS:
        _comment(f"VIEW {view}", comment)
    for name, _, comment in EXPOSURE_COLUMNS:
        _comment(f"COLUMN annotated_exposure.{name}", comment)
    _rewrite_sources(NEW_COLUMNS, JOINS)


def downgrade() -> None:
    first = context.script.get_revision("0002").module
    first.downgrade()
    first.upgrade()
    context.script.get_revision("0003").module.extend_views()
    for view in ("annotated_exposure", "label_propagated", "label_majority", "label_current"):
        op.execute(f"DROP VIEW {view}")


def _rewrite_sources(new_columns: tuple[tuple[str, str, str], ...], joins: str) -> None:
    """Add columns to annotated_source and to saga_candidate, which repeats them."""
    first = context.script.get_revision("0002").module
    second = context.script.get_revision("0003").module
    all_columns = (*first.COLUMNS, *second.NEW_COLUMNS, *new_columns)
    columns = ",\n    ".join(f"{sql} AS {name}" for name, sql, _ in all_columns)
    op.execute("DROP VIEW saga_candidate")
    view = first.VIEW.format(columns=columns).replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    before, _, condition = second.JOINS.rpartition("WHERE")
    detected = "OR source.exposure_id IS NOT NULL"  # on a CCD that may have no usable WCS
    op.execute(f"{view}{before}{joins}WHERE{condition}{detected}")
    op.execute("CREATE VIEW saga_candidate AS SELECT * FROM saga_selection()")
    _comment("VIEW saga_candidate", first.CANDIDATE_COMMENT)
    for name, _, comment in new_columns:
        _comment(f"COLUMN annotated_source.{name}", comment)
    for name, _, comment in all_columns:
        _comment(f"COLUMN saga_candidate.{name}", comment)


def _comment(target: str, comment: str) -> None:
    quoted = comment.replace("'", "''").replace(":", r"\:")
    op.execute(f"COMMENT ON {target} IS '{quoted}'")
