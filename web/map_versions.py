"""Which maps there are, read once in a request however many parts of a page ask."""

from __future__ import annotations

from flask import g

from db import maps
from db.maps import Map, MapName
from web.database import session


def versions(annotator: MapName) -> list[Map]:
    """Return the versions of an annotator as `db.maps.versions` does."""
    if "maps" not in g:
        g.maps = maps.versions(session())
    return [one for one in g.maps if one.version.annotator == annotator]
