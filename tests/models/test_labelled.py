import numpy as np
import pytest
from PIL import Image

from models.labelled import folds, read_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for survey_id in (11, 12, 13):
        picture = np.full((128, 128, 3), survey_id, np.uint8)
        Image.fromarray(picture).save(tmp_path / "images" / f"{survey_id}_grz.png")
    (tmp_path / "labels.csv").write_text(
        "objID,label,group\n11,galaxy,0\n12,shred,0\n13,unsure,7\n"
    )
    return tmp_path


def test_a_folder_gives_pictures_labels_and_groups_in_order(folder):
    data = read_folder(folder)

    assert data.survey_id.tolist() == [11, 12, 13]
    assert data.rgb[:, 0, 0, 0].tolist() == [11, 12, 13]
    assert data.is_shred.tolist() == [False, True, False]
    assert data.decided.tolist() == [True, True, False]
    assert data.group.tolist() == [0, 0, 7]


def test_a_folder_without_labels_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"labels\.csv"):
        read_folder(tmp_path)


def test_a_missing_column_is_named(folder):
    (folder / "labels.csv").write_text("objID,label\n11,galaxy\n")

    with pytest.raises(ValueError, match="no group"):
        read_folder(folder)


def test_a_picture_of_another_size_is_named(folder):
    Image.new("RGB", (64, 64)).save(folder / "images" / "12_grz.png")

    with pytest.raises(ValueError, match="12_grz"):
        read_folder(folder)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_folds_never_split_a_group_and_are_of_like_size(seed):
    group = np.random.default_rng(seed).integers(0, 200, 500)

    fold = folds(group, 5, seed)

    for number in np.unique(group):
        assert len(set(fold[group == number])) == 1
    assert set(fold) == {0, 1, 2, 3, 4}
    assert np.bincount(fold).min() > 60


def test_more_folds_than_groups_are_refused():
    with pytest.raises(ValueError, match="there are 2"):
        folds(np.array([1, 1, 2]), 5)
