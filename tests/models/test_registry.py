import numpy as np
import pytest

from models import registry, shreds
from models.training.shreds import save_half


@pytest.fixture
def trained(tmp_path):
    weights = tmp_path / "shreds-plain.weights.h5"
    model = shreds.build("plain", width=4)
    save_half(model, weights)
    card = registry.Card(
        annotator="shreds",
        name="plain.test",
        weights=str(weights),
        sha256=registry.sha256(weights),
        build={"width": 4},
        metrics={"auc": {"value": 0.9, "low": 0.8, "high": 0.95}},
    )
    return model, card


def test_a_card_builds_and_loads_its_network(trained):
    model, card = trained
    pictures = np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), np.uint8)

    loaded = registry.load(card)

    assert np.allclose(shreds.predict(loaded, pictures), shreds.predict(model, pictures), atol=2e-3)


def test_altered_weights_are_refused(trained):
    _, card = trained
    with card.path.open("ab") as file:
        file.write(b"x")

    with pytest.raises(registry.ChecksumError, match=card.sha256):
        registry.load(card)


def test_missing_weights_are_named(trained):
    _, card = trained
    card.path.unlink()

    with pytest.raises(FileNotFoundError, match=r"shreds-plain\.weights\.h5"):
        registry.load(card)


def test_a_card_survives_being_written_as_toml(trained, tmp_path):
    _, card = trained
    path = tmp_path / "weights.toml"
    path.write_text(registry.to_toml(card))

    assert registry.cards(path=path) == [card]


def test_an_unknown_version_is_answered_with_the_known_ones(trained, tmp_path):
    _, card = trained
    path = tmp_path / "weights.toml"
    path.write_text(registry.to_toml(card))

    with pytest.raises(ValueError, match=r"plain\.test"):
        registry.find("shreds", "polar.never", path)


def test_shipped_weights_are_the_ones_their_cards_describe():
    shipped = registry.cards()

    current = [card.annotator for card in shipped if card.state == "current"]
    expected = {
        "shreds": {"auc", "accuracy"},
        "representations": {"map", "shred_auc"},
        "source_map": {"quantization_error", "topographic_error"},
        "exposure_map": {"accuracy", "precision", "recall", "coverage"},
        "blends": {"auc", "accuracy"},
        "pair_flux": {"flux_mape", "outliers", "coverage_68", "coverage_95"},
    }
    assert sorted(current) == sorted(expected)
    for card in shipped:
        registry.verify(card)
        assert card.path.stat().st_size < 10e6
        assert card.licence
        assert expected[card.annotator] <= set(card.metrics)
