import subprocess
import sys

from sqlalchemy import Engine

from web import create_app

HEAVY = "keras tensorflow jax torch zarr astropy matplotlib sklearn scipy skimage workers"


def test_the_pages_start_without_networks_and_other_heavy_libraries() -> None:
    script = f"""
import sys
from web import create_app
create_app()
print(*[name for name in {HEAVY.split()!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == []


def test_the_first_page_is_the_list_of_sources(engine: Engine) -> None:
    client = create_app(engine).test_client()

    assert client.get("/").location == "/sources"


def test_an_empty_database_explains_how_to_begin(engine: Engine) -> None:
    client = create_app(engine).test_client()

    page = client.get("/sources").text

    assert "Nothing here yet" in page
    assert "skygloss ingest catalog" in page
    assert "skygloss demo" in page


def test_every_page_works_on_an_empty_database(engine: Engine) -> None:
    client = create_app(engine).test_client()

    pages = ["/sources?view=table", "/sources.csv", "/status", "/models", "/healthz", "/readyz"]

    assert {path: client.get(path).status_code for path in pages} == dict.fromkeys(pages, 200)
