"""The `skygloss` command: which package answers which word. The commands live in the packages."""

from __future__ import annotations

from importlib import import_module

import click

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "See everything at work on a real field, with nothing to set up."),
    "ingest": ("db.commands:ingest", "Bring catalogs, cutouts and host galaxies in."),
    "annotate": (
        "workers.commands:annotate",
        "Annotate what waits, with a progress bar, then stop.",
    ),
    "worker": ("workers.commands:worker", "Keep annotating whatever arrives, until stopped."),
    "models": ("db.model_commands:models", "List model versions and choose the current one."),
    "status": ("db.model_commands:status", "Show catalogs, progress, workers and failures."),
    "serve": ("web.commands:serve", "Serve the pages."),
    "train": ("models.commands:train", "Train a network from labelled cutouts."),
    "evaluate": ("models.commands:evaluate", "Measure a network, or a selection, honestly."),
    "migrate": ("db.schema_commands:migrate", "Bring the database to this version of Skygloss."),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, so that `--help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RuntimeError as error:
            from db.engine import DatabaseUnavailable  # only now: SQLAlchemy is slow to import

            if isinstance(error, DatabaseUnavailable):
                raise click.ClickException(str(error)) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="skygloss")
def main() -> None:
    """What deep networks and experts say about every source of a sky survey, next to its row.

    Without DATABASE_URL an embedded PostgreSQL is used; its data, the pixels and the caches live
    under SKYGLOSS_HOME.
    """


if __name__ == "__main__":
    main()
