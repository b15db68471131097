import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, delete, select
from sqlalchemy.orm import Session

from cli import main
from db import layouts, projections
from db.engine import create_engine
from db.tables import Projection, ProjectionPoint, Representation, Source
from tests.db import search_rows
from tests.db.search_rows import Rows
from workers.projections import Plan, TooFew, build, fit

N = 60


def fill(engine: Engine, n: int = N) -> Rows:
    """n sources with vectors in clumps, and one whose image was missing."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        rows = search_rows.fill(session, n)
        (blind,) = search_rows.add_sources(session, 1)
        run_id, version_id = rows.run.id, rows.version.id
        session.add(
            Representation(source_id=blind, model_version_id=version_id, run_id=run_id, flags=1)
        )
    return rows


def read(engine: Engine, name: str) -> tuple[list[int], np.ndarray]:
    """Source ids and places (n, 2) of a projection."""
    with Session(engine) as session:
        row = projections.find(session, name)
        assert row is not None
        points = session.execute(
            select(ProjectionPoint.source_id, ProjectionPoint.x, ProjectionPoint.y)
            .where(ProjectionPoint.projection_id == row.Projection.id)
            .order_by(ProjectionPoint.source_id)
        ).all()
    return [point.source_id for point in points], np.array([(p.x, p.y) for p in points], np.float32)


def test_pca_lays_out_along_the_two_largest_variances() -> None:
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(400, 5)) * [1, 9, 0.5, 4, 1] + 3).astype(np.float32)

    place, fitted, options = fit(Plan("p", 1, method="pca"), vectors)

    assert np.abs(np.corrcoef(fitted.T, vectors[:, [1, 3]].T)[:2, 2:]) == pytest.approx(
        np.eye(2), abs=0.15
    )
    assert np.allclose(fitted.mean(axis=0), 0, atol=1e-4)
    assert np.array_equal(place(vectors[:7]), fitted[:7])
    assert options["explained"] == pytest.approx([0.81, 0.16], abs=0.03)


@pytest.mark.parametrize("sample", [7, N, 1_000])
def test_every_source_with_a_vector_is_placed_whether_fitted_or_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, sample: int
) -> None:
    monkeypatch.setattr("workers.projections.CHUNK", 13)
    rows = fill(engine)

    made = build(engine, Plan("map", rows.version.id, method="pca", sample=sample))

    ids, places = read(engine, "map")
    assert ids == rows.source_ids.tolist()
    assert (made.n_points, made.n_fitted) == (N, min(sample, N))
    if sample >= N:
        _, expected, _ = fit(Plan("map", 1, method="pca"), rows.vectors)
        assert places == pytest.approx(expected, abs=1e-4)


def test_the_same_seed_gives_the_same_layout_and_another_one_another(engine: Engine) -> None:
    rows = fill(engine)
    layouts = []

    for seed in (1, 1, 2):
        build(engine, Plan("map", rows.version.id, method="pca", sample=20, seed=seed))
        layouts.append(read(engine, "map")[1])

    assert np.array_equal(layouts[0], layouts[1])
    assert not np.allclose(layouts[0], layouts[2])


@pytest.mark.parametrize("step", ["choosing", "placing", "writing"])
def test_a_crash_leaves_the_earlier_projection_and_nothing_half_built(
    engine: Engine, step: str
) -> None:
    rows = fill(engine)
    plan = Plan("map", rows.version.id, method="pca")
    before = build(engine, plan)

    @contextmanager
    def breaks(what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
        yield lambda n: None
        if what == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(engine, plan, breaks)

    with Session(engine) as session:
        (row,) = projections.listed(session)
        assert row.Projection.id == before.id
        assert set(session.scalars(select(ProjectionPoint.projection_id))) == {before.id}
    assert build(engine, plan).id > before.id


def test_sources_deleted_while_a_layout_is_computed_are_left_out(engine: Engine) -> None:
    rows = fill(engine)
    gone = rows.source_ids[:3].tolist()

    @contextmanager
    def deletes(what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
        if what == "writing":
            with Session(engine) as session, session.begin():
                session.execute(delete(Source).where(Source.id.in_(gone)))
        yield lambda n: None

    made = build(engine, Plan("map", rows.version.id, method="pca"), deletes)

    assert made.n_points == N - 3
    assert read(engine, "map")[0] == rows.source_ids[3:].tolist()


def test_a_layout_of_which_every_source_was_deleted_is_refused(engine: Engine) -> None:
    rows = fill(engine)
    places = np.zeros((1, 2), np.float32)
    projection = Projection(
        name="map", model_version_id=rows.version.id, method="pca", seed=0, n_fitted=1, options={}
    )

    with Session(engine) as session, pytest.raises(layouts.NoPoints, match="deleted meanwhile"):
        layouts.save(session, projection, np.array([10**9]), places)


def test_a_name_is_built_once_at_a_time_and_is_free_again_afterwards(
    environment: dict[str, str],
) -> None:
    engine = create_engine()
    fill(engine)

    with layouts.reserved(engine, "pca"):
        second = run("build", "--method", "pca")
        other = run("build", "other", "--method", "pca")
    third = run("build", "--method", "pca")
    engine.dispose()

    assert second.exit_code == 1
    assert "'pca' is being built by somebody else" in " ".join(second.output.split())
    assert other.exit_code == third.exit_code == 0


def test_progress_counts_every_source(engine: Engine) -> None:
    rows = fill(engine)
    counted: dict[str, list[int | None]] = {}

    @contextmanager
    def bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        done = counted.setdefault(what, [total, 0])

        def advance(n: int) -> None:
            done[1] = (done[1] or 0) + n

        yield advance

    build(engine, Plan("map", rows.version.id, method="pca"), bar)

    assert counted["placing"] == counted["writing"] == [N, N]


def test_too_few_sources_are_refused_with_what_to_do(engine: Engine) -> None:
    rows = fill(engine, n=10)

    with pytest.raises(TooFew, match=r"at least 16 sources; there are 10.*--method pca"):
        build(engine, Plan("map", rows.version.id, method="umap"))


@pytest.mark.slow
@pytest.mark.timeout(900)  # compiling UMAP alone takes half a minute of a processor
def test_umap_keeps_clumps_together_and_is_repeatable() -> None:
    random = np.random.default_rng(5)
    clump = random.integers(4, size=300)
    vectors = random.normal(0, 5, (4, 40))[clump] + random.normal(size=(300, 40))
    vectors = vectors.astype(np.float32)
    plan = Plan("map", 1, method="umap", seed=3, neighbours=10)

    place, fitted, options = fit(plan, vectors[:200])
    placed = place(vectors[200:])
    place_again, fitted_again, _ = fit(plan, vectors[:200])

    assert np.array_equal(fitted_again, fitted)
    assert np.array_equal(place_again(vectors[200:]), placed)
    assert {"software", "n_neighbors", "min_dist"} <= set(options)
    centres = np.array([fitted[clump[:200] == k].mean(axis=0) for k in range(4)])
    nearest = np.linalg.norm(placed[:, None] - centres, axis=2).argmin(axis=1)
    assert np.array_equal(nearest, clump[200:])


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["projection", *words])


def test_the_commands_build_list_and_delete(environment: dict[str, str]) -> None:
    engine = create_engine()
    version = fill(engine).version.name
    engine.dispose()

    built = run("build", "--method", "pca", "--json")
    listed = run("list", "--json")
    deleted = run("delete", "pca")

    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["n_points"] == N
    (one,) = json.loads(listed.stdout)
    assert (one["name"], one["version"], one["method"]) == ("pca", version, "pca")
    assert deleted.exit_code == 0
    assert "no projection yet" in run("list").output


def test_the_list_for_people_names_version_and_size(environment: dict[str, str]) -> None:
    engine = create_engine()
    version = fill(engine).version.name
    engine.dispose()

    built = run("build", "all of them", "--method", "pca", "--version", version)

    assert "all of them: 60 sources by pca" in built.output
    assert all(word in run("list").output for word in ("all of them", version, "pca", "60"))


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("build", "--method", "pca"), 1, "skygloss annotate"),
        (("build", "--version", "nobody.1"), 1, "nobody.1"),
        (("build", "--method", "tsne"), 2, "tsne"),
        (("build", "--neighbours", "1"), 2, "2<=x<=500"),
        (("delete", "nothing"), 1, "there are: none yet"),
    ],
)
def test_what_cannot_be_done_says_why(
    environment: dict[str, str], words: tuple[str, ...], code: int, message: str
) -> None:
    result = run(*words)

    assert result.exit_code == code
    assert message in result.output


def test_a_name_that_would_be_trouble_is_refused_before_anything_is_computed(
    environment: dict[str, str],
) -> None:
    engine = create_engine()
    fill(engine)
    engine.dispose()

    result = run("build", "a/b", "--method", "pca")

    assert result.exit_code == 1
    assert "expected a name" in result.output
