"""annotated_source, saga_selection and saga_candidate"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# column, expression, comment
COLUMNS = (
    ("source_id", "source.id", "Number of the source in this database"),
    ("catalog_id", "source.catalog_id", "Number of the catalog in this database"),
    ("catalog", "catalog.name", "Name of the catalog"),
    ("survey_id", "source.survey_id", "Identifier in the survey, as text"),
    ("ra", "source.ra", "Right ascension, ICRS [deg]"),
    ("dec", "source.dec", "Declination, ICRS [deg]"),
    ("healpix", "source.healpix", "HEALPix cell, nested scheme, order 29"),
    ("mag_g", "source.mag_g", "g magnitude, extinction-corrected [mag AB]"),
    ("mag_r", "source.mag_r", "r magnitude, extinction-corrected [mag AB]"),
    ("mag_i", "source.mag_i", "i magnitude, extinction-corrected [mag AB]"),
    ("mag_z", "source.mag_z", "z magnitude, extinction-corrected [mag AB]"),
    ("mag_g_err", "source.mag_g_err", "1-sigma error of mag_g [mag]"),
    ("mag_r_err", "source.mag_r_err", "1-sigma error of mag_r [mag]"),
    ("mag_i_err", "source.mag_i_err", "1-sigma error of mag_i [mag]"),
    ("mag_z_err", "source.mag_z_err", "1-sigma error of mag_z [mag]"),
    ("type", "source.type", "Morphological type, in the survey's words"),
    ("shape_r", "source.shape_r", "Half-light radius [arcsec]"),
    ("shape_r_err", "source.shape_r_err", "1-sigma error of shape_r [arcsec]"),
    ("axis_ratio", "source.axis_ratio", "Minor over major axis, 0 to 1"),
    (
        "position_angle",
        "source.position_angle",
        "Position angle of the major axis, east of north [deg]",
    ),
    ("redshift", "source.redshift", "Redshift"),
    ("nobs_min", "source.nobs_min", "Smallest number of exposures in any of the survey's g, r, z"),
    ("mask", "source.mask", "Bits masked in every exposure of g, r or z; 0 is clean"),
    ("fracmasked_max", "source.fracmasked_max", "Largest fraction of masked pixels in g, r, z"),
    (
        "fracflux_max",
        "source.fracflux_max",
        "Largest ratio of neighbours' flux to own flux in g, r, z",
    ),
    (
        "fracin_max",
        "source.fracin_max",
        "Largest fraction of the model flux inside the blob in g, r, z",
    ),
    ("rchisq_max", "source.rchisq_max", "Largest reduced chi2 in g, r, z"),
    ("rchisq_min", "source.rchisq_min", "Smallest reduced chi2 in g, r, z"),
    ("extra", "source.extra", "Every other column of the catalog file, as JSON"),
    (
        "has_cutout",
        "EXISTS (SELECT FROM cutout WHERE cutout.source_id = source.id AND cutout.flags & 3 = 0)",
        "Whether there is a readable image",
    ),
    (
        "p_shred",
        "shred.p_shred",
        "Probability that the source is a shred, 0 to 1, by the current version; null without opinion",
    ),
    (
        "shred_flags",
        "shred.flags",
        "Data problems as bits, 0 is clean: 1 no image, 2 unreadable image, 4 partly outside the image, 8 no signal, 16 some pixels without value, 32 resampled; null without opinion",
    ),
    ("shred_version", "shred_version.name", "Model version that gave p_shred, as architecture.tag"),
    ("shred_run_id", "shred.run_id", "Run that computed p_shred: run.id"),
)

# One row per source. Whatever a query does not mention, the planner removes: each LEFT JOIN is on a
# unique key, and the current version is a scalar subquery, so that the index on
# (model_version_id, p_shred, source_id) serves both filters and ORDER BY p_shred.
VIEW = """
CREATE VIEW annotated_source AS
SELECT {columns}
FROM source
LEFT JOIN catalog ON catalog.id = source.catalog_id
LEFT JOIN shred
    ON shred.source_id = source.id
    AND shred.model_version_id = (
        SELECT id FROM model_version WHERE annotator = 'shreds' AND state = 'current'
    )
