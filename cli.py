"""The command line: makes the application and registers its commands. A command imports what does
its work when it is called, so that `--help` stays fast."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from . import __version__
from .commands.build import build
from .commands.chat import chat
from .commands.check_manifests import check_manifests
from .commands.compare_loadtests import compare_loadtests
from .commands.demo import demo
from .commands.deploy import deploy
from .commands.doctor import doctor
from .commands.evaluate import evaluate
from .commands.failures import PROGRAM, exit_code, raise_on_sigterm
from .commands.fill import fill
from .commands.image import image
from .commands.inspect import inspect
from .commands.loadtest import loadtest
from .commands.plan import plan
from .commands.push import push
from .commands.quantize import quantize
from .commands.report_loadtest import report_loadtest
from .commands.serve import serve
from .commands.streams import prepare_streams
from .commands.verify import verify
from .commands.warmup import warmup
from .runtime import contract

COMMANDS: Final[dict[Callable[..., None], str]] = {
    inspect: "inspect --checkpoint ./my-model",
    plan: "plan --gpu h100 --quant int4",
    quantize: "quantize --quant int4 --out ./nano-int4",
    build: "build --gpu h100 --quant int4",
    fill: "fill /claim --digest DIGEST -- --gpu h100 --quant int4",
    image: "image dist/nemotron-3-nano-30b-a3b-h100-int4 --push",
    push: "push dist/nemotron-3-nano-30b-a3b-h100-int4",
    verify: "verify dist/nemotron-3-nano-30b-a3b-h100-int4",
    check_manifests: "check-manifests ./deploy",
    deploy: "deploy dist/nemotron-3-nano-30b-a3b-h100-int4 --dry-run",
    warmup: "warmup dist/nemotron-3-nano-30b-a3b-h100-int4",
    serve: "serve dist/nemotron-3-nano-30b-a3b-h100-int4",
    chat: "chat http://127.0.0.1:9000",
    loadtest: "loadtest grpc://127.0.0.1:8001 --concurrency 1,4,16",
    compare_loadtests: "loadtest compare monday.json friday.json",
    report_loadtest: "loadtest report monday.json --save monday.html",
    evaluate: "evaluate http://127.0.0.1:9000 --tasks mmlu_pro,gsm8k",
    doctor: "doctor --json",
    demo: "demo --out dist/demo",
}
"""Every command, and the example at the end of its help."""

TWO_WORDS: Final[dict[Callable[..., None], str]] = {
    compare_loadtests: "loadtest compare",
    report_loadtest: "loadtest report",
}
"""The commands whose names are not those of their functions."""


class _Commands(TyperGroup):
    """The commands, of which some have names of two words: `loadtest compare A B`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of two words where the line begins with one, else that of the first word."""
        name = " ".join(args[:2])
        if len(args) > 1 and name in self.commands:
            return name, self.commands[name], args[2:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name=PROGRAM,
    cls=_Commands,
    help="From a Nemotron 3 checkpoint to a quantized, verified, load-tested deployment.",
    epilog="--verbose, --debug and --log-file may also follow the command.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help takes twice as long to start as all else
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the log on standard error.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", metavar="PATH", help="Append the whole log, with timestamps, to PATH."
        ),
    ] = None,
) -> None:
    """Declares the options of all commands. `--verbose`, `--debug` and `--log-file` may stand
    anywhere in a command line, so they are parsed before Typer sees it."""


for command, example in COMMANDS.items():
    app.command(TWO_WORDS.get(command), epilog=f"Example: {PROGRAM} {example}")(command)


def main() -> None:
    """Run the command line of this process and exit with the code that `core.errors` gives."""
    prepare_streams()
    raise_on_sigterm()
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code.

    Threads of torch's OpenMP spin while they wait: on a machine that is busy otherwise, without a
    limit, that made calibration twenty times slower.
    """
    os.environ.setdefault(contract.SPIN_COUNT.name, "1000")
    return exit_code(arguments, _invoke, debug=bool(os.environ.get(contract.DEBUG.name)))


def _invoke(words: Sequence[str]) -> None:
    """Run Typer's command. Not by calling `app`: that would turn an interrupt into an exit code
    and lose what the interrupted work says was kept."""
    if f"_{PROGRAM.replace('-', '_').upper()}_COMPLETE" in os.environ:
        app(prog_name=PROGRAM)  # answers the shell and exits
    group = typer.main.get_command(app)
    with group.make_context(PROGRAM, list(words) or ["--help"]) as context:
        group.invoke(context)
