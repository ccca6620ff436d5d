"""What can go wrong, and the exit code each kind of failure ends with.

Every error a user can meet is one of these. Its text says what is wrong, where, and what to do
next; `cli` prints it as one message and exits with `exit_code`.
"""

from __future__ import annotations


class NemoDeployError(Exception):
    """Base of every error that is reported without a traceback."""

    exit_code = 1


class UsageError(NemoDeployError):
    """The command line itself is wrong: an unknown GPU, format or option value."""

    exit_code = 2


class RefusedError(NemoDeployError):
    """A support rule forbids what was asked, or it does not fit. Says which, why, what works."""

    exit_code = 3


class BadInputError(NemoDeployError):
    """A file, tensor, key, port or server that was pointed at cannot be used. Names it."""

    exit_code = 4


class CheckFailedError(NemoDeployError):
    """Something was checked and found wrong: a digest, a manifest, an objective, an output."""

    exit_code = 5
