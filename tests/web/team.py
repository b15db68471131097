"""A team with accounts, its label classes and a small map, behind an application of its own."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from db import experts, label_classes
from db.tables import Audit, ExposureCell, Label
from tests.builders import make_exposure, make_model_version, make_prototypes, make_run
from web import create_app

PASSWORD = "bright stars are heavy"
ROLES = {"ada": "expert", "bob": "expert", "vera": "viewer", "root": "admin"}


@dataclass
class Team:
    """The application, and the numbers of what is in its database."""

    app: Flask
    engine: Engine
    good: int
    bad: int
    version: int
    exposures: list[int]  # 0 and 1 in cell (0, 0), 2 in cell (0, 1)
    clients: dict[str, FlaskClient] = field(default_factory=dict)

    def visitor(self) -> FlaskClient:
        """A browser in which nobody is signed in."""
        return self.app.test_client()

    def browser(self, name: str) -> FlaskClient:
        """A browser in which somebody is signed in."""
        if name not in self.clients:
            client = self.visitor()
            assert sign_in(client, name).status_code == 303
            self.clients[name] = client
        return self.clients[name]

    def cell(self, row: int, column: int) -> str:
        return f"cell:{self.version}:{row}:{column}"

    def exposure(self, k: int) -> str:
        return f"exposure:{self.exposures[k]}"

    def say(self, name: str, path: str = "/labels", **body: object) -> TestResponse:
        """Send JSON as the page does, under a name that is new unless it is given."""
        return self.browser(name).post(path, json={"request": secrets.token_hex(8), **body})

    def n_labels(self) -> int:
        with Session(self.engine) as session:
            return session.scalar(select(func.count()).select_from(Label)) or 0

    def audited(self) -> list[tuple[str, str]]:
        """What was audited: the action and its subject."""
        with Session(self.engine) as session:
            rows = session.execute(select(Audit.action, Audit.subject).order_by(Audit.id))
            return [(row.action, row.subject) for row in rows]

    def change(self, statement: str) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement))


def sign_in(
    client: FlaskClient, name: str, password: str = PASSWORD, next_page: str = "/"
) -> TestResponse:
    return client.post("/sign-in", data={"name": name, "password": password, "next": next_page})


def gather(engine: Engine, pixels: Path | None = None) -> Team:
    """Fill an empty database."""
    with Session(engine) as session, session.begin():
        for name, role in ROLES.items():
            experts.add(session, name, PASSWORD, role)
        good = label_classes.add(session, "Good", key="1")
        bad = label_classes.add(session, "Bad seeing", key="2")
        version = make_model_version(session, annotator="exposure_map", state="current")
        make_prototypes(session, version, 2, 3)
        run = make_run(session, version)
        exposures = [make_exposure(session, 0) for _ in range(3)]
        for exposure, column in zip(exposures, (0, 0, 1), strict=True):
            session.add(
                ExposureCell(
                    exposure_id=exposure.id,
                    model_version_id=version.id,
                    cell_row=0,
                    cell_column=column,
                    quantization_error=0.5,
                    margin=0.1,
                    flags=0,
                    run_id=run.id,
                )
            )
        numbers = [exposure.id for exposure in exposures]
        return Team(create_app(engine, pixels), engine, good.id, bad.id, version.id, numbers)


def words(page: str) -> str:
    """The text of a page, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
