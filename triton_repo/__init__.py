"""Write, check and locally run the Triton model repository.

`local` starts a real tritonserver; import it only where it is needed.
"""

from __future__ import annotations

from .repository import check, contents, emit, max_active

__all__ = ["check", "contents", "emit", "max_active"]
