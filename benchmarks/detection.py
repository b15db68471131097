"""Detection beside the program `source-extractor` on the same frames; peak memory of an exposure.

    python benchmarks/detection.py                # agreement and pixels/s, one core
    python benchmarks/detection.py --memory       # and the ingest of one 350-Mpixel exposure

Frames are simulated CCDs of 2048 x 4612 pixels, one for each kind of fault. Both detect at 2 sigma
of the local noise, 5 pixels, behind the same 3 x 3 filter, on one core. Both read the file, from
memory where there is /dev/shm, and take turns. Speed is by CPU time: others on the machine do not
count. The ingest uses a database of its own on DATABASE_URL's server or the embedded one.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from astropy.io import fits
from ingest import scratch_database
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from db.detection import MIN_AREA, THRESHOLD, detect
from models.camera import FAULTS, FULL_SIZE, observe, read_out
from models.camera_light import need_galsim

PROGRAMS = ("source-extractor", "sex")
FILTER = "CONV NORM\n1 2 1\n2 4 2\n1 2 1\n"
NEAR = 1.0  # pixel
STRENGTH = 0.7
N_CCDS = 36
SHAPE = (4612, 2048)


def frames(n: int) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Full-size CCDs, one exposure of one CCD for each kind of fault."""
    camera = replace(FULL_SIZE, n_ccds=1)
    for number, fault in enumerate(list(FAULTS)[:n]):
        rng = np.random.default_rng([11, number])
        conditions = observe(camera, fault, 0.0 if fault == "good" else STRENGTH, rng)
        yield fault, next(iter(read_out(conditions)))


def program() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of work, that of the programs it runs included [s], and its result."""
    start = cpu_time()
    result = work()
    return cpu_time() - start, result


def cpu_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_program(name: str, path: Path) -> NDArray[np.float64]:
    """Places that the program finds, 0-based, shape (n, 2)."""
    folder = path.parent
    (folder / "columns").write_text("X_IMAGE\nY_IMAGE\n")
    (folder / "filter.conv").write_text(FILTER)
    (folder / "empty.conf").write_text("")
    options = {
        "-c": "empty.conf",
        "-CATALOG_NAME": "found.cat",
        "-PARAMETERS_NAME": "columns",
        "-FILTER_NAME": "filter.conv",
        "-DETECT_THRESH": THRESHOLD,
        "-DETECT_MINAREA": MIN_AREA,
        "-WEIGHT_TYPE": "BACKGROUND",
        "-NTHREADS": 1,
        "-VERBOSE_TYPE": "QUIET",
    }
    words = [str(word) for pair in options.items() for word in pair]
    subprocess.run([name, path.name, *words], cwd=folder, check=True)
    return np.loadtxt(folder / "found.cat", ndmin=2).reshape(-1, 2) - 1


def ours(path: Path) -> NDArray[np.float64]:
    """Places that we find, read from the file like the program does, shape (n, 2)."""
    found = detect(fits.getdata(path))
    return np.stack([found.x, found.y], 1).astype(float)


def share_near(places: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Share of places with another within a pixel."""
    if not len(places) or not len(others):
        return float(len(places) == len(others))
    return float(np.mean(cKDTree(others).query(places)[0] < NEAR))


