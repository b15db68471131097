"""The `skygloss` command: which package answers which word. The commands live in the packages."""

from __future__ import annotations

import socket
from importlib import import_module
from pathlib import Path
from typing import Any

import click

DEMO_EXPOSURES, DEMO_PAIRS, DEMO_PARENTS = 120, 300, 400
DEMO_SEED = 300  # that no network or map was trained on

Targets = dict[str, tuple[str, str]]  # name → where the command is, and one line about it

COMMANDS: Targets = {
    "demo": ("cli:demo", "See everything at work on a real field, with nothing to set up."),
    "ingest": ("db.commands:ingest", "Bring catalogs, cutouts, exposures and hosts in."),
    "annotate": (
        "workers.commands:annotate",
        "Annotate what waits, with a progress bar, then stop.",
    ),
    "worker": ("workers.commands:worker", "Keep annotating whatever arrives, until stopped."),
    "search": ("web.search_commands:search_command", "Find sources that look like others."),
    "projection": (
        "workers.projection_commands:projection",
        "Lay representations out in two dimensions.",
    ),
    "labels": ("cli:labels", "Bring labels in and out, and say how well experts agree."),
    "users": ("db.expert_commands:users", "Give and take the accounts of experts."),
    "models": ("cli:models", "List, choose and register model versions; look after indexes."),
    "status": ("db.model_commands:status", "Show catalogs, progress, workers and failures."),
    "serve": ("web.commands:serve", "Serve the pages."),
    "train": ("cli:train", "Train a network, or a map."),
    "evaluate": ("cli:evaluate", "Measure a network, or a selection, honestly."),
    "simulate": ("cli:simulate", "Make a sky with known truth, to try and to train on."),
    "migrate": ("db.schema_commands:migrate", "Bring the database to this version of Skygloss."),
}
TRAIN: Targets = {
    "shreds": ("models.commands:train_shreds", "From labelled cutouts."),
    "representations": ("models.commands:train_representations", "From labelled cutouts."),
    "blends": ("models.blend_commands:train_blends", "From a simulated sky, or your own stamps."),
    "pair_flux": (
        "models.pair_flux_commands:train_pair_flux",
        "From a simulated sky, or your own stamps.",
    ),
    "source_map": ("workers.map_training:train_source_map", "From the cutouts of exposures."),
    "exposure_map": ("workers.map_training:train_exposure_map", "From exposures on a source map."),
}
EVALUATE: Targets = {
    "shreds": ("models.commands:evaluate_shreds", "Judge shreds on sources it has never seen."),
    "representations": (
        "models.commands:evaluate_representations",
        "Measure how well like finds like.",
    ),
    "blends": (
        "models.evaluation.blend_commands:evaluate_blends",
        "Accuracy against noise and separation, beside sep.",
    ),
    "pair_flux": (
        "models.evaluation.blend_commands:evaluate_pair_flux",
        "Errors of fluxes and masks of known pairs, beside sep.",
    ),
    "exposure_map": (
        "workers.map_evaluation:evaluate_exposure_map",
        "Score labels of cells on exposures nobody looked at.",
    ),
    "contamination": (
        "workers.contamination:contamination_command",
        "Estimate the share of shreds in a selection.",
    ),
}
MODELS: Targets = {
    "list": ("db.model_commands:list_", "List the registered versions."),
    "promote": ("db.model_commands:promote", "Choose the current version of an annotator."),
    "register": ("workers.registration:register", "Bring in an encoder of your own."),
    "band": ("workers.bands:band", "Let a version look at another band."),
    "index": ("db.index_commands:index", "Build the search index of a version."),
    "recall": ("db.index_commands:recall", "Compare the search index with brute force."),
}
LABELS: Targets = {
    "agreement": ("web.label_commands:agreement", "How well the experts agree."),
    "export": ("web.label_commands:export", "Write a training set."),
    "import": ("web.label_commands:import_", "Read labels from a table, in an expert's name."),
}
SIMULATE: Targets = {
    "blends": ("models.blender_commands:blends", "Pairs of galaxies with known light."),
    "exposures": (
        "models.camera_commands:exposures",
        "Exposures of a camera with known faults.",
    ),
}


class LazyGroup(click.Group):
    """A group that imports a command only when it is called, so that `--help` is instant."""

    def __init__(self, *, targets: Targets, **options: Any) -> None:
        super().__init__(**options)
        self.targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.targets)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.targets:
            return None
        module, attribute = self.targets[cmd_name][0].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except RuntimeError as error:
            from db.engine import DatabaseUnavailable  # only now: SQLAlchemy is slow to import
            from db.home import HomeUnavailable

            if isinstance(error, (DatabaseUnavailable, HomeUnavailable)):
                raise click.ClickException(str(error)) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.targets.items()])


@click.group(
    cls=LazyGroup, targets=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="skygloss")
def main() -> None:
    """What deep networks and experts say about every source of a sky survey, next to its row.

    Without DATABASE_URL an embedded PostgreSQL is used; its data, the pixels and the caches live
    under SKYGLOSS_HOME.
    """


@click.group(cls=LazyGroup, targets=TRAIN)
def train() -> None:
    """Train a network, or a map."""


