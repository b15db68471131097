"""Blind mode: no page or download tells a blind reader what others say, in any way."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from flask import url_for
from sqlalchemy import URL, select
from sqlalchemy.orm import Session

from db import selections
from db.engine import create_engine
from db.tables import N_REDUCED, Representation, Source
from tests.builders import make_model_version, make_run
from tests.conftest import new_database
from tests.web import maps
from tests.web.maps import Atlas

OF_SOURCES = ("sources.listing", "sources.download", "sources.votable_download")
OF_SEARCH = ("search.page", "search.answer", "search.download", "search.votable_download")
PICTURES = (
    "cutouts.picture",
    "cutouts.thumbnail",
    "exposures.density_map",
    "exposures.preview",
    "maps.sprite",
    "projections.picture",
    "projections.scale",
    "uploads.picture",
)
SILENT = (  # about neither sources, exposures nor labels, or what was tried apart
    *("home", "static", "health.healthz", "health.readyz", "status.status", "status.rejections"),
    *("accounts.account", "accounts.audit_page", "accounts.sign_in", "uploads.state"),
    *("versions.listing", "versions.card", "projections.listing", "projections.page"),
    *("projections.at", "selections.listing", "label_classes.page"),
    "disagreements.queue",  # tells which subjects others labelled, by intent; not how
)


@dataclass(frozen=True)
class Page:
    """A page as a blind reader finds it, before others spoke and after."""

    before: bytes
    after: bytes


def _asked(atlas: Atlas) -> Iterator[tuple[str, dict[str, object]]]:
    """Every view that could tell, with what to ask it for."""
    source, exposure, team = atlas.sources[0], atlas.exposures[0], atlas.team
    for view in OF_SOURCES:
        yield view, {}
        yield view, {"selection": "kept"}
    for view in OF_SEARCH:
        yield view, {"id": source}
    yield "sources.one", {"source_id": source}
    yield "exposures.listing", {}
    yield "exposures.listing", {"label": team.bad}
    yield "exposures.listing", {"propagated": team.bad}
    for name in ("one", "sources", "histogram_json", "histogram_csv"):
        yield f"exposures.{name}", {"exposure_id": exposure}
    yield "maps.listing", {}
    for annotator, row, column in (("exposure_map", 1, 2), ("source_map", 0, 1)):
        yield "maps.grid", {"annotator": annotator}
        yield "maps.grid", {"annotator": annotator, "show": "labels"}
        for name in ("cell", "members"):
            yield f"maps.{name}", {"annotator": annotator, "row": row, "column": column}
    for subject in (f"source:{source}", f"exposure:{exposure}", team.cell(1, 2)):
        yield "labels.said", {"subject": subject}
    yield "label_history.page", {}
    yield "labels.last", {}
    yield "disagreements.report", {"kind": "exposure"}


def _pages(atlas: Atlas) -> dict[str, bytes]:
    with atlas.team.app.test_request_context():
        addresses = [url_for(view, **asked) for view, asked in _asked(atlas)]
    vera = atlas.team.browser("vera")
    return {address: _settled(vera.get(address).data) for address in addresses}


def _settled(page: bytes) -> bytes:
    """A page without the name that its form gives to the next act, new each time."""
    return re.sub(rb'name="request" value="[^"]*"', b"", page)


@pytest.fixture(scope="module")
def atlas(
    server_url: URL, template: URL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Atlas]:
    """A map that nobody labelled, with a search and a saved selection; vera is blind."""
    with new_database(server_url, template) as url:
        engine = create_engine(url)
        atlas = maps.draw(engine, tmp_path_factory.mktemp("blind"))
        atlas.team.change("DELETE FROM label")
        atlas.team.change("UPDATE expert SET role = 'expert' WHERE name = 'vera'")
        with Session(engine) as session, session.begin():
            _represent(session, atlas.sources)
            chosen = select(Source.id).where(Source.id.in_(atlas.sources))
            selections.save(session, "kept", chosen, {})
        atlas.team.browser("vera").post("/account/blind", data={"blind": "yes"})
        yield atlas
        engine.dispose()


def _represent(session: Session, source_ids: list[int]) -> None:
    version = make_model_version(session, annotator="representations", state="current", card={})
    run = make_run(session, version)
    for k, source_id in enumerate(source_ids):
        vector = np.full(N_REDUCED, k)
        where = {"source_id": source_id, "model_version_id": version.id, "run_id": run.id}
        session.add(Representation(**where, embedding=vector, reduced=vector, flags=0))


@pytest.fixture(scope="module")
def pages(atlas: Atlas) -> dict[str, Page]:
    """Every page before and after others labelled cells, exposures and sources."""
    before, team = _pages(atlas), atlas.team
    sources = [f"source:{one}" for one in atlas.sources]
    exposures = [f"exposure:{one}" for one in atlas.exposures[:5]]
    cells = [team.cell(1, 2), *(f"cell:{atlas.source_map}:0:{column}" for column in (0, 1))]
    for name, given in (("ada", team.bad), ("bob", team.bad), ("root", team.good)):
        answer = team.say(
            name, request="r", subjects=[*sources, *exposures, *cells], label_class_id=given
        )
        assert answer.status_code == 201
        team.say(name, request="c", subjects=[sources[0]], action="comment", comment="bad, bad")
    after = _pages(atlas)
    return {address: Page(before[address], after[address]) for address in before}


@pytest.mark.parametrize(
    "view", [*OF_SOURCES, *OF_SEARCH, "sources.one", "exposures", "maps", "labels", "others"]
)
def test_what_others_say_changes_nothing_for_the_blind(
    pages: dict[str, Page], atlas: Atlas, view: str
) -> None:
    with atlas.team.app.test_request_context():
        shown = [
            url_for(one, **asked)
            for one, asked in _asked(atlas)
            if view in (one, one.split(".")[0])
            or (view == "others" and one.startswith(("label_history", "disagreements")))
        ]
    assert shown
    for address in shown:
        assert pages[address].after == pages[address].before, address


def test_who_sees_finds_the_labels_in_the_same_downloads(
    pages: dict[str, Page], atlas: Atlas
) -> None:
    ada, source = atlas.team.browser("ada"), atlas.sources[0]
    for address in ("/sources.csv", f"/search.csv?id={source}", f"/search.json?id={source}"):
        assert "Bad seeing" in ada.get(address).text
    assert ada.get("/sources.vot").data != pages["/sources.vot"].after


def test_a_blind_reader_cannot_ask_for_a_label_by_a_condition(
    pages: dict[str, Page], atlas: Atlas
) -> None:
    query = {"id": atlas.sources[0], "where": "lower(label) LIKE 'bad%' OR mag_r < 3"}

    refused = atlas.team.browser("vera").get("/search.json", query_string=query)

    assert refused.status_code == 400
    assert "a condition without the column label" in refused.text
    assert atlas.team.browser("ada").get("/search.json", query_string=query).status_code == 200


def test_every_view_that_could_tell_is_walked(atlas: Atlas) -> None:
    rules = atlas.team.app.url_map.iter_rules()
    views = {rule.endpoint for rule in rules if "GET" in (rule.methods or ())}

    assert views - {view for view, _ in _asked(atlas)} == {*PICTURES, *SILENT}
