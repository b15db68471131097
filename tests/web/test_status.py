import re

import sqlalchemy as sa
from flask.testing import FlaskClient
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from db.tables import CatalogFile, Job, Worker
from tests.builders import make_catalog, make_exposure, make_model_version
from tests.web.conftest import Site
from web import create_app


def test_status_shows_catalogs_with_their_rejections(client: FlaskClient) -> None:
    page = client.get("/status").text

    assert "field.fits" in page
    assert re.search(r'href="/catalogs/field/rejections">1</a>', page)


def test_status_shows_progress_and_failures_with_their_errors(client: FlaskClient) -> None:
    page = client.get("/status").text

    assert "30 of 31 sources" in page
    assert "1 failed" in page
    assert "bad &lt;pixels&gt;" in page


def test_status_counts_exposures_as_exposures(engine: Engine) -> None:
    card = {"subject": "exposure", "summary": "A map."}
    with Session(engine) as session, session.begin():
        version = make_model_version(session, annotator="exposure_map", state="current", card=card)
        exposures = [make_exposure(session, 2) for _ in range(2)]
        for exposure, state in zip(exposures, ("done", "failed"), strict=True):
            job = {"model_version_id": version.id, "block_id": exposure.block_id, "state": state}
            session.add(Job(**job, first=0, last=0, attempt=1, error="bad"))
        name = version.name
    client = create_app(engine).test_client()

    page = client.get("/status").text

    assert "1 of 2 exposures" in page
    assert re.search(r"block \d+, an exposure</summary>", page)
    assert (
        f'href="/maps/exposure_map?version={name}"'
        in client.get(f"/models/exposure_map/{name}").text
    )


def test_status_shows_workers_with_their_device_and_why_no_gpu(
    site: Site, client: FlaskClient
) -> None:
    with Session(site.engine) as session, session.begin():  # other tests may have taken a minute
        session.execute(sa.update(Worker).values(heartbeat_at=sa.func.now()))

    page = client.get("/status").text

    assert '<span class="worker alive">alive</span>' in page
    assert "no CUDA" in page


def test_status_refreshes_itself_with_and_without_scripts(client: FlaskClient) -> None:
    page = client.get("/status").text

    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in page
    assert 'id="live" data-refresh="5"' in page


def test_rejected_rows_are_listed_with_reasons(client: FlaskClient) -> None:
    page = client.get("/catalogs/field/rejections").text

    assert "ra is NaN" in page
    assert "src-bad" in page


def test_a_catalog_may_have_a_slash_in_its_name(engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        catalog = make_catalog(session, name="dr10/south")
        rejecting = {"name": "sweep.fits", "fingerprint": "test", "n_rejected": 1}
        session.add(CatalogFile(catalog_id=catalog.id, **rejecting))
    client = create_app(engine).test_client()

    address = re.search(r'href="([^"]+/rejections)">1</a>', client.get("/status").text)

    assert address
    assert "dr10/south" in client.get(address[1]).text


def test_a_model_page_shows_metrics_with_intervals_and_limits(client: FlaskClient) -> None:
    page = client.get("/models/shreds/residual.v1").text

    assert "How this was measured: Cross-validation by groups. The intervals" in page
    assert "0.980" in page
    assert "0.960 to 0.990" in page
    assert "made-up discs" in page
    assert "Compact background galaxies." in page
    assert "Its opinions are the ones shown." in page


def test_a_model_page_shows_units_of_metrics_and_what_errors_are_multiplied_with(
    client: FlaskClient,
) -> None:
    page = client.get("/models/pair_flux/shares.v1").text

    metrics = re.findall(r'<th scope="row">(.*?)</th>\s*<td class="n big">(.*?)</td>', page)
    assert metrics == [
        ('flux MAPE <span class="unit">[%]</span>', "5.310"),
        ("coverage of the 68 % interval", "0.681"),
    ]
    assert "<dt>interval 95</dt><dd>1.93</dd>" in page
    assert 'href="/sources?blend_min=0.5"' in page


def test_a_model_page_has_the_network_and_sep_side_by_side_in_natural_order(
    client: FlaskClient,
) -> None:
    page = client.get("/models/blends/rings.v1").text

    table = page[page.index("Beside sep") :].split("</table>")[0]
    cells = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", table))
    assert "accuracy sigma 5 0.976 0.981 −0.005" in cells
    assert "accuracy sigma 40 0.943 0.930 to 0.950 0.660 +0.283" in cells
    assert cells.index("sigma 5") < cells.index("sigma 40")


def test_models_are_listed_with_their_states(client: FlaskClient, site: Site) -> None:
    page = client.get("/models").text

    assert page.index("residual.v1") < page.index("published.v1")
    assert "candidate" in page


def test_health_and_readiness(client: FlaskClient) -> None:
    assert client.get("/healthz").json == {"status": "ok"}
    assert client.get("/readyz").json == {"status": "ok"}