LEFT JOIN model_version AS shred_version ON shred_version.id = shred.model_version_id
"""

# real, not double precision: the columns are real, and 0.35 must mean the same on both sides.
SELECTION = """
CREATE FUNCTION saga_selection(
    max_mag_r real DEFAULT 21.0,
    min_surface_brightness real DEFAULT 18.5,
    surface_brightness_slope real DEFAULT 0.7,
    max_colour real DEFAULT 0.90,
    colour_slope real DEFAULT 0.06,
    pivot_mag_r real DEFAULT 14.0,
    need_magnitudes boolean DEFAULT true,
    excluded_types text[] DEFAULT '{PSF,DUP,DUB}',
    min_shape_r real DEFAULT 0,
    min_nobs integer DEFAULT 1,
    allowed_mask integer DEFAULT 0,
    max_fracmasked real DEFAULT 0.35,
    max_fracflux real DEFAULT 4.0,
    max_rchisq real DEFAULT 10.0,
    max_rchisq_best real DEFAULT 4.0,
    min_fracin real DEFAULT 0.7,
    max_mag_err real DEFAULT 0.2,
    max_host_kpc real DEFAULT 100.0,
    need_cutout boolean DEFAULT true
) RETURNS SETOF annotated_source
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
SELECT a.*
FROM annotated_source AS a
WHERE (max_mag_r IS NULL OR a.mag_r <= max_mag_r)
    AND (NOT need_magnitudes OR (a.mag_g IS NOT NULL AND a.mag_r IS NOT NULL AND a.mag_z IS NOT NULL))
    AND (excluded_types IS NULL OR upper(btrim(a.type)) <> ALL (excluded_types))
    AND (min_shape_r IS NULL OR a.shape_r > min_shape_r)
    AND CASE  -- the order matters: a point source has shape_r = 0, which has no logarithm
        WHEN min_surface_brightness IS NULL THEN true
        WHEN a.shape_r > 0 THEN
            a.mag_r + 2.5 * log(2 * pi() * a.shape_r ^ 2)
            + sqrt(coalesce(a.mag_r_err, 0) ^ 2
                   + (5 / ln(10) * coalesce(a.shape_r_err, 0) / a.shape_r) ^ 2)
            - surface_brightness_slope * (a.mag_r - pivot_mag_r) > min_surface_brightness
        ELSE false
    END
    AND (max_colour IS NULL OR
        a.mag_g - a.mag_r - sqrt(coalesce(a.mag_g_err, 0) ^ 2 + coalesce(a.mag_r_err, 0) ^ 2)
        + colour_slope * (a.mag_r - pivot_mag_r) < max_colour)
    AND (min_nobs IS NULL OR a.nobs_min >= min_nobs)
    AND (allowed_mask IS NULL OR a.mask & ~allowed_mask = 0)
    AND (max_fracmasked IS NULL OR a.fracmasked_max < max_fracmasked)
    AND (max_fracflux IS NULL OR a.fracflux_max < max_fracflux)
    AND (max_rchisq IS NULL OR a.rchisq_max < max_rchisq)
    AND (max_rchisq_best IS NULL OR a.rchisq_min < max_rchisq_best)
    AND (min_fracin IS NULL OR a.fracin_max > min_fracin)
    AND (max_mag_err IS NULL OR
        (a.mag_g_err < max_mag_err AND a.mag_r_err < max_mag_err AND a.mag_z_err < max_mag_err))
    AND (max_host_kpc IS NULL OR EXISTS (
        SELECT FROM host_match
        WHERE host_match.source_id = a.source_id AND host_match.separation_kpc <= max_host_kpc))
    AND (NOT need_cutout OR a.has_cutout)
$$
"""

SELECTION_COMMENT = (
    "Rows of annotated_source that pass SAGA-like cuts (Di Teodoro et al. section 3.1; Mao et al. 2021). "
    "Each threshold is a named parameter with the published value as its default; NULL drops the cut. "
    "A source that lacks a value a cut needs does not pass that cut; errors only widen the cuts in "
    "surface brightness and colour, where one that is missing counts as 0, the strictest case."
)
CANDIDATE_COMMENT = "saga_selection() with the published thresholds: candidates near a host galaxy"


def upgrade() -> None:
    columns = ",\n    ".join(f"{expression} AS {name}" for name, expression, _ in COLUMNS)
    op.execute(VIEW.format(columns=columns))
    _comment(
        "VIEW annotated_source",
        "One row per source: the catalog's values and the current version of every opinion",
    )
    op.execute(SELECTION)
    _comment("FUNCTION saga_selection", SELECTION_COMMENT)
    op.execute("CREATE VIEW saga_candidate AS SELECT * FROM saga_selection()")
    _comment("VIEW saga_candidate", CANDIDATE_COMMENT)
    for view in ("annotated_source", "saga_candidate"):
        for name, _, comment in COLUMNS:
            _comment(f"COLUMN {view}.{name}", comment)


def downgrade() -> None:
    op.execute("DROP VIEW saga_candidate")
    op.execute("DROP FUNCTION saga_selection")
    op.execute("DROP VIEW annotated_source")


def _comment(target: str, comment: str) -> None:
    quoted = comment.replace("'", "''").replace(":", r"\:")
    op.execute(f"COMMENT ON {target} IS '{quoted}'")
