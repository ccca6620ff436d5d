"""Write, check and locally run the Triton model repository.

`local` starts a real tritonserver; import it only where it is needed.
"""

from __future__ import annotations

from .repository import Settings, check, contents, emit, read_settings

__all__ = ["Settings", "check", "contents", "emit", "read_settings"]
