"""Where Skygloss keeps its things, and what it says when it cannot."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from cli import main
from db import home


def test_the_folders_are_made_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYGLOSS_HOME", str(tmp_path / "deep/home"))

    made = [home.home(), home.pixels(), home.models(), home.cache()]

    place = tmp_path / "deep/home"
    assert made == [place, place / "pixels", place / "models", place / "cache"]
    assert all(folder.is_dir() for folder in made)


def test_a_home_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SKYGLOSS_HOME", str(tmp_path / "file/home"))
    monkeypatch.delenv("DATABASE_URL", raising=False)

    result = CliRunner().invoke(main, ["status"])

    assert result.exit_code == 1
    assert f"Error: the folder {tmp_path}/file/home cannot be made" in result.output
    assert "Set SKYGLOSS_HOME to a folder that you may write" in result.output
