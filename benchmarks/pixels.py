"""The pixel store: rates by block and the time for one cutout, against plain files in the same run.

    python benchmarks/pixels.py              # the store as it is
    python benchmarks/pixels.py --codecs     # and other codecs and chunk sizes

Reads come from the page cache. Uses a database of its own on DATABASE_URL's server or the embedded
one, and drops it again.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median

import numpy as np
import zarr
from ingest import scratch_database
from PIL import Image
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from db.cutouts import Layout, Writer, create_set, read_block, read_one
from db.tables import Catalog, CutoutSet

N = 1024  # cutouts in a block
N_SINGLE = 50  # single cutouts read in each round
DISPLAY = Layout(("z", "r", "g"), 128, 0.262, "uint8", "display")
FLUX = Layout(("g", "r", "i", "z"), 128, 0.262, "float32", "nanomaggy")
CODECS = {
    "none": (),
    "zstd 1": (ZstdCodec(level=1),),
    "zstd 3": (ZstdCodec(level=3),),
    "blosc lz4 bitshuffle": (BloscCodec(cname="lz4", shuffle="bitshuffle"),),
    "blosc lz4 bitshuffle, crc32c": (
        BloscCodec(cname="lz4", shuffle="bitshuffle"),
        Crc32cCodec(),
    ),
    "blosc zstd 1 bitshuffle": (BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"),),
}


def galaxies(layout: Layout) -> np.ndarray:
    """A block of noisy exponential discs (n, h, w, b), about as compressible as the sky is."""
    random = np.random.default_rng(1)
    y, x = np.indices((layout.size, layout.size)) - (layout.size - 1) / 2
    scale = random.uniform(2, 12, (N, 1, 1))
    disc = (np.exp(-np.hypot(x, y) / scale) * random.uniform(1, 10, (N, 1, 1)))[..., None]
    noise = random.normal(0, 0.1, (N, *layout.shape))
    flux = (disc + noise).astype("float32")
    if layout.dtype == "float32":
        return flux
    return (255 * np.arcsinh(5 * flux.clip(0)) / np.arcsinh(50)).clip(0, 255).astype("uint8")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def new_set(engine: Engine, layout: Layout) -> tuple[CutoutSet, list[int]]:
    """An empty cutout set, and a block of sources for it."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        catalog = Catalog(name=f"{layout.dtype} {time.time()}", survey="", column_map={})
        session.add(catalog)
        session.flush()
        sources = session.scalars(
            text(
                "INSERT INTO source (catalog_id, survey_id, ra, dec, healpix)"
                " SELECT :catalog, n::text, 0, 0, 0 FROM generate_series(1, :n) AS n RETURNING id"
            ),
            {"catalog": catalog.id, "n": N},
        ).all()
        return create_set(session, catalog, "set", layout, "folder"), list(sources)


def write_block(
    engine: Engine, root: Path, cutout_set: CutoutSet, sources: list[int], pixels: np.ndarray
) -> None:
    with Writer(engine, root, cutout_set) as writer:
        for source_id, cutout in zip(sources, pixels, strict=True):
            writer.append(source_id, cutout)


def write_raw(path: Path, pixels: np.ndarray) -> None:
    with path.open("wb") as file:
        pixels.tofile(file)
        os.fsync(file.fileno())


def decode_all(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(folder / f"{n}.png")) for n in range(N)])


def compare(engine: Engine, root: Path, layout: Layout, repeats: int) -> None:
    """Print the store's times beside those of one raw file and of one PNG per cutout."""
    pixels = galaxies(layout)
    raw = root / "raw"
    cutout_set, sources = new_set(engine, layout)
    write_block(engine, root, cutout_set, sources, pixels)
    path = cutout_set.store_path
    singles = np.random.default_rng(2).integers(0, N, N_SINGLE).tolist()
    times: dict[str, list[float]] = {}

    def note(what: str, taken: float) -> None:
        times.setdefault(what, []).append(taken)

    has_png = layout.dtype == "uint8"
    if has_png:
        (root / "png").mkdir(exist_ok=True)
        for n, picture in enumerate(pixels):
            Image.fromarray(picture).save(root / "png" / f"{n}.png")
    for _ in range(repeats):
        again = (*new_set(engine, layout), pixels)
        note(
            "write a block and its rows",
            seconds(lambda again=again: write_block(engine, root, *again)),
        )
        note("write raw, synced", seconds(lambda: write_raw(raw, pixels)))
        note("read a block", seconds(lambda: read_block(root, path, 0, 0, N - 1)))
        note("read raw", seconds(lambda: np.fromfile(raw, pixels.dtype)))
        for n in singles:
            note("read one", seconds(lambda n=n: read_one(root, path, 0, n)))
            note("read one raw", seconds(lambda n=n: read_one_raw(raw, layout, n)))
            if has_png:
                note(
                    "decode one PNG",
                    seconds(lambda n=n: np.asarray(Image.open(root / f"png/{n}.png"))),
                )
        if has_png:
            note("decode the PNGs", seconds(lambda: decode_all(root / "png")))
    report(layout, pixels, root / path, times)


