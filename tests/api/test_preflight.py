"""What a stage needs is checked before anything is written, by `--dry-run` as by `build`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.api import preflight
from nemotron_deploy.cli import run
from nemotron_deploy.core import files

INT4 = ("--quant", "int4")
BUILD = ("build", "--gpu", "h100")
DRY_RUN = (*BUILD, "--dry-run")

CHAT = '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}\n'

Change = Callable[[Path], object]


def without(*names: str) -> Change:
    def make(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return make


def template_moved(form: str) -> Change:
    """The chat template where other tools keep it."""

    def make(path: Path) -> None:
        text = (path / "chat_template.jinja").read_text()
        (path / "chat_template.jinja").unlink()
        if form == "chat_template.json":
            (path / form).write_text(json.dumps({"chat_template": text}))
            return
        config = json.loads((path / "tokenizer_config.json").read_text())
        named = [{"name": "default", "template": text}, {"name": "tool_use", "template": text}]
        config["chat_template"] = named if form == "list" else text
        (path / "tokenizer_config.json").write_text(json.dumps(config))

    return make


def generation(**fields: object) -> Change:
    return lambda path: (path / "generation_config.json").write_text(json.dumps(fields))


def refused(capsys: pytest.CaptureFixture[str], out: Path, *words: str) -> str:
    """The message of a command that must not have written anything."""
    before = sorted(out.parent.iterdir())
    assert run([*words, "--out", str(out)]) == 4
    assert sorted(out.parent.iterdir()) == before
    return capsys.readouterr().err


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to" / "out"


@pytest.fixture
def chat(tmp_path: Path) -> str:
    path = tmp_path / "chat.jsonl"
    path.write_text(CHAT)
    return str(path)


# -- Tokenizer ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "purpose"),
    [
        (("quantize", *INT4), "calibrating"),
        (("quantize", "--quant", "fp8"), "calibrating"),
        (("quantize", "--compare", "int4"), "measuring quality (--compare)"),
        ((*BUILD, *INT4), "calibrating"),
        ((*DRY_RUN, *INT4), "calibrating"),
        ((*BUILD, *INT4, "--no-smooth"), "recording golden outputs"),
        ((*DRY_RUN, "--quant", "bf16"), "recording golden outputs"),
    ],
)
def test_what_needs_a_tokenizer_says_so_first(
    tiny_copy: Path, out: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    purpose: str,
) -> None:  # fmt: skip
    without("tokenizer.json")(tiny_copy)
    message = refused(capsys, out, *words, "--checkpoint", str(tiny_copy))
    assert f"error: {tiny_copy}: has no tokenizer.json, which {purpose} needs" in message


@pytest.mark.parametrize(
    "words", [("--quant", "bf16"), ("--quant", "int8"), (*INT4, "--no-smooth")]
)
def test_what_needs_no_tokenizer_needs_none(
    tiny_copy: Path, out: Path, words: tuple[str, ...]
) -> None:
    without("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")(tiny_copy)
    assert run(["quantize", *words, "--checkpoint", str(tiny_copy), "--out", str(out)]) == 0
    assert (out / "model.safetensors").is_file()
    if "bf16" not in words:
        report = json.loads((out / "report" / "quality.json").read_text())
        assert "has no tokenizer.json" in json.dumps(report)


# -- Chat template --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["chat_template.json", "list", "text"])
def test_a_chat_template_is_found_wherever_it_is(
    tiny_copy: Path, out: Path, chat: str, form: str
) -> None:
    template_moved(form)(tiny_copy)
    words = [*DRY_RUN, *INT4, "--calibration", chat, "--checkpoint", str(tiny_copy)]
    assert run([*words, "--out", str(out)]) == 0
    assert not out.exists()


def test_more_templates_in_a_folder_change_nothing(tiny_copy: Path, out: Path, chat: str) -> None:
    (tiny_copy / "additional_chat_templates").mkdir()
    (tiny_copy / "additional_chat_templates" / "tool_use.jinja").write_text("x")
    words = [*DRY_RUN, *INT4, "--calibration", chat, "--checkpoint", str(tiny_copy)]
    assert run([*words, "--out", str(out)]) == 0


@pytest.mark.parametrize("words", [("quantize", *INT4), (*BUILD, *INT4), (*DRY_RUN, *INT4)])
@pytest.mark.parametrize("option", ["--calibration", "--heldout"])
def test_chats_without_a_chat_template(
    tiny_copy: Path, out: Path, chat: str, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], option: str,
) -> None:  # fmt: skip
    without("chat_template.jinja")(tiny_copy)
    message = refused(capsys, out, *words, option, chat, "--checkpoint", str(tiny_copy))
    assert f"{chat}, line 1: {tiny_copy}: has no chat template" in message


# -- Disk, memory, place --------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("quantize", *INT4), (*BUILD, *INT4), (*DRY_RUN, *INT4)])
def test_a_disk_that_is_too_small(
    out: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(files, "free_bytes", lambda path: 1000)
    message = refused(capsys, out, *words, "--checkpoint", "tiny")
    assert "2.9 MB are needed here and 0.0 MB are free" in message


@pytest.mark.parametrize("words", [("quantize", *INT4), (*BUILD, *INT4), (*DRY_RUN, *INT4)])
def test_memory_that_holds_no_layer(
    out: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(preflight, "available_memory", lambda: 100_000)
    message = refused(capsys, out, *words, "--checkpoint", "tiny")
    assert "calibrating takes 1.3 MB of memory for the largest layer alone" in message
    assert "0.1 MB are free here" in message


@pytest.mark.parametrize("words", [BUILD, DRY_RUN])
def test_a_place_that_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    (tmp_path / "notes").write_text("mine")
    for out, says in (
        (tmp_path, "holds something else (notes) and no bundle"),
        (tmp_path / "notes", "is no directory"),
        (tmp_path / "notes" / "below", f"{tmp_path / 'notes'} cannot be written"),
    ):
        assert run([*words, *INT4, "--checkpoint", "tiny", "--out", str(out)]) == 4
        assert f"error: {out}: {says}" in capsys.readouterr().err
    assert (tmp_path / "notes").read_text() == "mine"


# -- End-of-sequence tokens -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (generation(_from_model_config=True), "generation_config.json names no end-of-sequence"),
        (without("generation_config.json"), "no generation_config.json, so that a server"),
    ],
)
def test_missing_end_tokens_are_taken_from_elsewhere(
    tiny_copy: Path, out: Path, capsys: pytest.CaptureFixture[str], change: Change, says: str
) -> None:
    change(tiny_copy)
    config = json.loads((tiny_copy / "config.json").read_text())
    (tiny_copy / "config.json").write_text(json.dumps(config | {"eos_token_id": 1}))
    words = ["--checkpoint", str(tiny_copy), "--out", str(out), "--json"]
    warnings = []
    for command in ([*DRY_RUN, "--quant", "bf16"], ["quantize", "--quant", "bf16"]):
        assert run([*command, *words]) == 0
        warnings += json.loads(capsys.readouterr().out)["warnings"]
    assert len(set(warnings)) == 1
    assert says in warnings[0]
    assert "names 1 and 2, of config.json and the tokenizer" in warnings[0]
    written = json.loads((out / "generation_config.json").read_text())
    assert written["eos_token_id"] == [1, 2]  # </s> and <|im_end|>
    assert ("_from_model_config" in written) == ("names no" in says)


def test_end_tokens_that_are_named_are_left_alone(
    tiny_copy: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_copy / "generation_config.json").read_bytes()
    words = ["quantize", "--quant", "bf16", "--checkpoint", str(tiny_copy), "--out", str(out)]
    assert run([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
    assert (out / "generation_config.json").read_bytes() == before
