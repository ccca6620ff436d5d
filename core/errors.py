"""The kinds of failure, and the exit code of each.

Every error that a user can meet is one of these. Its message says what is wrong, where, and what to
do next; the command line prints it as one message and exits with `exit_code`.
"""

from __future__ import annotations


class NemoDeployError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code = 1


class UsageError(NemoDeployError):
    """The command line itself is wrong: an unknown GPU, format or option value."""

    exit_code = 2


class RefusedError(NemoDeployError):
    """A support rule forbids the request, or it does not fit. Names the rule, the reason, and what
    works instead."""

    exit_code = 3


class BadInputError(NemoDeployError):
    """A file, tensor, key, port or server that the command names cannot be used."""

    exit_code = 4


class CheckFailedError(NemoDeployError):
    """A check failed: of a digest, a manifest, an objective or an output."""

    exit_code = 5
