"""Model versions: the card of each set of weights, its checksum, and loading it.

Knows no network's layers (the modules of the networks do) and no database.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

WEIGHTS = Path(__file__).parent / "weights"
CARDS = Path(__file__).parent / "weights.toml"
NETWORKS = {"source_map": "desom", "exposure_map": "desom"}  # where not named as the annotator


class ChecksumError(RuntimeError):
    """A weights file is not the one its card describes."""


@dataclass(frozen=True)
class Card:
    """What there is to know about one version of one network.

    `name` is `architecture.tag`; `weights` is a file name in `models/weights/`, or an absolute
    path; `metrics` maps a name to {value, low, high} with a 95 % interval; `errors` is the
    confusion matrix behind them (tp, fn, tn, fp on unseen sources), as `scores.Counts` takes it.
    """

    annotator: str
    name: str
    weights: str
    sha256: str
    state: str = "candidate"
    summary: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    preprocessing: str = ""
    build: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics_from: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    limits: str = ""
    paper: str = ""
    licence: str = ""

    @property
    def architecture(self) -> str:
        """The network's name within the annotator's module."""
        return self.name.split(".", 1)[0]

    @property
    def path(self) -> Path:
        """Where the weights are."""
        return WEIGHTS / self.weights

    def as_dict(self) -> dict[str, Any]:
        """The card as plain values, ready for JSON."""
        return asdict(self)


def from_dict(stored: Mapping[str, Any]) -> Card:
    """Rebuild a card from plain values, leaving out what others added to them."""
    return Card(**{key.name: stored[key.name] for key in fields(Card) if key.name in stored})


def cards(annotator: str | None = None, path: Path = CARDS) -> list[Card]:
    """Read the cards, of one annotator or of all, the current ones first."""
    try:
        entries = tomllib.loads(path.read_text())["version"]
        found = [Card(**entry) for entry in entries]
    except (OSError, KeyError, TypeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(
            f"{path} must list model versions as [[version]] tables: {error}"
        ) from error
    chosen = [card for card in found if annotator in (None, card.annotator)]
    return sorted(chosen, key=lambda card: card.state != "current")


def find(annotator: str, name: str | None = None, path: Path = CARDS) -> Card:
    """Find one version by name, or the annotator's current one."""
    known = cards(annotator, path)
    for found in known:
        if found.name == name or (name is None and found.state == "current"):
            return found
    names = ", ".join(found.name for found in known) or "none"
    raise ValueError(f"no version {name or '(current)'} of {annotator!r}; known: {names}")


def seen_path(weights: Path) -> Path:
    """Where the fingerprints of the pictures a network was trained on are listed."""
    return weights.with_name(weights.name.removesuffix(".weights.h5") + ".seen.txt")


def to_toml(card: Card) -> str:
    """The card as a [[version]] table of weights.toml."""
    plain = {key: value for key, value in card.as_dict().items() if not isinstance(value, dict)}
    tables = {key: value for key, value in card.as_dict().items() if isinstance(value, dict)}
    lines = ["[[version]]", *(f"{key} = {_toml(value)}" for key, value in plain.items())]
    for key, table in tables.items():
        lines += ["", f"[version.{key}]"]
        lines += [f"{name} = {_toml(value)}" for name, value in table.items()]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """One value; the strings of JSON are strings of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(card: Card) -> None:
    """Make sure that the weights are the ones the card describes.

    Raises
    ------
    FileNotFoundError, ChecksumError
    """
    verify_file(card.path, card.sha256, f"the weights of {card.name}")


def verify_file(path: Path, expected: str, what: str) -> None:
    """Make sure that a file has the SHA-256 expected of it; raises as `verify` does."""
    if not path.is_file():
        raise FileNotFoundError(f"{what} should be at {path}: not there")
    found = sha256(path)
    if found != expected:
        raise ChecksumError(
            f"{what} in {path} should have SHA-256 {expected}, "
            f"but have {found}: restore the file, or register it as a new version"
        )


def load(card: Card) -> keras.Model:
    """Build the network a card names and load its weights, after checking them."""
    verify(card)
    module = import_module(f"models.{NETWORKS.get(card.annotator, card.annotator)}")
    model: keras.Model = module.build(card.architecture, **card.build)
    model.load_weights(card.path)
    return model
