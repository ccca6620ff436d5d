"""The model card of a quantized checkpoint: `README.md` with the hub's metadata, ready to publish.

Licence, languages and task are those of the source's own card. What is not known is left out, and
the card says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..core.sizes import size_text
from .calibration_record import CalibrationRecord
from .layouts import Reader
from .quality import QualityReport

CARRIED: Final = ("license", "license_name", "license_link", "language", "pipeline_tag",
                  "library_name")  # fmt: skip
"""Metadata of the source's card that hold for the result as well."""

NOTICE: Final = "NOTICE"

NOTICES: Final[Mapping[str, str]] = {
    "nvidia-open-model": "Licensed by NVIDIA Corporation under the NVIDIA Open Model License",
    "nemotron": "Licensed by NVIDIA Corporation under the NVIDIA Nemotron Model License",
}
"""What NVIDIA's licences ask to be in a file called Notice, by a part of `license_name`."""


@dataclass(frozen=True, slots=True)
class SourceCard:
    """What is known of the source: its hub id and commit, if it has them, and its metadata."""

    name: str
    hub_id: str | None
    commit: str | None
    metadata: Mapping[str, Any]

    @property
    def notice(self) -> str | None:
        """The sentence that its licence asks to be kept."""
        licence = str(self.metadata.get("license_name", "")).lower()
        return next((text for part, text in NOTICES.items() if part in licence), None)


def model_card(
    source: SourceCard,
    *,
    quant: str,
    layout: str,
    recipe: str,
    source_bytes: int,
    written_bytes: int,
    readers: Sequence[Reader],
    calibration: CalibrationRecord | None,
    quality: QualityReport | None,
) -> str:
    """The text of `README.md`. `recipe` is in words, sizes are bytes of tensors."""
    name = f"{source.name}-{quant}"
    parts = [
        _front_matter(source, quant, layout),
        f"# {name}",
        _origin(source, quant),
        "## Format",
        _format(layout, recipe, source_bytes, written_bytes, calibration),
        "## Quality",
        _quality(quality),
        "## Serving",
        _serving(readers),
        "## Licence",
        _licence(source),
        "## Publishing",
        f"Nothing was uploaded. To publish this directory:\n\n```sh\nhf upload OWNER/{name} .\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: SourceCard, quant: str, layout: str) -> str:
    import yaml

    fields = {key: source.metadata[key] for key in CARRIED if source.metadata.get(key)}
    if source.hub_id:
        fields |= {"base_model": source.hub_id, "base_model_relation": "quantized"}
    tags = {"int8": "8-bit", "int4": "4-bit", "nvfp4": "nvfp4", "fp8": "fp8"}
    fields["tags"] = ["nemotron_h", layout, *([tags[quant]] if quant in tags else [])]
    text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    return f"---\n{text}---"


def _origin(source: SourceCard, quant: str) -> str:
    if source.hub_id is None:
        return f"`{source.name}` as {quant.upper()}, made with nemo-deploy."
    commit = f" at commit `{source.commit}`" if source.commit else ""
    link = f"[{source.hub_id}](https://huggingface.co/{source.hub_id})"
    return f"{link}{commit} as {quant.upper()}, made with nemo-deploy."


def _format(
    layout: str,
    recipe: str,
    source_bytes: int,
    written_bytes: int,
    calibration: CalibrationRecord | None,
) -> str:
    rows = [
        ("recipe", recipe),
        ("layout", layout),
        ("size", f"{size_text(written_bytes)}; the source has {size_text(source_bytes)}"),
        ("calibration", _calibration(calibration)),
    ]
    return _table(("", ""), rows)


def _calibration(record: CalibrationRecord | None) -> str:
    if record is None:
        return "none"
    text = f"{record.source}; {record.sequences:,} sequences, {record.tokens:,} tokens"
    return f"{text}. Thin: {record.thin}" if record.thin else text


def _quality(report: QualityReport | None) -> str:
    if report is None:
        return "Nothing was quantized."
    (row,) = report.formats
    lines = [f"Weight error: {row.weight_error.mean:.2%} (relative, root mean square)."]
    if row.fidelity and report.heldout and report.source.perplexity is not None:
        rows = [
            ("perplexity", f"{report.source.perplexity:.4f}", f"{row.fidelity.perplexity:.4f}"),
            ("KL divergence, nats a token", "0", f"{row.fidelity.kl:.2e}"),
            ("same likeliest token", "100 %", f"{row.fidelity.top1:.2%}"),
        ]
        text = f"On {report.heldout.tokens:,} held-out tokens ({report.heldout.source}):"
        lines += [text, _table(("", "source", "this checkpoint"), rows)]
    elif report.missing:
        lines.append(report.missing)
    lines.append(f"{report.method} `report/quality.html` has every layer.")
    return "\n\n".join(lines)


def _serving(readers: Sequence[Reader]) -> str:
    if not readers:
        return "No released engine reads this combination of formats in this layout."
    lines = []
    for reader in readers:
        command = f"\n\n```sh\n{reader.serve.format(path='.')}\n```" if reader.serve else ""
        source = f" (not run by nemo-deploy; from {reader.rests_on})" if reader.rests_on else ""
        lines.append(f"{reader.engine}{source}{':' if command else '.'}{command}")
    return "\n\n".join(lines)


def _licence(source: SourceCard) -> str:
    name = source.metadata.get("license_name") or source.metadata.get("license")
    if not name:
        return (
            "The source names no licence. State one in the metadata before you publish: the "
            "source's terms hold for this checkpoint, too."
        )
    link = source.metadata.get("license_link")
    text = f"As the source: [{name}]({link})." if link else f"As the source: {name}."
    return f"{text} {source.notice}." if source.notice else text


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
