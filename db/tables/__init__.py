"""Every table of Skygloss, with its constraints, indexes and one comment per column.

The comments (with units) are what `psql \\d+`, the pages and later TAP_SCHEMA show. How rows
get in and out is the business of the other modules of `db`; views and SQL functions live in the
migrations.
"""

from db.tables.base import Base
from db.tables.catalogs import Catalog, CatalogFile, HostMatch, Rejection, Source
from db.tables.cutouts import Cutout, CutoutBlock, CutoutSet
from db.tables.exposures import Ccd, Exposure
from db.tables.jobs import Job, ModelVersion, Run, Worker
from db.tables.labels import Audit, Expert, Label, LabelClass, Token
from db.tables.maps import ExposureCell, ExposureHistogram, Prototype, SourceCell
from db.tables.results import N_REDUCED, Blend, PairFlux, Representation, Shred
from db.tables.selections import Selection, SelectionSource
from db.tables.similarity import Projection, ProjectionPoint, ProjectionTile, SearchIndex, Upload

__all__ = [
    "N_REDUCED",
    "Audit",
    "Base",
    "Blend",
    "Catalog",
    "CatalogFile",
    "Ccd",
    "Cutout",
    "CutoutBlock",
    "CutoutSet",
    "Expert",
    "Exposure",
    "ExposureCell",
    "ExposureHistogram",
    "HostMatch",
    "Job",
    "Label",
    "LabelClass",
    "ModelVersion",
    "PairFlux",
    "Projection",
    "ProjectionPoint",
    "ProjectionTile",
    "Prototype",
    "Rejection",
    "Representation",
    "Run",
    "SearchIndex",
    "Selection",
    "SelectionSource",
    "Shred",
    "Source",
    "SourceCell",
    "Token",
    "Upload",
    "Worker",
]
