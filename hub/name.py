"""`owner/name[@revision]`: how a model repository is named on the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..core.errors import BadInputError

DEFAULT_REVISION: Final = "main"

_PART: Final = r"(?!.*(?:--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?<![.-])"
_REPOSITORY: Final = re.compile(rf"{_PART}/{_PART}")
_REVISION: Final = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}(?<![./])")


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository and a branch, tag or commit of it."""

    repository: str
    revision: str = DEFAULT_REVISION

    def __str__(self) -> str:
        plain = self.revision == DEFAULT_REVISION
        return self.repository if plain else f"{self.repository}@{self.revision}"


def parse_name(text: str) -> HubName | None:
    """`text` as the name of a repository, or None where it is not one (a path, a short name).

    Raises `BadInputError` for a repository's name with an invalid revision.
    """
    repository, at, revision = text.partition("@")
    if not _REPOSITORY.fullmatch(repository):
        return None
    if not at:
        return HubName(repository)
    if not _REVISION.fullmatch(revision):
        raise BadInputError(
            f"{text}: {revision!r} is not a revision; write owner/name@branch, @tag or @commit"
        )
    return HubName(repository, revision)
