"""The generated pages say what the program says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from nemotron_deploy.tests.docs.pages import ROOT


def test_the_generated_pages_are_current(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate_reference.py"
    environment = {k: v for k, v in os.environ.items() if k != "NEMO_DEPLOY_DEBUG"}
    subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path)], check=True, env=environment
    )
    made = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert made
    for path in made:
        name = path.relative_to(tmp_path)
        kept = ROOT / "docs" / name
        assert kept.is_file(), f"docs/{name} is missing; run make docs"
        current = kept.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")
        assert current, f"docs/{name} is outdated; run make docs and read the difference"
