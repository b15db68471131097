import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli import main
from models import commands, registry, representations, retrieval
from models.evaluation import neighbours_report
from models.evaluation import representations as judging
from models.evaluation.shreds import SeenError, write_fingerprints
from models.training import representations as training
from tests.models.encoders import TINY, labelled_discs, random_sky, tiny


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(representations.ARCHITECTURES, "tiny", tiny)
    monkeypatch.setitem(training.PRESETS, "quick", TINY)
    monkeypatch.setattr(training, "ROUND", 1)
    monkeypatch.setattr(judging, "LEAST_MEMBERS", 4)


@pytest.fixture(scope="module")
def data():
    return labelled_discs(30)


def _perfect(training_part, unseen):
    """Vectors that say exactly which tags a source has."""
    vectors = np.stack([unseen.degree(tag) for tag in training.TAGS], axis=1)
    vectors = vectors + np.random.default_rng(0).normal(0, 1e-3, vectors.shape)
    return judging.Encoded(vectors, vectors)


def _blind(training_part, unseen):
    vectors = np.random.default_rng(1).normal(size=(len(unseen), 5))
    return judging.Encoded(vectors, vectors)


@pytest.fixture(scope="module")
def found(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judging, "LEAST_MEMBERS", 4)
        fold = np.arange(30) // 2 % 2
        judges = {"perfect": _perfect, "blind": _blind}
        encoded = {
            name: [judge(data.take(fold != k), data.take(fold == k)) for k in (0, 1)]
            for name, judge in judges.items()
        }
        return judging._evaluation("Title", "Protocol.", data, fold, encoded)


def _of(found, name, space=judging.SEARCHED):
    return next(each for each in found.judged if (each.encoder, each.space) == (name, space))


def test_perfect_vectors_score_one_and_blind_ones_the_share_of_members(found):
    perfect, blind = _of(found, "perfect").metrics, _of(found, "blind").metrics

    assert perfect["map"].value == perfect["precision_at_5"].value == 1
    assert perfect["shred_auc"].value == 1
    assert blind["precision_at_5"].value == pytest.approx(0.5, abs=0.15)
    assert blind["shred_auc"].low < 0.5 < perfect["shred_auc"].low


def test_tags_with_few_members_are_not_counted(found):
    assert set(found.tags) == {"smooth", "spiral", "crowded"}


def test_neighbours_come_from_the_query_s_own_gallery(data):
    fold = np.arange(30) % 3
    encoded = [_perfect(None, data.take(fold == k)) for k in range(3)]

    found = judging._evaluation("", "", data, fold, {"perfect": encoded})

    members = (data.degree("smooth") == 1).sum()
    assert members == 15
    assert _of(found, "perfect").metrics["precision_at_5"].value < 1  # five a gallery, less itself


def test_judges_never_see_a_group_they_judge(data):
    pairs = []

    def spy(training_part, unseen):
        pairs.append(set(training_part.group) & set(unseen.group))
        return _blind(training_part, unseen)

    judging.cross_validate(
        data, tiny(), random_sky(9), TINY, "tiny", n_folds=2, baselines={"spy": spy}
    )

    assert pairs == [set(), set()]


def test_cross_validation_starts_every_fold_with_the_same_weights(data, monkeypatch):
    starts = []

    def remember(encoder, *_, **__):
        starts.append(encoder.get_weights()[0])
        return encoder

    start = tiny()
    monkeypatch.setattr(judging, "fine_tune", remember)
    judging.cross_validate(data, start, random_sky(9), TINY, "t", n_folds=2, baselines={})

    assert len(starts) == 2
    assert all(np.array_equal(each, start.get_weights()[0]) for each in starts)


def test_the_baselines_are_judged_too(data):
    judges = judging.default_baselines(0)
    del judges["untrained EfficientNetB0"]  # slow, and its own test of building is elsewhere

    found = {name: judge(data.take(np.arange(20)), data) for name, judge in judges.items()}

    assert set(found) == {"31 photometric numbers", "PCA of the pixels", "chance"}
    assert found["PCA of the pixels"].embedding.shape == (30, 64 * 64 * 3)
    assert found["31 photometric numbers"].reduced.shape == (30, 20)


def test_variance_in_components_is_that_of_the_gallery(data):
    vectors = np.random.default_rng(0).normal(size=(30, 60)) * np.linspace(9, 1, 60)
    judge = judging.reduced_by(lambda part: vectors[part.survey_id - 1000])

    facts = judging._evaluation("", "", data, np.zeros(30, int), {"x": [judge(None, data)]}).facts

    assert 0.2 < facts["x"]["variance_10"] < facts["x"]["variance_15"] < 1
    assert facts["x"]["neighbours_in_common"] > 0.5


