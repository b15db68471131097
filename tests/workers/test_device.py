"""What the worker says about a GPU that is not used."""

from pathlib import Path

import pytest

from workers import device


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path for the driver's version file; create it to have a driver."""
    path = tmp_path / "version"
    monkeypatch.setattr(device, "DRIVER", path)
    monkeypatch.setattr(device, "DEVICES", tmp_path)
    monkeypatch.setattr(device, "LIBRARY", "libnothing.so.0")
    monkeypatch.setattr(device.sys, "platform", "linux")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return path


def test_without_a_driver_it_says_so(driver: Path) -> None:
    assert device.why_no_gpu("tensorflow").startswith("there is no NVIDIA driver")


def test_a_container_without_its_gpu_is_told_apart(driver: Path) -> None:
    driver.touch()

    assert "--gpus all" in device.why_no_gpu("tensorflow")


def test_missing_cuda_libraries_come_with_the_cure(driver: Path) -> None:
    driver.touch()
    (driver.parent / "nvidia0").touch()

    assert "make gpu" in device.why_no_gpu("tensorflow")
    assert "this build of torch does not use it" in device.why_no_gpu("torch")


def test_hidden_gpus_are_not_missed(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")

    assert device.why_no_gpu("tensorflow") == "CUDA_VISIBLE_DEVICES='-1' hides every GPU"


def test_other_systems_compute_on_the_cpu(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.sys, "platform", "darwin")

    assert "this is darwin" in device.why_no_gpu("tensorflow")


def test_the_device_found_here_explains_itself() -> None:
    found = device.prepare()

    assert found.backend in ("tensorflow", "jax", "torch")
    assert (found.name == "cpu") == bool(found.note)
    assert found.batch_size == (device.CPU_BATCH if found.name == "cpu" else device.GPU_BATCH)
