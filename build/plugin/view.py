"""What TensorRT-LLM is shown of a quantized checkpoint: all of it, but not that it is quantized."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

HIDDEN: Final = ("config.json", "hf_quant_config.json")
"""Files of the checkpoint that say how it is quantized (see `settings.py`)."""


def checkpoint_view(checkpoint: Path, into: Path) -> Path:
    """A checkpoint without `quantization_config` in the empty directory `into`: links, and a
    configuration of its own. Raises OSError and ValueError where the checkpoint cannot be read."""
    checkpoint = checkpoint.resolve()
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for source in checkpoint.iterdir():
        if source.name not in HIDDEN:
            (into / source.name).symlink_to(source)
    return into