def test_the_report_holds_every_encoder_and_a_strip_for_every_tag(found, tmp_path):
    page = neighbours_report.write(found, tmp_path).read_text()

    assert page.count("| perfect | reduced 40, L1 |") == 1
    assert "1.000 (1.000–1.000)" in page
    assert "smooth 15" in page
    with Image.open(tmp_path / "neighbours.png") as sheet:
        assert sheet.height == 3 * 148
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["encoders"]["perfect"]["reduced 40, L1"]["map"]["value"] == 1


def test_a_query_is_shown_beside_its_nearest_neighbours(found):
    query = neighbours_report.middling(_of(found, "perfect"), 0)

    assert found.data.degree(found.tags[0])[query] == 1


@pytest.fixture
def version(data, tmp_path):
    weights = tmp_path / "tiny.weights.h5"
    tiny().save_weights(weights)
    write_fingerprints(data.rgb[:12], registry.seen_path(weights))
    card = training.card(data, TINY, 0, weights, "test")
    card = replace(card, state="current")
    (tmp_path / "weights.toml").write_text(registry.to_toml(card))
    return card


def test_weights_are_judged_on_unseen_sources_only(data, version):
    found = judging.evaluate_version(data, version, baselines={"blind": _blind})

    assert found.data.survey_id.tolist() == list(range(1012, 1030))
    assert list(found.encoded) == ["tiny.test", "blind"]


def test_a_neighbour_on_the_sky_of_a_training_picture_is_not_judged(data, version):
    write_fingerprints(data.rgb[:11], registry.seen_path(version.path))
    pairs = replace(data, group=np.arange(30) // 2)

    found = judging.evaluate_version(pairs, version, baselines={})

    assert found.data.survey_id.tolist() == list(range(1012, 1030))


def test_the_protocol_says_who_is_left_out_and_how_vectors_are_scaled(data, version):
    protocol = judging.evaluate_version(data, version, baselines={}).protocol

    assert "18 sources" in protocol
    assert "is left out whole" in protocol
    assert "brought to unit scatter, without labels" in protocol


def test_judging_weights_on_their_training_data_is_refused(data, version):
    with pytest.raises(SeenError, match="cross-validate"):
        judging.evaluate_version(data.take(np.arange(12)), version, baselines={})


def _folder(data, folder):
    (folder / "images").mkdir(parents=True)
    for survey_id, picture in zip(data.survey_id, data.rgb, strict=True):
        Image.fromarray(picture).save(folder / "images" / f"{survey_id}_grz.png")
    lines = ["objID,label,group,tags,tags_any"]
    for row in zip(data.survey_id, data.label, data.group, data.tags, data.tags_any, strict=True):
        lines.append(",".join(map(str, row)))
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_commands_train_and_judge(data, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "default_baselines", lambda seed: {"blind": _blind})
    folder = _folder(data, tmp_path / "data")

    trained = CliRunner().invoke(
        main, f"train representations --data {folder} --out {tmp_path}/out --preset quick"
    )
    judged = CliRunner().invoke(
        commands.evaluate_representations,
        f"--data {folder} --preset quick --cross-validate --folds 2 --json "
        f"--start {tmp_path}/out/checkpoints/simulated-only.weights.h5 --out {tmp_path}/report",
    )

    assert trained.exit_code == 0, trained.output
    card = registry.cards(path=tmp_path / "out" / "card.toml")[0]
    assert registry.load(card).output_shape == [(None, 1280), (None, 40)]
    assert judged.exit_code == 0, judged.output
    printed = json.loads(judged.stdout)
    assert printed["encoders"]["quick"]["reduced 40, L1"]["map"]["value"] > 0.3
    assert (tmp_path / "report" / "report.md").is_file()


def test_the_command_refuses_weights_that_have_seen_the_pictures(data, version, tmp_path):
    folder = _folder(data.take(np.arange(12)), tmp_path / "data")

    result = CliRunner().invoke(
        commands.evaluate_representations,
        f"--data {folder} --cards {version.path.parent}/weights.toml",
    )

    assert result.exit_code == 1
    assert "was trained on 12 of these 12 sources" in result.output


def test_labels_without_tags_are_explained(data, tmp_path):
    folder = _folder(data, tmp_path / "data")
    table = folder / "labels.csv"
    rows = [line.split(",")[:3] for line in table.read_text().splitlines()]
    table.write_text("\n".join(map(",".join, rows)) + "\n")

    result = CliRunner().invoke(
        main, f"train representations --data {folder} --out {tmp_path}/out --preset quick"
    )

    assert result.exit_code == 1
    assert "needs the columns tags, tags_any" in result.output


def test_the_overlap_of_spaces_is_a_share(found):
    order = retrieval.ranked(np.arange(5.0)[:, None], np.arange(5))

    assert 0 <= found.facts["blind"]["neighbours_in_common"] <= 1
    assert retrieval.overlap(order, order) == 4 / 10
