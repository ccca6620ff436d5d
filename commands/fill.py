"""`fill`: makes a bundle on a claim; the command of the Job in the manifests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ..core.errors import UsageError
from ..model.spec import Workload
from . import options as opt
from .build import build
from .terminal import console, printed

if TYPE_CHECKING:
    from ..api.build_stages import Job


def fill(
    claim: Annotated[Path, typer.Argument(metavar="CLAIM", help="Folder of the mounted claim.")],
    build_options: Annotated[
        list[str],
        typer.Argument(metavar="-- BUILD-OPTIONS", help="The options of nemo-deploy build."),
    ],
    digest: Annotated[
        str, typer.Option("--digest", metavar="DIGEST", help="The bundle that the manifests name.")
    ],
    keep: Annotated[
        int,
        typer.Option("--keep", min=1, help="Other bundles that stay, those used last."),
    ] = 2,
    made_by: Annotated[
        str | None,
        typer.Option("--made-by", metavar="VERSION", help="What made the manifests."),
    ] = None,
    as_json: opt.JsonOption = False,
) -> None:
    """Make a bundle on a claim, in the folder that its digest names.

    The Job of the manifests runs this. It refuses at once where the options make another bundle,
    deletes older bundles, and leaves a bundle that is there and undamaged as it is. If it is
    interrupted, the same command resumes it.
    """
    from ..api.fill import fill as work
    from ..runtime.check_bundle import ProgressLines

    options = _parsed(build_options)
    with ProgressLines(write=(lambda _: None) if as_json else _say) as progress:
        result = work(
            claim,
            digest,
            lambda out: _job(options, out),
            keep=keep,
            made_by=made_by,
            progress=progress,
        )
    if not printed(as_json, result.to_json()):
        from ..views.weights import filled

        filled(console(), result)


def _say(line: str) -> None:
    typer.echo(line)


def _parsed(words: Sequence[str]) -> dict[str, Any]:
    """The options of `build`, checked as there. Raises `UsageError` for one that does not change
    what is served, and as Typer does."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(build)
    context = typer.main.get_command(app).make_context("nemo-deploy build", list(words))
    for name in context.params.keys() - {*_SOURCE, *_WORKLOAD, *_OPTIONS}:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = name.removeprefix("as_").replace("_", "-")
            raise UsageError(f"--{option} behind -- has no meaning for fill")
    return context.params


_SOURCE: Final = ("checkpoint", "gpu", "quant", "engine")
_WORKLOAD: Final = ("gpus", "context", "concurrency", "max_num_tokens", "mamba_state", "kv_cache")
_OPTIONS: Final = (
    "group_size",
    "recipe",
    "calibration",
    "smooth",
    "device",
    "heldout",
    "low_disk",
    "require_golden",
)


def _job(options: dict[str, Any], out: Path) -> Job:
    from ..api.build import prepare

    return prepare(
        options["checkpoint"],
        options["gpu"],
        options["quant"],
        Workload(**{name: options[name] for name in _WORKLOAD}),
        out,
        engine_name=options["engine"],
        **{name: options[name] for name in _OPTIONS},
    )
