"""Documents of other versions: older ones are brought up to date, newer ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ..runtime.untrusted import brief
from .errors import BadInputError

Document = dict[str, Any]

Migration = Callable[[Document], Document]
"""Brings a document of one schema to the next; does not touch `schema` itself."""

OLDEST: Final = 1


def migrated(
    document: Document, path: Path, migrations: Sequence[Migration], oldest: int = OLDEST
) -> Document:
    """`document`, read from `path`, in the present schema.

    Args:
        migrations: One for each schema since `oldest`, in order; the last gives the present schema.
        oldest: The schema of a document that does not say which it has.

    Raises `BadInputError` for a document of a newer version, naming that version, and for a schema
    that is not a number or was never written.
    """
    present = oldest + len(migrations)
    schema = document.get("schema", oldest)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < oldest:
        raise BadInputError(f"{path}: `schema` is {brief(schema)}; known are {oldest} to {present}")
    if schema > present:
        writer = document.get("made_by")
        named = brief(writer) if isinstance(writer, str) and writer else "a newer nemo-deploy"
        raise BadInputError(
            f"{path}: made by {named}; upgrade nemo-deploy to read it (its schema is "
            f"{brief(schema)}, and this version reads up to {present})"
        )
    for migrate in migrations[schema - oldest :]:
        document = migrate(document)
    return {**document, "schema": present}