def compare(folder: Path, n: int, repeats: int) -> None:
    """Print, frame by frame, agreement and speed of the two in turns."""
    name = program()
    if name is None:
        print("source-extractor is not installed: only our own speed")
    print(f"{'frame':16s} {'ours':>6s} {'theirs':>6s}  ours near theirs  theirs near ours"
          "   Mpixel/s: ours  theirs  ratio")  # fmt: skip
    n_pixels = SHAPE[0] * SHAPE[1]
    shares, counts, ratios = [], [], []
    for fault, pixels in frames(n):
        path = folder / f"{fault}.fits"
        fits.PrimaryHDU(pixels).writeto(path)
        ours(path)
        times: list[tuple[float, float]] = []
        for _ in range(repeats):
            our_time, mine = seconds(lambda path=path: ours(path))
            their_time, theirs = (
                seconds(lambda path=path: run_program(name, path)) if name else (np.nan, mine)
            )
            times.append((our_time, their_time))
        rates = [n_pixels / 1e6 / median(column) for column in zip(*times, strict=True)]
        ratio = median(their_time / our_time for our_time, their_time in times)
        forth, back = share_near(mine, theirs), share_near(theirs, mine)
        shares += [(forth, back)]
        counts += [(len(mine), len(theirs))]
        ratios += [ratio]
        print(f"{fault:16s} {len(mine):6,d} {len(theirs):6,d} {forth:17.2%} {back:17.2%}"
              f" {rates[0]:16.1f} {rates[1]:7.1f} {ratio:6.2f}", flush=True)  # fmt: skip
        path.unlink()
    worst, together = np.min(shares, axis=0), np.average(shares, axis=0, weights=counts)
    print(f"all {len(shares)} together: {together[0]:.2%}, {together[1]:.2%}; worst: {worst[0]:.2%}"
          f", {worst[1]:.2%}; median ratio {median(ratios):.2f}")  # fmt: skip


def write_exposure(path: Path) -> None:
    """Write an exposure of 36 full-size CCDs, all with the pixels of one simulated good one."""
    _, pixels = next(frames(1))
    primary = fits.PrimaryHDU()
    primary.header.update(
        {"INSTRUME": "SimCam", "FILTER": "r", "EXPTIME": 120.0, "MJD-OBS": 58000.5}
    )
    kind = fits.CompImageHDU if path.suffix == ".fz" else fits.ImageHDU
    fits.HDUList([primary, kind(pixels, name="ccd")]).writeto(path)
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["hdrLoc"]
    ccd = path.read_bytes()[start:]
    with path.open("ab") as file:
        file.writelines([ccd] * (N_CCDS - 1))


INGEST = """
import sys, time
from pathlib import Path
from db.engine import create_engine
from db.exposures import ingest

def peak():
    # Not resource.getrusage: its peak includes that of the process that started this one.
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index("VmHWM:") + 1]) / 1024

engine = create_engine(sys.argv[1])
before = peak()
report = ingest(engine, Path(sys.argv[2]), [Path(sys.argv[3])], "benchmark")
(one,) = report.outcomes
assert one.state == "new", one.reason
print(f"{one.n_pixels / 1e6:.0f} Mpixel, {one.n_detected:,} sources, {one.n_sampled:,} kept: "
      f"{report.seconds:.1f} s, {one.n_pixels / report.seconds / 1e6:.1f} Mpixel/s "
      f"({one.n_pixels / time.process_time() / 1e6:.1f} per CPU second); peak memory "
      f"{peak():.0f} MiB, {before:.0f} MiB of it before the first pixel")
"""


def measure_memory(folder: Path) -> None:
    """Print time and peak memory of the ingest of one exposure, plain and packed."""
    with scratch_database() as engine:
        url = engine.url.render_as_string(hide_password=False)
        for ending in (".fits", ".fits.fz"):
            path = folder / f"exposure{ending[1:].replace('.', '')}{ending}"
            write_exposure(path)
            print(f"{path.stat().st_size / 1e6:.0f} MB {ending}: ", end="", flush=True)
            arguments = [url, str(folder / "pixels"), str(path)]
            subprocess.run([sys.executable, "-c", INGEST, *arguments], check=True)
            path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=len(FAULTS), help="kinds of fault")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="ingest a whole exposure, too")
    options = parser.parse_args()
    try:
        need_galsim()
    except ModuleNotFoundError as error:
        print(error)
        return
    memory = Path("/dev/shm")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        compare(Path(folder), options.frames, options.repeats)
    if options.memory:
        with tempfile.TemporaryDirectory() as folder:
            measure_memory(Path(folder))


if __name__ == "__main__":
    main()
