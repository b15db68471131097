"""Names that users give to what they save: short, printable and the same in SQL and addresses."""

from __future__ import annotations

import re

PATTERN = re.compile(r"\w(?:[\w .,()+-]{0,78}[\w.)+])?")
RULE = (
    "1 to 80 letters, digits, spaces and . , ( ) + - _, beginning with a letter or digit and not "
    "ending in a space or comma"
)


class BadName(ValueError):  # noqa: N818 (it reads as what happened)
    """A name that does not follow the rule."""


def checked(name: str) -> str:
    """Return a name without the spaces around it.

    Raises
    ------
    BadName
    """
    bare = name.strip()
    if not PATTERN.fullmatch(bare):
        raise BadName(f"expected a name of {RULE}; arrived {bare[:100]!r}")
    return bare
