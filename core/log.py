"""The program's log: what `--verbose` shows and `--log-file` keeps, without secrets."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path
from typing import Final

from .errors import BadInputError

LOGGER: Final = "nemotron_deploy"

_SECRETS: Final = re.compile(
    r"""hf_[A-Za-z0-9]{6,}                                          # a token of the hub
    | (?<=://)[^/\s:@]+:[^/\s@]+(?=@)                                # user:password@ of a URL
    | (?<=[?&])[\w.-]*(?:signature|credential|token|key)[\w.-]*=[^&\s'"]+ # a signed URL
    | (?i:(?<=bearer\s)[^\s'"]+)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_SECRET_VARIABLE: Final = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY", re.IGNORECASE)
_SHORTEST_SECRET: Final = 6
"""Shorter values of such variables (`1`, `false`) are no secrets and would garble the text."""


def masked(text: str) -> str:
    """`text` without tokens, passwords and signatures, and without the values of environment
    variables whose names say that they hold one."""
    for name, value in os.environ.items():
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "***")
    return _SECRETS.sub("***", text)


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _File(logging.FileHandler):
    """A log file that, once it cannot be written, says so and is left alone."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        failure = sys.exc_info()[1]
        reason = getattr(failure, "strerror", None) or failure
        sys.stderr.write(
            f"warning: --log-file {self.baseFilename}: cannot be written any more: {reason}\n"
        )
        logging.getLogger(LOGGER).removeHandler(self)


def configure(verbose: bool = False, file: Path | None = None) -> None:
    """Show the log on standard error where `verbose`, and write all of it to `file`, which is
    appended to. Handlers of an earlier call are replaced.

    Raises `BadInputError` for a file that cannot be written.
    """
    logger = logging.getLogger(LOGGER)
    for handler in [*logger.handlers]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG if file else logging.INFO if verbose else logging.WARNING)
    if verbose:
        shown = logging.StreamHandler(sys.stderr)
        shown.setLevel(logging.INFO)
        shown.setFormatter(_Masked("%(message)s"))
        logger.addHandler(shown)
    if file is not None:
        try:
            kept = _File(file, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise BadInputError(
                f"--log-file {file}: cannot be written: {error.strerror}"
            ) from error
        kept.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(kept)
