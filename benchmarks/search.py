"""Nearest neighbours: PostgreSQL against hnswlib, FAISS and scikit-learn, in one run.

    python benchmarks/search.py                                  # 300,000 vectors of 40 numbers
    python benchmarks/search.py --rows 300000 1000000 --dims 10 40 1280
    python benchmarks/search.py --like embeddings.npy            # enlarge a sample of real ones

Needs the extra `benchmarks` (faiss-cpu, hnswlib; the latter is compiled). Every approximate search
runs with the least effort (`ef`) that finds 0.99 of the true 50 nearest. SQL times are of the whole
round trip, with the vector sent as text and the rows fetched. Uses a database of its own on
DATABASE_URL's server or the embedded one, and drops it again.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import faiss
import hnswlib
import numpy as np
from ingest import scratch_database
from numpy.typing import NDArray
from sklearn.neighbors import BallTree
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from db import binary_copy, search, search_index
from db.predicates import annotated_source
from db.tables import N_REDUCED, ModelVersion

K = 50
N_QUERIES = 100
AIM = 0.99  # recall
EFFORTS = (50, 75, 100, 150, 200, 300, 400, 600, 800)
M, EF_CONSTRUCTION = search_index.M, search_index.EF_CONSTRUCTION
OPERATOR = {"l1": "<+>", "l2": "<->"}
SELECTIVITIES = (0.1, 0.01, 0.001)
SEED = 5

PREPARATION = (
    "TRUNCATE catalog, model_version, worker, search_index CASCADE",
    "INSERT INTO catalog (name, survey, column_map) VALUES ('benchmark', '', '{}')",
    "INSERT INTO model_version (annotator, name, weights_sha256, card, state)"
    " VALUES ('representations', 'benchmark.1', '', '{}', 'current')",
    "INSERT INTO worker (host, pid, device, code_version) VALUES ('', 0, '', '')",
    "INSERT INTO run (worker_id, model_version_id)"
    " SELECT worker.id, model_version.id FROM worker, model_version",
)
# mag_r is random from 0 to 1, so that a limit on it is the share of the rows that pass
SOURCES = """
    INSERT INTO source (id, catalog_id, survey_id, ra, dec, healpix, mag_r)
    OVERRIDING SYSTEM VALUE
    SELECT number, (SELECT id FROM catalog), number, 0, 0, 0, random()
    FROM generate_series(0, :n - 1) AS number
