"""The container files, checked without an engine: structure, secrets, the commands they name."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli import main

ROOT = Path(__file__).resolve().parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
OURS = {name: service for name, service in SERVICES.items() if name != "db"}


def instructions(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in DOCKERFILE if line.startswith(f"{name} ")]


def commands() -> dict[str, list[str]]:
    """Every Skygloss command that the container files name, with its arguments."""
    found = {name: service["command"] for name, service in OURS.items()}
    found["Dockerfile"] = yaml.safe_load(instructions("CMD")[-1])
    return found


@pytest.mark.parametrize("where", commands())
def test_every_command_exists_with_these_options(where: str) -> None:
    program, name, *arguments = commands()[where]
    context = click.Context(main)

    command = main.get_command(context, name)

    assert program == "skygloss"
    assert command is not None
    assert command.make_context(name, arguments, parent=context).command is command


@pytest.mark.parametrize("name", sorted({command[1] for command in commands().values()}))
def test_every_command_runs(name: str) -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "cli.py"), name, "--help"], capture_output=True, text=True
    )

    assert result.returncode == 0, result.stderr
    assert "Usage:" in result.stdout


def test_the_services_start_in_order() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"db": {"condition": "service_healthy"}}
    for name in ("web", "worker", "worker-gpu"):
        assert SERVICES[name]["depends_on"] == {
            "migrate": {"condition": "service_completed_successfully"}
        }
    assert SERVICES["migrate"]["restart"] == "no"


def test_the_database_is_checked_by_tcp_and_has_room_for_index_builds() -> None:
    database = SERVICES["db"]
    settings = dict(option.removeprefix("-c").split("=") for option in database["command"][1:])

    assert re.fullmatch(r"pgvector/pgvector:(\d[\d.]*-)?pg1[5-9]", database["image"])
    assert "--host=127.0.0.1" in database["healthcheck"]["test"]
    assert bytes_of(database["shm_size"]) >= bytes_of(settings["maintenance_work_mem"])


def bytes_of(size: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([kmg])b", size.lower()).groups()  # type: ignore[union-attr]
    return int(number) * 1024 ** ("kmg".index(unit) + 1)


def test_rows_and_pixels_are_in_named_volumes() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}

    assert used == set(COMPOSE["volumes"])
    # The images of PostgreSQL 18 and newer refuse a volume at /var/lib/postgresql/data.
    assert SERVICES["db"]["volumes"] == ["database:/var/lib/postgresql"]


def test_the_password_comes_from_outside_and_has_no_default() -> None:
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert re.fullmatch(r"\$\{POSTGRES_PASSWORD:\?.+\}", value)
            assert not re.search(r"://[^/@]*:[^/@]*@", value)
    assert "POSTGRES_PASSWORD=\n" in (ROOT / ".env.example").read_text()
    assert "/.env" in (ROOT / ".gitignore").read_text().split()


def test_the_pages_are_offered_to_this_machine_only() -> None:
    assert SERVICES["web"]["ports"] == ["127.0.0.1:8000:8000"]
    assert not any(service.get("ports") for name, service in SERVICES.items() if name != "web")


def test_the_gpu_worker_is_optional_and_reserves_a_device() -> None:
    with_profile = {name for name, service in SERVICES.items() if "profiles" in service}
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]

    assert with_profile == {"worker-gpu"}
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert SERVICES["worker-gpu"]["build"]["args"] == {"TENSORFLOW_EXTRA": "and-cuda"}


def test_the_image_runs_as_an_ordinary_user() -> None:
    user = instructions("USER")[-1]

    assert any(re.search(rf"useradd .*{user}", step) for step in instructions("RUN"))
    assert DOCKERFILE.index(f"USER {user}") > max(
        index for index, line in enumerate(DOCKERFILE) if line.startswith("RUN ")
    )


def test_the_image_installs_only_what_the_lock_pins_before_it_copies_the_code() -> None:
    steps = [line for line in DOCKERFILE if line.startswith(("COPY ", "RUN "))]
    lock = steps.index("COPY requirements.txt .")
    code = steps.index("COPY . .")

    assert steps[lock + 1] == ("RUN pip install --require-hashes --no-deps -r requirements.txt")
    assert lock < code
    assert (ROOT / "requirements.txt").read_text().count("--hash=sha256:") > 100


def test_secrets_and_environments_stay_out_of_the_image() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert ignored[0] == ".*"
    assert not any(line.startswith(("!.env", "!.git")) for line in ignored)
