import pytest
from flask import Flask
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from tests.web.conftest import Site
from web.database import writing_session
from web.requests import CrossSite, same_origin


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://sky.example"},
        {"Origin": "https://sky.example"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "https://outside-the-proxy.example"},
    ],
)
def test_our_own_pages_and_programs_may_change_things(headers: dict[str, str]) -> None:
    with Flask("test").test_request_context(
        method="POST", base_url="http://sky.example", headers=headers
    ):
        assert same_origin() is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://sky.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://sky.example:81"},
        {"Origin": "http://sky.example.evil.example"},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_sites_may_not(headers: dict[str, str]) -> None:
    with (
        Flask("test").test_request_context(
            method="POST", base_url="http://sky.example", headers=headers
        ),
        pytest.raises(CrossSite),
    ):
        same_origin()


def test_an_error_undoes_what_a_view_wrote(site: Site) -> None:
    def write(statement: str) -> None:
        with writing_session() as session:
            session.execute(text("UPDATE catalog SET release = 'changed'"))
            session.execute(text(statement))

    with site.app.test_request_context():
        with pytest.raises(ProgrammingError):
            write("SELECT no_such_column")
        with writing_session() as session:
            changed = session.scalar(text("SELECT count(*) FROM catalog WHERE release = 'changed'"))

    assert changed == 0
