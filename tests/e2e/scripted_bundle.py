"""Bundles of `tiny` that are made by hand, without a build."""

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


def tiny_repository(
    folder: Path, active: int, *, context: int = 4096, template: Path | None = None
) -> Path:
    """The model repository of a bundle of `tiny`, made by hand in the existing `folder`.

    It generates for `active` requests at a time, and has another chat template than its own where
    one is given.
    """
    shutil.copytree(catalog.TINY, folder / "checkpoint")
    if template is not None:
        shutil.copy(template, folder / "checkpoint" / "chat_template.jinja")
    (folder / "engine").mkdir()
    arguments = f"backend: pytorch\nmax_seq_len: {context}\n"
    (folder / "engine" / "llm_args.yaml").write_text(arguments)
    engine = {"gpu": "h100", "sm": 90, "trtllm_versions": ">=1.2.1,<1.3", "needs": []}
    (folder / "engine" / "engine.json").write_text(json.dumps(engine))
    repository = folder / "model_repository"
    repository.mkdir()
    deployment = Deployment(
        name="tiny-h100-bf16", model_name="tiny", image="none", gpu=catalog.gpu("h100"), gpus=1,
        quant="bf16", bundle_bytes=1, executor="trtllm", max_batch_size=active,
    )  # fmt: skip
    triton_repo.emit(repository, deployment)
    return repository


def scripted_bundle(
    folder: Path,
    answers: Sequence[Mapping[str, Any]],
    active: int,
    template: Path | None = None,
    context: int = 4096,
) -> ScriptedBundle:
    """`tiny_repository` in the existing `folder`, which plays `answers`."""
    repository = tiny_repository(folder, active, context=context, template=template)
    script = folder / "answers.jsonl"
    script.write_text("\n".join(map(json.dumps, answers)))
    return ScriptedBundle(repository, script)
