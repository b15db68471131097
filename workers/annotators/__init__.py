"""The annotators there are. A new one is added to this tuple by hand."""

from workers.annotators.base import Annotator
from workers.annotators.representations import Representations
from workers.annotators.shreds import Shreds

ANNOTATORS: tuple[type[Annotator], ...] = (Shreds, Representations)
