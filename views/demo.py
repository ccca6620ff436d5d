"""View of `demo`: what was built, where it is, what it measured, and what to run next."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from .loadtest import load_table
from .parts import BAD, GOOD, amount, facts, heading

if TYPE_CHECKING:
    from ..api.demo import Answer, DemoResult


def summary(console: Console, result: DemoResult) -> None:
    """The closing summary of a demonstration."""
    console.print()
    console.print(Panel(Group(*_blocks(result)), title="nemo-deploy demo", border_style="green"))
    console.print()


def picture(path: Path, result: DemoResult) -> None:
    """Save the summary as an SVG."""
    console = Console(record=True, width=100, file=io.StringIO(), highlight=False)
    summary(console, result)
    path.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(path), title="nemo-deploy demo")


def _blocks(result: DemoResult) -> list[RenderableType]:
    model, built, training = result.inspect, result.build, result.training
    quantized = f"{amount(model['bytes'])} to {amount(built.checkpoint_bytes)}"
    rows: list[tuple[str, RenderableType]] = [
        ("model", f"tiny: {model['pattern']}, {amount(model['parameters_total'], '')} parameters, "
                  f"held-out loss {training['heldout_loss']:.2f} nats (unigram "
                  f"{training['unigram_loss']:.2f})"),
        ("quantized", f"INT4, group 64: {quantized}"),
        ("bundle", f"{built.bundle} ({built.files} files, {amount(built.bytes)})"),
        ("verified", f"{len(result.checks)} checks, all passed"),
        ("served", f"tritonserver ready after {result.ready_s:.1f} s, reference executor on CPU"),
    ]  # fmt: skip
    steps = Text("\n").join(Text("  " + command, style="cyan") for command in result.next)
    return [
        facts(rows),
        Text(),
        heading("Its answers", "greedy decoding, from the INT4 weights"),
        *(_answer(row) for row in result.answers),
        Text(),
        heading("Load test", "gRPC streaming, on this machine's CPU"),
        load_table(result.loadtest),
        Text(),
        heading("The real model", "63 GB to download; plan says what has run on a GPU so far"),
        steps,
        Text(),
        Text(f"{result.seconds:.0f} s in total", style="dim"),
    ]


def _answer(row: Answer) -> Text:
    question = row.prompt.rpartition("user\n")[2].partition("<|im_end|>")[0].strip()
    right = row.answer.strip() == row.expected.strip()
    answer = Text(row.answer.strip(), style="green" if right else "red")
    return Text.assemble(" ", GOOD if right else BAD, f" {question}  ", answer)
