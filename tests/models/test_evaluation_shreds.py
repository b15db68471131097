import json
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from models import commands, registry
from models.evaluation import report, shreds
from models.labelled import Labelled
from models.training import shreds as training

TINY = training.Preset("plain", first_rounds=0, rounds=1, round_size=64, recentred_after=0)


@pytest.fixture(scope="module")
def data():
    """Thirty pictures in ten groups; shreds are bluer, so that trees can tell."""
    rng = np.random.default_rng(0)
    label = np.array(["galaxy", "shred", "unsure"])[rng.integers(0, 3, 30) * (np.arange(30) > 3)]
    label[:4] = ["galaxy", "shred", "galaxy", "shred"]
    rgb = rng.integers(20, 60, (30, 128, 128, 3), np.uint8)
    rgb[label == "shred", :, :, 2] += 90
    return Labelled(rgb, label, np.arange(30) % 10, np.arange(30) + 1000, "f" * 64)


@pytest.fixture(scope="module")
def evaluation(data):
    return shreds.cross_validate(data, TINY, "tiny", n_folds=3)


@pytest.fixture
def folder(data, tmp_path):
    (tmp_path / "images").mkdir()
    for survey_id, picture in zip(data.survey_id, data.rgb, strict=True):
        Image.fromarray(picture).save(tmp_path / "images" / f"{survey_id}_grz.png")
    rows = zip(data.survey_id, data.label, data.group, strict=True)
    lines = ["objID,label,group", *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture(scope="module")
def version(data, tmp_path_factory):
    """Weights that have seen the first twenty pictures, with their card in a file beside them."""
    tmp_path = tmp_path_factory.mktemp("version")
    model = training.train(data.take(np.arange(20)), TINY, seed=0)
    weights = tmp_path / "plain.weights.h5"
    training.save_half(model, weights)
    shreds.write_fingerprints(data.rgb[:20], registry.seen_path(weights))
    card = replace(training.card(data, TINY, 0, weights, "tiny"), state="current")
    (tmp_path / "weights.toml").write_text(registry.to_toml(card))
    return card


def test_cross_validation_judges_every_decided_source_once(evaluation, data):
    names = [opinion.name for opinion in evaluation.opinions]

    assert names == ["tiny", "always galaxy", "boosted trees on simple features"]
    assert len(evaluation.data) == data.decided.sum()
    for opinion in evaluation.opinions:
        assert np.isfinite(opinion.p_shred).all()


def test_judges_never_see_a_group_they_judge(data):
    pairs = []

    def spy(training_part, unseen, k):
        pairs.append(set(training_part.group) & set(unseen.group))
        return np.zeros(len(unseen))

    shreds._by_folds(spy, data, shreds.folds(data.group, 3))

    assert pairs == [set(), set(), set()]


def test_baselines_stand_beside_the_network(evaluation):
    always, trees = evaluation.opinions[1:]

    assert always.intervals["auc"].value == 0.5
    assert always.intervals["accuracy"].value == (~evaluation.data.is_shred).mean()
    assert 0 < trees.p_shred.min() < trees.p_shred.max() < 1


def test_calibration_of_a_fold_ignores_its_own_labels():
    rng = np.random.default_rng(1)
    fold = np.repeat([0, 1], 100)
    truth = rng.random(200) < 0.5
    p = np.clip(truth * 0.4 + 0.3 + rng.normal(0, 0.1, 200), 0.01, 0.99)

    flipped = np.where(fold == 0, ~truth, truth)

    first = shreds.calibrate_by_folds(truth, p, fold)
    second = shreds.calibrate_by_folds(flipped, p, fold)
    assert np.array_equal(first[fold == 0], second[fold == 0])
    assert not np.allclose(first[fold == 1], second[fold == 1])


def test_the_page_needs_no_other_file_and_follows_light_and_dark(evaluation, tmp_path):
    page = report.write(evaluation, tmp_path).read_text()

    assert not re.search(r'(src|srcset|href)="(?!data:)', page)
    assert "prefers-color-scheme: dark" in page
    assert "always galaxy" in page
    for name in ("roc", "reliability", "probabilities"):
        for theme in ("light", "dark"):
            with Image.open(tmp_path / f"{name}-{theme}.png") as image:
                assert image.width > 400


def test_weights_are_judged_on_unseen_sources_only(data, version):
    found = shreds.evaluate_version(data, version)

    assert set(found.data.survey_id) <= set(range(1020, 1030))
    assert len(found.data) == data.decided[20:].sum()


def test_judging_weights_on_their_training_data_is_refused(data, version):
    with pytest.raises(shreds.SeenError, match="cross-validate"):
        shreds.evaluate_version(data.take(np.arange(20)), version)


def test_the_command_prints_numbers_as_json_and_writes_the_page(folder, version, tmp_path):
    cards = version.path.parent / "weights.toml"

    result = CliRunner().invoke(
        commands.evaluate_shreds,
        f"--data {folder} --cards {cards} --out {tmp_path}/out --json",
    )

    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert "auc" in printed["classifiers"]["plain.tiny"]
    assert set(printed["errors"]["plain.tiny"]) == {"tp", "fn", "tn", "fp"}
    assert (tmp_path / "out/report.html").is_file()
    rows = (tmp_path / "out/predictions.csv").read_text().splitlines()
    assert rows[0] == "objID,group,fold,label,p_shred"
    assert len(rows) == 1 + printed["n_galaxies"] + printed["n_shreds"]


def test_the_command_explains_a_folder_without_labels(tmp_path):
    result = CliRunner().invoke(commands.evaluate_shreds, ["--data", str(tmp_path)])

    assert result.exit_code == 1
    assert "labels.csv" in result.output


def test_training_by_command_writes_weights_that_load(data, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(training.PRESETS, "quick", TINY)
    out = tmp_path / "out"

    result = CliRunner().invoke(
        main,
        f"train shreds --data {folder} --out {out} --preset quick",
    )

    assert result.exit_code == 0, result.output
    card = registry.cards(path=out / "card.toml")[0]
    assert registry.load(card).count_params() == 453_985
    assert card.training["n_shreds"] == data.is_shred.sum()
