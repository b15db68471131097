"""What the networks compute on: a GPU if there is one, or in plain words why not.

Importing this module is light; calling it imports Keras and its backend.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
CPU_BATCH, GPU_BATCH = 64, 512  # sources
DRIVER = Path("/proc/driver/nvidia/version")
DEVICES = Path("/dev")
LIBRARY = "libcuda.so.1"


@dataclass(frozen=True)
class Device:
    """`name` is `cpu` or the GPU's; `note` says why no GPU is used, empty if one is."""

    name: str
    note: str = ""
    backend: str = ""  # of Keras: tensorflow, jax or torch

    @property
    def batch_size(self) -> int:
        """Sources per call of a network that keep the device busy."""
        return CPU_BATCH if self.name == "cpu" else GPU_BATCH


def prepare(precision: str = "float32") -> Device:
    """Find the device and set the precision of the networks that are loaded from now on."""
    with quiet():
        import keras

        keras.config.set_dtype_policy(precision)
        backend = keras.backend.backend()
        names = _gpus(backend)
    if names:
        return Device(", ".join(names), backend=backend)
    return Device("cpu", why_no_gpu(backend), backend)


def why_no_gpu(backend: str) -> str:
    """Say in plain words why the backend sees no GPU."""
    if sys.platform != "linux":
        return f"Skygloss uses GPUs on Linux only; this is {sys.platform}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU"
    if not _has_driver():
        return "there is no NVIDIA driver on this machine (nvidia-smi would not work either)"
    if not list(DEVICES.glob("nvidia[0-9]*")):
        return "the NVIDIA driver is there but no GPU is: start the container with --gpus all"
    if backend == "tensorflow":
        return "there is an NVIDIA GPU, but this TensorFlow finds no CUDA libraries: make gpu"
    return f"there is an NVIDIA GPU, but this build of {backend} does not use it"


def _gpus(backend: str) -> list[str]:
    if backend == "tensorflow":
        return _tensorflow_gpus()
    if backend == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform == "gpu"]
    if backend == "torch":
        import torch

        return [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return []


def _tensorflow_gpus() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    for device in devices:
        tf.config.experimental.set_memory_growth(device, True)  # leave room for other workers
    details = (tf.config.experimental.get_device_details(device) for device in devices)
    return [detail.get("device_name", "GPU") for detail in details]


def _has_driver() -> bool:
    if DRIVER.exists():
        return True
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what the backend's libraries write to standard error while they look for a GPU.

    They write below Python, a screenful that reads like errors; `why_no_gpu` says it in a line.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
