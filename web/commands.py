"""`skygloss serve`: the pages behind gunicorn, or behind Flask's own server for developers."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import import_module
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import click

Network = IPv4Network | IPv6Network

THREADS = 4  # per worker process; pages mostly wait for the database
SHARED = ("db.sky", "zarr", "PIL.Image")  # before the fork, so that no page waits for them


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
@click.option(
    "--workers", default=2, show_default=True, type=click.IntRange(1, 64), help="Processes."
)
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="ADDRESS",
    callback=lambda *given: _networks(given[-1]),
    help="Address or network of a reverse proxy whose X-Forwarded-Proto and -For are believed.",
)
@click.option(
    "--debug", is_flag=True, help="Reload on changes and show errors; on this machine only."
)
def serve(host: str, port: int, workers: int, proxies: Sequence[Network], debug: bool) -> None:
    """Serve the pages.

    Whoever can reach the address can read everything and upload images to search with; labels need
    an account (`skygloss users add`), and once there is one, saving and deleting selections needs
    one too. Beyond your own machine, put a reverse proxy with HTTPS in front, and a password if not
    everybody may read.
    """
    _check_database()
    _check_port(host, port)
    if debug:
        _serve_debug(port)
    else:
        _serve(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", workers, proxies)


def believing(wsgi: Callable[..., Iterable[bytes]], proxies: Sequence[Network]) -> Any:
    """Let a request that comes from a proxy bear the address of its client, told by the proxy."""

    def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        told = environ.get("HTTP_X_FORWARDED_FOR", "").rpartition(",")[2].strip()
        if any(ip_address(environ["REMOTE_ADDR"]) in network for network in proxies):
            with suppress(ValueError):  # no header, or no address in it
                environ["REMOTE_ADDR"] = str(ip_address(told))
        return wsgi(environ, start)

    return answer


def _networks(words: Sequence[str]) -> Sequence[Network]:
    try:
        return [ip_network(word) for word in words]
    except ValueError as error:
        raise click.BadParameter(
            f"{error}. Expected an address like 172.18.0.5 or a network like 172.18.0.0/16."
        ) from error


def _check_database() -> None:
    from db import schema
    from db.engine import DatabaseUnavailable, create_engine

    try:
        engine = create_engine()
        schema.check(engine)
    except DatabaseUnavailable as error:
        raise click.ClickException(str(error)) from error
    engine.dispose()


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error}"
            raise click.ClickException(
                f"port {port} of {host} {reason}. Choose another with --port."
            ) from error


def _serve(address: str, workers: int, proxies: Sequence[Network]) -> None:
    from flask import Flask
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self) -> None:
            for name, value in _settings(address, workers, proxies).items():
                self.cfg.set(name, value)

        def load(self) -> Flask:
            """Build the application, in each process after the fork."""
            from db.engine import create_engine
            from web import create_app

            app = create_app(create_engine())
            app.wsgi_app = believing(app.wsgi_app, proxies)  # type: ignore[method-assign]
            return app

    for module in SHARED:
        import_module(module)
    Server().run()


def _settings(address: str, workers: int, proxies: Sequence[Network]) -> dict[str, Any]:
    return {
        "bind": address,
        "when_ready": lambda _: click.echo(f"Skygloss is at http://{address} (stop with Ctrl-C)"),
        "workers": workers,
        "worker_class": "gthread",
        "threads": THREADS,
        "forwarded_allow_ips": ",".join(["127.0.0.1", "::1", *map(str, proxies)]),
        "loglevel": "warning",
        "control_socket_disable": True,
        "proc_name": "skygloss serve",
    }


def _serve_debug(port: int) -> None:
    from web import create_app

    create_app().run("127.0.0.1", port, debug=True)
