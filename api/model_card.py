"""Writes what a quantized checkpoint needs to be published: its model card, and a notice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..core.bundle import CHECKPOINT, Bundle
from ..core.files import REPORT
from ..evaluation.card import with_evaluations
from ..model.card_metadata import CARD, card_metadata
from ..model.catalog.family import FAMILY
from ..model.contents import LEGAL
from ..quantize.model_card import NOTICE, SourceCard, model_card
from ..quantize.quality import QualityReport
from ..sources.checkpoint_source import Source

if TYPE_CHECKING:
    from .quantize import Quantized

EVALUATION: Final = "evaluation-"
"""How the names of reports of evaluations begin. The rest is the time, so that they sort by it."""


def write_card(
    out: Path, source: Source, written: Quantized, quality: QualityReport | None
) -> None:
    """Write the card of the checkpoint in `out`, and the notice that its licence asks for where the
    source does not bring one."""
    card = _source_card(source)
    text = model_card(
        card,
        quant=written.recipe,
        layout=written.layout,
        recipe=written.format,
        source_bytes=written.source_bytes,
        written_bytes=written.written_bytes,
        readers=written.readers,
        calibration=written.calibration,
        quality=quality,
    )
    (out / CARD).write_text(text, encoding="utf-8")
    has_notice = any((out / name).exists() for name in LEGAL if name.lower().startswith("notice"))
    if card.notice and not has_notice:
        (out / NOTICE).write_text(f"{card.notice}\n", encoding="utf-8")


def carry_card(out: Path, source: Source) -> None:
    """Copy the card of a checkpoint that is taken over as it is."""
    if (source.opened.path / CARD).is_file():
        shutil.copyfile(source.opened.path / CARD, out / CARD)


def show_evaluations(bundle: Bundle) -> None:
    """Show in the card of a bundle what its reports of evaluations say of its present weights.

    Reports on a part of the questions are left out. A bundle without a card, such as one of a
    checkpoint that was taken over without, stays so.
    """
    card = bundle.checkpoint / CARD
    if not card.is_file():
        return
    names = sorted(name for name in bundle.files if name.startswith(f"{REPORT}/{EVALUATION}"))
    reports = [json.loads((bundle.path / name).read_bytes()) for name in names]
    digest = bundle.inputs_digest
    own = [row for row in reports if row["bundle"] == digest and row["limit"] is None]
    if own:
        text = with_evaluations(card.read_text(encoding="utf-8"), own)
        bundle.replace_file(f"{CHECKPOINT}/{CARD}", text.encode())


def _source_card(source: Source) -> SourceCard:
    folder = source.opened.path
    hub_id, commit = None, None
    if source.snapshot is not None:
        repository = source.snapshot.repository
        hub_id, commit = repository.name.repository, repository.commit
    else:
        named = (row.hub for row in FAMILY if row.hub.rpartition("/")[2] == folder.name)
        hub_id = next(named, None)
    name = hub_id.rpartition("/")[2] if hub_id else source.slug
    return SourceCard(name.removesuffix("-BF16"), hub_id, commit, card_metadata(folder))
