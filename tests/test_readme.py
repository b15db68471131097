"""What the README and the guides promise: their commands run, their links lead somewhere."""

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import httpx
import numpy as np
import pytest
from astropy.table import Table
from PIL import Image

import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SKYGLOSS = Path(sys.executable).with_name("skygloss")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
COMMAND = re.compile(r"skygloss ([a-z]+)(?: ([a-z_]+))?")
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> list[list[str]]:
    """Return the commands of each bash block, without their comments."""
    lines = [block.splitlines() for block in BLOCK.findall(page.read_text())]
    return [[line.split("  #")[0].rstrip() for line in block if line] for block in lines]


def exists(name: str, word: str) -> bool:
    """Tell whether `skygloss name word` is a command, or `word` an argument of `skygloss name`."""
    context = click.Context(cli.main)
    command = cli.main.get_command(context, name)
    if isinstance(command, click.Group) and word:
        return command.get_command(context, word) is not None
    return command is not None


@pytest.fixture
def catalog_folder(tmp_path: Path) -> Path:
    """A folder with `sources.fits` and a cutout of each source in `cutouts/`."""
    folder = tmp_path / "work"
    (folder / "cutouts").mkdir(parents=True)
    ids = np.arange(1001, 1005)
    Table({"objID": ids, "ra": 150.0 + ids / 1e4, "dec": ids / 1e3}).write(folder / "sources.fits")
    random = np.random.default_rng(0)
    for survey_id in ids:
        pixels = random.integers(0, 60, (128, 128, 3), dtype=np.uint8)
        pixels[56:72, 56:72] = 200
        Image.fromarray(pixels).save(folder / "cutouts" / f"{survey_id}.png")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(url: str, server: subprocess.Popen[str], seconds: float = 90) -> httpx.Response:
    """Return the first answer of a page that a process is about to serve."""
    end = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < end:
        try:
            return httpx.get(url, follow_redirects=True)
        except httpx.TransportError:
            time.sleep(0.2)
    server.kill()
    raise AssertionError(f"{url} never answered; the server said:\n{server.communicate()[0]}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]

    missing = [target for target in targets if not (page.parent / target).exists()]

    assert missing == []


def test_the_first_two_commands_are_targets_of_the_makefile() -> None:
    commands = blocks(ROOT / "README.md")[0]

    makefile = (ROOT / "Makefile").read_text()

    assert [command.split()[0] for command in commands] == ["make", "make"]
    assert all(re.search(rf"^{c.split()[1]}:", makefile, re.MULTILINE) for c in commands)


def test_the_commands_for_your_own_catalog_lead_to_an_annotated_page(
    catalog_folder: Path, environment: dict[str, str]
) -> None:
    *commands, serve = next(b for b in blocks(ROOT / "README.md") if "ingest" in b[0])

    for command in commands:
        typed(command, catalog_folder)

    assert serve == "skygloss serve"
    port = free_port()
    server = subprocess.Popen(
        [SKYGLOSS, "serve", "--port", str(port)],
        cwd=catalog_folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    page = wait_for(f"http://127.0.0.1:{port}/", server)
    server.send_signal(signal.SIGTERM)
    server.communicate(timeout=30)
    assert page.status_code == 200
    assert "1001" in page.text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_for_exposures_lead_to_a_score_of_the_map(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    *commands, serve = next(b for b in blocks(ROOT / "README.md") if "simulate" in b[0])

    said = {}
    for command in commands:
        asks = command.startswith("skygloss users add")
        said[command.split()[1]] = typed(
            f"{command} --password-stdin" if asks else command, tmp_path, "a long password\n"
        )

    assert serve == "skygloss serve"
    assert "exposure_map desom2.camera-1: 24 of 24 exposures done" in said["annotate"]
    assert "24" in said["labels"]
    assert "always Good" in said["evaluate"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_for_blends_lead_to_opinions_and_a_score(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    *commands, serve = next(b for b in blocks(ROOT / "README.md") if "simulate blends" in b[0])

    said = {command.split()[1]: typed(command, tmp_path) for command in commands}

    assert serve == "skygloss serve"
    assert re.search(r"blends \S+: 100 of 100 sources done", said["annotate"])
    assert re.search(r"pair_flux \S+: 100 of 100 sources done", said["annotate"])
    assert "sep" in said["evaluate"]


def typed(command: str, folder: Path, given: str = "") -> str:
    """Run a command of the README in a folder; what it printed."""
    arguments = [SKYGLOSS, *command.split()[1:]]
    done = subprocess.run(arguments, cwd=folder, input=given, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_the_demo_annotates_every_source_of_its_field(environment: dict[str, str]) -> None:
    port = free_port()

    demo = subprocess.Popen(
        [SKYGLOSS, "demo", "--port", str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    page = wait_for(f"http://127.0.0.1:{port}/", demo, seconds=240)
    demo.send_signal(signal.SIGINT)
    said, _ = demo.communicate(timeout=30)

    assert page.status_code == 200
    assert "XDF-" in page.text
    assert f"http://127.0.0.1:{port}" in said


def test_the_demo_takes_a_survey_folder_and_leaves_it_as_it_is_the_second_time(
    catalog_folder: Path, environment: dict[str, str]
) -> None:
    (catalog_folder / "sources.fits").rename(catalog_folder / "catalog.fits")
    (catalog_folder / "cutouts").rename(catalog_folder / "images")
    demo = [SKYGLOSS, "demo", "--survey", "legacy", catalog_folder, "--no-serve"]

    said = [subprocess.run(demo, capture_output=True, text=True).stdout for _ in range(2)]

    assert "8 annotations written" in said[0]
    assert "0 annotations written" in said[1]
    assert "4 of 4 sources done" in said[1]


def test_every_command_the_guides_name_exists() -> None:
    named = {match for page in PAGES for match in COMMAND.findall(page.read_text())}

    missing = [f"{group} {word}" for group, word in named if not exists(group, word)]

    assert named
    assert missing == []


def test_the_commands_are_listed_without_loading_what_they_need() -> None:
    program = "import sys, cli; cli.main(['--help'], standalone_mode=False); print(*sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    loaded = set(done.stdout.splitlines()[-1].split())
    assert "annotate" in done.stdout
    assert not loaded & {"keras", "tensorflow", "sqlalchemy", "flask", "astropy"}


def test_make_lists_its_targets() -> None:
    done = subprocess.run(
        [shutil.which("make") or "make", "-C", ROOT], capture_output=True, text=True
    )

    assert "make demo" in done.stdout
    assert "make test" in done.stdout
