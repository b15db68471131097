"""Who sent a request that changes something: our own pages and programs may, other sites may not.

What a request asks for is the business of `web.parameters`.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import request
from werkzeug.exceptions import Forbidden


class CrossSite(Forbidden):
    """A page of another site made a browser send this request."""

    description = "This request comes from a page of another site, so nothing was changed."
    advice = "Open the page of this site and send the form there."


def same_origin() -> None:
    """Refuse a request that a page of another site made a browser send.

    Call it first in every view that changes something. Browsers say where a request comes from
    (Sec-Fetch-Site; older ones and those on plain HTTP only Origin); programs such as curl say
    nothing, and hold no cookie or session that another site could abuse.

    Raises
    ------
    CrossSite
        Answered by 403.
    """
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and urlsplit(origin).netloc != request.host
    if foreign:
        raise CrossSite