def read_one_raw(path: Path, layout: Layout, n: int) -> np.ndarray:
    count = int(np.prod(layout.shape))
    offset = n * count * np.dtype(layout.dtype).itemsize
    return np.fromfile(path, layout.dtype, count, offset=offset).reshape(layout.shape)


def report(layout: Layout, pixels: np.ndarray, folder: Path, times: dict[str, list[float]]) -> None:
    shard = folder / "pixels" / "c.0.0.0.0"
    print(
        f"\n{N} cutouts of {layout.shape} {layout.dtype}: {pixels.nbytes / 1e6:.0f} MB, "
        f"{pixels.nbytes / shard.stat().st_size:.2f}x smaller on disk"
    )
    for what, taken in times.items():
        middle, late = median(taken), float(np.percentile(taken, 95))
        rate = f"{pixels.nbytes / middle / 1e6:8.0f} MB/s" if "one" not in what else " " * 13
        print(f"  {what:28s} {middle * 1e3:9.2f} ms {rate}   95 %: {late * 1e3:9.2f} ms")


def compare_codecs(root: Path, layout: Layout, repeats: int) -> None:
    """Print ratio and times of codecs and chunk sizes, taken in turns."""
    pixels = galaxies(layout)
    ways = list(product(CODECS, (2, 8, 32)))
    arrays = {way: make_array(root / f"{n}", layout, *way) for n, way in enumerate(ways)}
    times: dict[tuple[str, int], list[tuple[float, float, float]]] = {way: [] for way in ways}
    for way in ways * repeats:
        times[way].append(tuple(measure(arrays[way], pixels)))  # type: ignore[arg-type]
    print(f"\n{N} cutouts of {layout.shape} {layout.dtype}")
    print(f"  {'codec':30s} chunk  ratio   write    read [MB/s]   one [ms]")
    for way in ways:
        write, read, one = np.median(times[way], axis=0)
        ratio = pixels.nbytes / arrays[way].nbytes_stored()
        rates = f"{pixels.nbytes / write / 1e6:7.0f} {pixels.nbytes / read / 1e6:7.0f}"
        print(f"  {way[0]:30s} {way[1]:5d} {ratio:6.2f} {rates} {one * 1e3:16.2f}")


def make_array(folder: Path, layout: Layout, codec: str, chunk: int) -> zarr.Array:
    return zarr.create_array(
        folder,
        shape=(N, *layout.shape),
        shards=(N, *layout.shape),
        chunks=(chunk, *layout.shape),
        dtype=layout.dtype,
        compressors=CODECS[codec] or None,
    )


def measure(array: zarr.Array, pixels: np.ndarray) -> Iterator[float]:
    """Seconds to write a block, to read it, and to read one cutout of it."""

    def write() -> None:
        array[:] = pixels

    yield seconds(write)
    yield seconds(lambda: array[:])
    yield median(seconds(lambda n=n: array[n]) for n in range(7, N, 51))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--codecs", action="store_true", help="compare codecs, too")
    options = parser.parse_args()
    with scratch_database() as engine, tempfile.TemporaryDirectory() as folder:
        for layout in (DISPLAY, FLUX):
            root = Path(folder, layout.dtype)
            root.mkdir()
            compare(engine, root, layout, options.repeats)
            if options.codecs:
                compare_codecs(root, layout, options.repeats)


if __name__ == "__main__":
    main()
