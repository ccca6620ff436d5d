"""A bundle made by hand, from which the scripted executor plays."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemotron_deploy import triton_repo
from nemotron_deploy.model import catalog
from nemotron_deploy.model.spec import Deployment


@dataclass(frozen=True)
class ScriptedBundle:
    """Its model repository, and what is played."""

    repository: Path
    script: Path


def scripted_bundle(
    folder: Path,
    answers: Sequence[Mapping[str, Any]],
    active: int,
    template: Path | None = None,
) -> ScriptedBundle:
    """Make it in the existing `folder`: `tiny` with `answers`, of which `active` are played at a
    time, and another chat template than its own where one is given."""
    shutil.copytree(catalog.TINY, folder / "checkpoint")
    if template is not None:
        shutil.copy(template, folder / "checkpoint" / "chat_template.jinja")
    (folder / "engine").mkdir()
    (folder / "engine" / "llm_args.yaml").write_text("backend: pytorch\nmax_seq_len: 4096\n")
    repository = folder / "model_repository"
    repository.mkdir()
    deployment = Deployment(
        name="tiny-h100-bf16", model_name="tiny", image="none", gpu=catalog.gpu("h100"), gpus=1,
        quant="bf16", bundle_bytes=1, max_batch_size=active,
    )  # fmt: skip
    triton_repo.emit(repository, deployment)
    script = folder / "answers.jsonl"
    script.write_text("\n".join(map(json.dumps, answers)))
    return ScriptedBundle(repository, script)
