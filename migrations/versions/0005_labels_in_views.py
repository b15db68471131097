"""label_current, label_majority, labels of cells, annotated_exposure; cells, labels in annotated_source

Conditions on what is computed are inequalities (`< 2`, not `= 1`) where either would do: of an equality the
planner expects one row in 200, and then compares every exposure with every label in turn.
"""

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
WHERE action <> 'clear'
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
WHERE n_votes >= n_most AND n_level < 2
"""

# A cell's label, and how many of its members bear a label themselves (n_direct), that one (n_agree).
LABEL_OF_CELL = """
CREATE VIEW {kind}_cell_label AS
SELECT cell.model_version_id, cell.cell_row, cell.cell_column, cell.label_class_id, cell.n_votes,
    cell.n_experts, coalesce(sum(direct.n), 0) AS n_direct,
    coalesce(sum(direct.n) FILTER (WHERE direct.label_class_id = cell.label_class_id), 0) AS n_agree,
    (
        cell.n_votes / cell.n_experts
        * (coalesce(sum(direct.n) FILTER (WHERE direct.label_class_id = cell.label_class_id), 0) + 1)
        / (coalesce(sum(direct.n), 0) + 2)
    )::real AS confidence
FROM label_majority AS cell
JOIN model_version
    ON model_version.id = cell.model_version_id AND model_version.annotator = '{kind}_map'
LEFT JOIN (
    SELECT {kind}_cell.model_version_id, {kind}_cell.cell_row, {kind}_cell.cell_column,
        label_majority.label_class_id, count(*) AS n
    FROM label_majority JOIN {kind}_cell USING ({kind}_id)
    WHERE label_majority.{kind}_id IS NOT NULL AND {kind}_cell.flags & {novel} <> {novel}
    GROUP BY 1, 2, 3, 4
) AS direct
    ON direct.model_version_id = cell.model_version_id
    AND direct.cell_row = cell.cell_row AND direct.cell_column = cell.cell_column
WHERE cell.cell_row IS NOT NULL
GROUP BY 1, 2, 3, 4, 5, 6
"""
NOVEL = {"exposure": 4, "source": 32}  # bit of the flags of a cell's members

LABEL_PROPAGATED = """
CREATE VIEW label_propagated AS
SELECT NULL::bigint AS source_id, member.exposure_id, cell.*
FROM exposure_cell_label AS cell
JOIN exposure_cell AS member USING (model_version_id, cell_row, cell_column)
WHERE member.flags & 4 <> 4
UNION ALL
SELECT member.source_id, NULL, cell.*
FROM source_cell_label AS cell
JOIN source_cell AS member USING (model_version_id, cell_row, cell_column)
WHERE member.flags & 32 <> 32
"""

# DISTINCT ON tells the planner that there is one each: no query pays for a label it does not ask for.
DIRECT = """
LEFT JOIN (
    SELECT DISTINCT ON ({kind}_id) {kind}_id, label_class.name
    FROM label_majority JOIN label_class ON label_class.id = label_majority.label_class_id
    WHERE {kind}_id IS NOT NULL
) AS direct ON direct.{kind}_id = {kind}.id
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
LEFT JOIN (
    SELECT DISTINCT ON (cell_row, cell_column) *
    FROM exposure_cell_label
    WHERE model_version_id = (
        SELECT id FROM model_version WHERE annotator = 'exposure_map' AND state = 'current'
    )
) AS propagated
    ON propagated.cell_row = exposure_cell.cell_row
    AND propagated.cell_column = exposure_cell.cell_column
    AND exposure_cell.flags & 4 <> 4
LEFT JOIN label_class AS propagated_class ON propagated_class.id = propagated.label_class_id
"""

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
    ("label", "direct.name", LABEL_COMMENT),
    (
        "propagated_label",
        "propagated_class.name",
        "Name of the label class that most experts gave its cell; novel exposures get none",
    ),
    (
        "propagated_confidence",
        "propagated.confidence",
        "Share of experts who said so of the cell, times (1 + members labelled the same) / (2 + members labelled), 0 to 1; half the share while no member is labelled",
    ),
    (
        "propagated_checked",
        "propagated.n_direct",
        "Members of its cell that bear a label themselves: what the confidence rests on",
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
    ("label", "direct.name", LABEL_COMMENT),
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
SOURCE_JOINS = JOINS + DIRECT.format(kind="source")
COMMENTS = (
    (
        "label_current",
        "Each expert's last word on each subject, without what was undone or cleared",
    ),
    ("label_majority", "What most experts say of a subject; subjects with a tie are left out"),
    (
        "exposure_cell_label",
        "What most experts say of a cell of a map of exposures, and what members say for themselves",
    ),
    (
        "source_cell_label",
        "What most experts say of a cell of a map of sources, and what members say for themselves",
    ),
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
        *(LABEL_OF_CELL.format(kind=kind, novel=novel) for kind, novel in NOVEL.items()),
        LABEL_PROPAGATED,
        ANNOTATED_EXPOSURE.format(columns=columns) + DIRECT.format(kind="exposure"),
    ):
        op.execute(view)
    for view, comment in COMMENTS:
        _comment(f"VIEW {view}", comment)
    for name, _, comment in EXPOSURE_COLUMNS:
        _comment(f"COLUMN annotated_exposure.{name}", comment)
    rewrite_sources(NEW_COLUMNS, SOURCE_JOINS)


def downgrade() -> None:
    first = context.script.get_revision("0002").module
    first.downgrade()
    first.upgrade()
    context.script.get_revision("0003").module.extend_views()
    op.execute("DROP VIEW annotated_exposure")
    for view, _ in reversed(COMMENTS[:-1]):
        op.execute(f"DROP VIEW {view}")


def rewrite_sources(new_columns: tuple[tuple[str, str, str], ...], joins: str) -> None:
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
