"""Where Skygloss keeps its things: the embedded database, pixels, registered encoders, caches.

`SKYGLOSS_HOME`, or the platform's folder for user data. It should be on a local disk.
"""

import os
import sys
from pathlib import Path


class HomeUnavailable(RuntimeError):  # noqa: N818 (it reads as what happened)
    """The folder for Skygloss's things cannot be used; the message says why and what to do."""


def home() -> Path:
    """Return the folder that holds everything Skygloss writes, created if need be.

    Root's own default is `/var/lib/skygloss`: PostgreSQL refuses to run as root, and the user it
    runs as instead cannot enter root's home.
    """
    chosen = os.environ.get("SKYGLOSS_HOME")
    folder = Path(chosen).expanduser().absolute() if chosen else _default()
    return _made(folder)


def pixels() -> Path:
    """Return the root folder of the pixel store."""
    return _subfolder("pixels")


def models() -> Path:
    """Return the folder of the encoders that users registered."""
    return _subfolder("models")


def cache() -> Path:
    """Return the folder for downloads and other things that may be deleted at any time."""
    return _subfolder("cache")


def _default() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/skygloss")
    if sys.platform == "darwin":
        return Path.home() / "Library/Application Support/skygloss"
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local/share") / "skygloss"


def _subfolder(name: str) -> Path:
    return _made(home() / name)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnavailable(
            f"the folder {folder} cannot be made: {error}. "
            "Set SKYGLOSS_HOME to a folder that you may write."
        ) from error
    return folder