@click.group(cls=LazyGroup, targets=LABELS)
def labels() -> None:
    """Bring labels in and out, and say how well experts agree."""


@click.group(cls=LazyGroup, targets=SIMULATE)
def simulate() -> None:
    """Make a sky with known truth, to try and to train on."""


@click.group(cls=LazyGroup, targets=EVALUATE)
def evaluate() -> None:
    """Measure a network, or a selection, honestly."""


@click.group(cls=LazyGroup, targets=MODELS)
def models() -> None:
    """List, choose and register model versions; look after their search indexes."""


@click.command()
@click.option(
    "--survey",
    nargs=2,
    metavar="NAME PATH",
    help="Use a folder with catalog.fits and images/ of a survey instead, e.g. legacy PATH.",
)
@click.option(
    "--exposures", is_flag=True, help="Use exposures of a simulated camera instead, and maps."
)
@click.option("--blends", is_flag=True, help="Use simulated blends of galaxies instead.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve on.")
@click.option("--port", type=int, help="Port to serve on.  [default: the first free from 8000]")
@click.option("--serve/--no-serve", default=True, help="Serve the pages in the end.")
def demo(
    survey: tuple[str, str] | None,
    exposures: bool,
    blends: bool,
    host: str,
    port: int | None,
    serve: bool,
) -> None:
    """See everything at work: ingest a real field, annotate it, serve the pages.

    Every step is an ordinary command, printed as you would type it. A second time, what is there
    already is left as it is.
    """
    if sum(map(bool, (survey, exposures, blends))) > 1:
        raise click.UsageError(
            "--survey, --exposures and --blends are demos of their own: choose one of them."
        )
    _type("migrate")
    if exposures:
        name = _take_exposures()
    elif blends:
        name = _blend_galaxies()
    else:
        name = _ingest_field(survey)
    _type("annotate", name)
    if serve:
        _type("serve", "--host", host, "--port", str(port or _free_port(host)))


def _ingest_field(survey: tuple[str, str] | None) -> str:
    """Ingest a catalog with its cutouts; its name."""
    name, catalog, pixels = _survey_field(*survey) if survey else _xdf_field()
    _type("ingest", "catalog", str(catalog), "--name", name)
    _type("ingest", "cutouts", name, *pixels)
    return name


def _take_exposures() -> str:
    """Simulate and ingest some exposures; the name of the catalog of their sources."""
    from db.home import home

    folder = str(home() / "demo" / "night")
    _type("simulate", "exposures", folder, "--n", str(DEMO_EXPOSURES), "--seed", str(DEMO_SEED))
    _type("ingest", "exposures", folder, "--name", "night")
    click.echo(
        "Look at /maps and /exposures. To label cells: skygloss users add YOUR_NAME, then sign in."
    )
    return "night"


def _blend_galaxies() -> str:
    """Simulate and ingest some pairs and single galaxies; the name of their catalog."""
    from db.home import home

    folder = str(home() / "demo" / "pairs")
    size = ("--n", str(DEMO_PAIRS), "--n-parents", str(DEMO_PARENTS), "--singles", "0.25")
    _type("simulate", "blends", folder, *size, "--seed", str(DEMO_SEED))
    _type("ingest", "catalog", f"{folder}/catalog.fits", "--name", "pairs")
    _type("ingest", "cutouts", "pairs", "--folder", f"{folder}/images")
    click.echo(f"What the cutouts show is in {folder}/truth.csv")
    return "pairs"


def _free_port(host: str, first: int = 8000) -> int:
    """Return the first port from `first` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            if probe.connect_ex((host, port)):
                return port
    raise click.ClickException(f"ports {first} to {first + 99} are all taken: choose one, --port")


def _type(*words: str) -> None:
    """Show a command and run it."""
    click.secho(f"\n$ skygloss {' '.join(words)}", bold=True)
    main.main(list(words), prog_name="skygloss", standalone_mode=False)


def _xdf_field() -> tuple[str, Path, list[str]]:
    """Write the Hubble XDF picture and its catalog where Skygloss keeps its things."""
    from db.home import home
    from models import demo_field

    folder = home() / "demo"
    folder.mkdir(exist_ok=True)
    catalog, mosaic = folder / "xdf_catalog.fits", folder / "xdf.fits"
    demo_field.catalog().write(catalog, overwrite=True)
    demo_field.mosaic().writeto(mosaic, overwrite=True)
    click.echo(
        "The demo field is the Hubble eXtreme Deep Field picture, with nominal coordinates.\n"
        "The networks learnt from images taken on the ground: here they only show the way."
    )
    size = str(demo_field.CUTOUT_SIZE)
    return "xdf", catalog, ["--mosaic", str(mosaic), "--size", size, "--unit", "display"]


def _survey_field(survey: str, path: str) -> tuple[str, Path, list[str]]:
    """Find catalog and images of a folder."""
    catalog, images = Path(path) / "catalog.fits", Path(path) / "images"
    for needed in (catalog, images):
        if not needed.exists():
            raise click.UsageError(
                f"--survey {survey} {path} needs a folder with catalog.fits and images/ in it; "
                f"{needed} does not exist."
            )
    return survey, catalog, ["--folder", str(images)]


if __name__ == "__main__":
    main()
