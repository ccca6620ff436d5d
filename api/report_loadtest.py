"""`loadtest report`: a load test that was saved before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loadtest.saved_report import read_whole_report


def saved_loadtest(path: Path) -> dict[str, Any]:
    """The JSON document of a report that `loadtest` saved to `path`, in the present schema.

    Raises `BadInputError` for a file that cannot be read, that is no such report, or that a newer
    version made.
    """
    return read_whole_report(path)
