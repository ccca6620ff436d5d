"""The command line: makes the application and registers its commands. A command imports what does
its work when it is called, so that `--help` stays instant."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from .commands.build import build
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.inspect import inspect
from .commands.loadtest import loadtest
from .commands.plan import plan
from .commands.quantize import quantize
from .commands.serve import serve
from .commands.terminal import exit_code
from .commands.verify import verify
from .commands.warmup import warmup
from .runtime import contract

app = typer.Typer(
    name="nemo-deploy",
    help="From a Nemotron 3 checkpoint to a quantized, verified, load-tested deployment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # Rich's help takes twice as long to start as all else
)


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """The options before a command. `run` reads `--debug`, which must work from the first line."""


for command in (inspect, plan, quantize, build, verify, warmup, serve, loadtest, doctor, demo):
    app.command()(command)


def main() -> None:
    """Run the command line and exit with the code of `errors`. One message, no traceback."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; gives its exit code.

    Threads of torch's OpenMP spin while they wait: on a machine that is busy otherwise, without a
    limit, that made calibration twenty times slower.
    """
    os.environ.setdefault(contract.SPIN_COUNT.name, "1000")
    debug = "--debug" in arguments or bool(os.environ.get(contract.DEBUG.name))
    return exit_code(lambda: app(arguments, prog_name="nemo-deploy"), debug)