"""

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Finder = Callable[[Vectors], Ids]  # one query (d,) → the K nearest


@dataclass(frozen=True)
class Line:
    """One line of the table; times in milliseconds, memory in MiB."""

    n: int
    d: int
    metric: str
    engine: str
    ef: int | None
    recall: float
    p50: float
    p95: float
    build_seconds: float
    memory: float

    def print(self) -> None:
        """Print it in a column each."""
        print(
            f"{self.n:>9,} {self.d:>5} {self.metric:>3} {self.engine:<22} {self.ef or '':>4}"
            f" {self.recall:7.4f} {self.p50:9.2f} {self.p95:9.2f} {self.build_seconds:9.1f}"
            f" {self.memory:9,.0f}",
            flush=True,
        )


def mixture(n: int, d: int) -> Vectors:
    """Draw what features of a network look like: half of them zero, clustered, few directions."""
    random = np.random.default_rng(SEED)
    width, n_latent = max(d, 64), 16
    centres = random.normal(0, 1.5, (200, n_latent))
    layer = random.normal(0, n_latent**-0.5, (n_latent, width)).astype(np.float32)
    mixing = random.normal(0, width**-0.5, (width, d)).astype(np.float32)
    out = np.empty((n, d), np.float32)
    for first in range(0, n, 50_000):
        rows = slice(first, min(first + 50_000, n))
        m = rows.stop - rows.start
        latent = centres[random.integers(0, 200, m)] + random.normal(0, 1, (m, n_latent))
        features = np.maximum(latent.astype(np.float32) @ layer, 0)
        out[rows] = features if d == width else features @ mixing
    return halved(out)


def enlarged(sample: Vectors, n: int) -> Vectors:
    """Draw vectors around real ones, scattered as their ten nearest neighbours are."""
    random = np.random.default_rng(SEED)
    near = faiss.IndexFlatL2(sample.shape[1])
    near.add(sample)
    _, neighbours = near.search(sample, 11)
    out = np.empty((n, sample.shape[1]), np.float32)
    for first in range(0, n, 10_000):
        rows = slice(first, min(first + 10_000, n))
        centre = random.integers(0, len(sample), rows.stop - rows.start)
        away = sample[neighbours[centre, 1:]] - sample[centre, None]  # (m, 10, d)
        weights = random.normal(0, 10**-0.5, away.shape[:2]).astype(np.float32)
        out[rows] = sample[centre] + np.einsum("mj,mjd->md", weights, away)
    return halved(out)


def halved(vectors: Vectors) -> Vectors:
    """Round to half precision, so that every engine searches the same numbers."""
    return vectors.astype(np.float16).astype(np.float32)


def truth(vectors: Vectors, queries: Vectors, metric: str) -> tuple[Ids, NDArray]:
    """Find the K nearest by brute force: ids and distance of the last, (q, K) and (q,)."""
    faiss.omp_set_num_threads(2)
    flat = faiss.IndexFlat(vectors.shape[1], _faiss_metric(metric))
    flat.add(vectors)
    _, ids = flat.search(queries, K)
    return ids, distances(vectors, queries, ids[:, -1:], metric)[:, 0]


def distances(vectors: Vectors, queries: Vectors, ids: Ids, metric: str) -> NDArray:
    """Distances from each query to the vectors of its ids, (q, k)."""
    difference = (vectors[ids] - queries[:, None]).astype(np.float64)
    if metric == "l1":
        return np.abs(difference).sum(axis=2)
    return np.sqrt((difference**2).sum(axis=2))


@dataclass
class Task:
    """Vectors, queries and the right answers."""

    vectors: Vectors
    queries: Vectors
    metric: str

    def __post_init__(self) -> None:
        _, self.farthest = truth(self.vectors, self.queries, self.metric)

    @property
    def size(self) -> tuple[int, int]:
        """Number and length of the vectors."""
        return len(self.vectors), self.vectors.shape[1]

    def first(self, n_queries: int) -> Task:
        """The same with fewer queries, for what takes long."""
        return Task(self.vectors, self.queries[:n_queries], self.metric)

    def measure(self, engine: str, finder: Finder, build: float, memory: float, ef: Any) -> Line:
        """Time a finder on every query; what is as near as the true last one counts as found."""
        times, found = [], []
        finder(self.queries[0])
        for query in self.queries:
            start = time.perf_counter()
            found.append(finder(query))
            times.append(1000 * (time.perf_counter() - start))
        far = distances(self.vectors, self.queries, np.array(found), self.metric)
        recall = float((far <= self.farthest[:, None] * (1 + 1e-5)).sum(axis=1).mean() / K)
        p50, p95 = np.percentile(times, [50, 95])
        return Line(*self.size, self.metric, engine, ef, recall, p50, p95, build, memory)

    def least_effort(
        self, engine: str, finder_at: Callable[[int], Finder], build: float, memory: float
    ) -> Line:
        """Measure with the smallest ef that reaches the aim, or with the largest tried."""
        for ef in EFFORTS:
            line = self.measure(engine, finder_at(ef), build, memory, ef)
            if line.recall >= AIM:
                break
        return line


def peers(task: Task) -> Iterator[Line]:
    """Measure the libraries that work in the memory of one process, a core per query."""
    n, d = task.size
    flat_bytes = n * d * 4 / 2**20
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlat(d, _faiss_metric(task.metric))
    flat.add(task.vectors)
    yield task.measure("FAISS flat", _faiss_finder(flat), 0, flat_bytes, None)
    del flat
    if d <= 40:
        with building() as built:
            tree = BallTree(task.vectors, metric="manhattan" if task.metric == "l1" else "l2")
        yield task.measure(
            "BallTree", lambda q: tree.query(q[None], K)[1][0], built.seconds, built.memory, None
        )
        del tree
    if task.metric == "l2":  # hnswlib has no L1
        with building() as built:
            graph = hnswlib.Index("l2", d)
            graph.init_index(n, EF_CONSTRUCTION, M, random_seed=SEED)
            graph.add_items(task.vectors)
        graph.set_num_threads(1)
        yield task.least_effort("hnswlib", lambda ef: _hnswlib_finder(graph, ef), *built.cost)
        del graph
    faiss.omp_set_num_threads(2)
    with building() as built:
        hnsw = faiss.IndexHNSWFlat(d, M, _faiss_metric(task.metric))
        hnsw.hnsw.efConstruction = EF_CONSTRUCTION
        hnsw.add(task.vectors)
    faiss.omp_set_num_threads(1)
    yield task.least_effort("FAISS HNSW", lambda ef: _faiss_hnsw_finder(hnsw, ef), *built.cost)


@dataclass
class Built:
    """What building took."""

    seconds: float = 0.0
    memory: float = 0.0  # MiB

    @property
    def cost(self) -> tuple[float, float]:
        """Both numbers."""
        return self.seconds, self.memory


@contextmanager
def building() -> Iterator[Built]:
    """Measure the time and the growth of this process while something is built."""
    built, before, start = Built(), resident(), time.perf_counter()
    yield built
    built.seconds, built.memory = time.perf_counter() - start, resident() - before


def resident() -> float:
    """Memory of this process [MiB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def _faiss_metric(metric: str) -> int:
    return faiss.METRIC_L1 if metric == "l1" else faiss.METRIC_L2


def _faiss_finder(index: Any) -> Finder:
    return lambda query: index.search(query[None], K)[1][0]


def _faiss_hnsw_finder(index: Any, ef: int) -> Finder:
    index.hnsw.efSearch = ef
    return _faiss_finder(index)


def _hnswlib_finder(index: Any, ef: int) -> Finder:
    index.set_ef(ef)
    return lambda query: index.knn_query(query[None], K)[0][0].astype(np.int64)


def plain_sql(engine: Engine, task: Task) -> Iterator[Line]:
    """Measure pgvector on a bare table: exact scan, then an HNSW index as Skygloss builds it."""
    n, d = task.size
    driver = engine.raw_connection()
    cursor: Any = driver.cursor()
    cursor.execute("DROP TABLE IF EXISTS bare")
    cursor.execute(f"CREATE TABLE bare (id bigint, v halfvec({d}))")
    cursor.execute("ALTER TABLE bare ALTER COLUMN v SET STORAGE PLAIN")
    rate = load(cursor, task.vectors)
    driver.commit()
    driver.driver_connection.autocommit = True
    cursor.execute("VACUUM ANALYZE bare")
    table = _size(cursor, "bare")
    few = task.first(20)
    yield few.measure("pgvector exact", _sql_finder(cursor, task.metric), n / rate, table, None)
    cursor.execute("SET maintenance_work_mem = '6GB'; SET max_parallel_maintenance_workers = 1")
    start = time.perf_counter()
    cursor.execute(
        f"CREATE INDEX bare_v ON bare USING hnsw (v halfvec_{task.metric}_ops)"
        f" WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
    )
    seconds = time.perf_counter() - start
    memory = _size(cursor, "bare") + _size(cursor, "bare_v")

    def at(ef: int) -> Finder:
        cursor.execute(f"SET hnsw.ef_search = {ef}")
        return _sql_finder(cursor, task.metric)

    yield task.least_effort("pgvector HNSW", at, seconds, memory)
    driver.close()


def load(cursor: Any, vectors: Vectors) -> float:
    """COPY the vectors with their numbers; rows per second."""
    start = time.perf_counter()
    for first in range(0, len(vectors), 20_000):
        part = vectors[first : first + 20_000].astype(np.float16)
        copy(cursor, "bare (id, v)", [np.arange(first, first + len(part)), part])
    return len(vectors) / (time.perf_counter() - start)


def copy(cursor: Any, table: str, columns: Sequence[NDArray]) -> None:
    """COPY columns in, as Skygloss does."""
    fields = [np.ma.MaskedArray(column) for column in columns]
    packed, _ = binary_copy.pack_fields(fields, len(fields))
    rows = binary_copy.HEADER + packed.tobytes() + binary_copy.TRAILER
    cursor.copy_expert(f"COPY {table} FROM STDIN (FORMAT binary)", io.BytesIO(rows), size=2**20)


def _sql_finder(cursor: Any, metric: str) -> Finder:
    statement = f"SELECT id FROM bare ORDER BY v {OPERATOR[metric]} %s::halfvec LIMIT {K}"  # noqa: S608

    def find(query: Vectors) -> Ids:
        cursor.execute(statement, ("[" + ",".join(map(str, query.tolist())) + "]",))
        return np.array([row[0] for row in cursor.fetchall()])

    return find


def _size(cursor: Any, relation: str) -> float:
    cursor.execute("SELECT pg_table_size(%s) / 2.0^20", (relation,))
    return float(cursor.fetchone()[0])


def fill(engine: Engine, vectors: Vectors) -> int:
    """Fill `source` and `representation`; the id of the model version. Vector i is of source i."""
    with engine.begin() as connection:
        for statement in PREPARATION:
            connection.execute(text(statement))
        connection.execute(text(SOURCES), {"n": len(vectors)})
        ids = connection.execute(
            text("SELECT (SELECT id FROM model_version), (SELECT id FROM run)")
        ).one()
        cursor: Any = connection.connection.cursor()
        for first in range(0, len(vectors), 20_000):
            part = vectors[first : first + 20_000].astype(np.float16)
            n = len(part)
            numbers = [np.full(n, value) for value in ids]
            flags = np.zeros(n, np.int32)
            columns = "(source_id, model_version_id, run_id, flags, reduced)"
            source_ids = np.arange(first, first + n)
            copy(cursor, f"representation {columns}", [source_ids, *numbers, flags, part])
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE source, representation"))
    return int(ids[0])


def skygloss(engine: Engine, task: Task) -> Iterator[Line]:
    """Measure `db.search.nearest`, from the vector to the answer: exact, by index, filtered."""
    version_id = fill(engine, task.vectors)
    with Session(engine) as session:

        def finder(**options: Any) -> Finder:
            def find(query: Vectors) -> Ids:
                wanted = search.Query(query, version_id, metric=task.metric, k=K, **options)  # type: ignore[arg-type]
                return np.array(search.nearest(session, wanted).source_ids)

            return find

        few = task.first(20)
        yield few.measure("skygloss exact", finder(exact=True), 0, 0, None)
        with building() as built:
            version = session.get_one(ModelVersion, version_id)
            session.commit()  # an open transaction would hold back the build
            index = search_index.build(engine, version, task.metric, force=True)
        size = index.size_bytes / 2**20
        yield task.measure("skygloss", finder(), built.seconds, size, None)
        for selectivity in SELECTIVITIES:
            rows = np.flatnonzero(magnitudes(engine) < selectivity)
            if len(rows) < K:
                continue
            inner = Task(task.vectors[rows], few.queries, task.metric)
            where = annotated_source.c.mag_r < selectivity

            def among(query: Vectors, rows: Ids = rows, where: Any = where) -> Ids:
                return np.searchsorted(rows, finder(where=where)(query))

            line = inner.measure(f"skygloss {selectivity:.1%} pass", among, 0, 0, None)
            yield replace(line, n=len(task.vectors))


def magnitudes(engine: Engine) -> NDArray[np.float32]:
    """The random magnitude of each source."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT mag_r FROM source ORDER BY id")).scalars().all()
    return np.array(found, np.float32)


def compare(
    engine: Engine, vectors: Vectors, metric: str, ways: Sequence[str], out: Path | None
) -> None:
    """Print, and append to a file of JSON lines, what each engine does with the same vectors."""
    task = Task(vectors[N_QUERIES:], vectors[:N_QUERIES], metric)
    known: dict[str, Callable[[], Iterator[Line]]] = {
        "skygloss": lambda: skygloss(engine, task),
        "sql": lambda: plain_sql(engine, task),
        "peers": lambda: peers(task),
    }
    if vectors.shape[1] != N_REDUCED:
        del known["skygloss"]
    for line in chain.from_iterable(known[way]() for way in ways if way in known):
        line.print()
        if out:
            with out.open("a") as file:
                file.write(json.dumps(asdict(line)) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[300_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[40])
    parser.add_argument("--metrics", nargs="+", default=["l1", "l2"], choices=list(OPERATOR))
    parser.add_argument("--ways", nargs="+", default=["skygloss", "sql", "peers"])
    parser.add_argument("--like", type=Path, help="an .npy of real vectors, (n, d), to enlarge")
    parser.add_argument("--out", type=Path, help="append the lines as JSON to this file")
    options = parser.parse_args()
    sample = np.load(options.like) if options.like else None
    print(
        f"{'vectors':>9} {'dims':>5} {'':>3} {'engine':<22} {'ef':>4} {'recall':>7} {'p50 ms':>9}"
        f" {'p95 ms':>9} {'build s':>9} {'MiB':>9}"
    )
    with scratch_database() as engine:
        for n in options.rows:
            for d in options.dims:
                wanted = n + N_QUERIES
                vectors = mixture(wanted, d) if sample is None else enlarged(sample[:, :d], wanted)
                for metric in options.metrics:
                    compare(engine, vectors, metric, options.ways, options.out)


if __name__ == "__main__":
    main()
