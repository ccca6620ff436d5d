"""The Triton model repository: written, checked, and run on this machine.

`local` starts a real tritonserver; import it where it is needed.
"""

from __future__ import annotations

from .repository import check, emit

__all__ = ["check", "emit"]
