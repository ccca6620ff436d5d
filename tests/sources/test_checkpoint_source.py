"""What `--checkpoint` names, where there is a configuration and no weights."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.cli import run
from nemotron_deploy.model.catalog import TINY
from nemotron_deploy.tests.model.test_checkpoint import split

INT4 = ("--quant", "int4")
ANSWERS = (("inspect",), ("plan", "--gpu", "h100", *INT4), ("plan", "--matrix"))


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A directory with nothing but the configuration of `tiny` in it."""
    path = tmp_path / "NVIDIA-Some-Model-BF16"
    path.mkdir()
    shutil.copy(TINY / "config.json", path)
    return path


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code = run([*arguments, "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert code == 4, captured
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    return " ".join(captured.err.split())


@pytest.mark.parametrize("arguments", ANSWERS)
def test_a_configuration_alone_says_what_a_checkpoint_says(
    capsys: pytest.CaptureFixture[str], alone: Path, arguments: tuple[str, ...]
) -> None:
    expected = document(capsys, *arguments, "--checkpoint", str(TINY))
    for named in (alone, alone / "config.json"):
        found = document(capsys, *arguments, "--checkpoint", str(named))
        assert found["model"] == "some-model"
        if arguments == ("inspect",):
            assert found["source"] == f"configuration only: {alone / 'config.json'}"
            assert (found["weights"], expected["weights"]) == (False, True)
        # Stored dtypes are known of a checkpoint only: two small tensors of tiny's are F32.
        for key in {"parameters_total", "tensors", "kv_bytes_per_token", "llm_args"} & set(found):
            assert found[key] == expected[key]


def test_a_file_with_a_name_of_its_own_is_called_after_itself(
    capsys: pytest.CaptureFixture[str], alone: Path
) -> None:
    path = alone / "my-ultra_config.json"
    (alone / "config.json").rename(path)
    assert document(capsys, "inspect", "--checkpoint", str(path))["model"] == "my-ultra"


@pytest.mark.parametrize("file", ["", "config.json"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", *INT4, "--out", "OUT"),
        ("quantize", "--compare", "int4", "--out", "OUT"),
        ("build", "--gpu", "h100", *INT4, "--out", "OUT"),
        ("build", "--gpu", "h100", *INT4, "--out", "OUT", "--dry-run"),
    ],
)
def test_what_needs_weights_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], alone: Path, arguments: tuple[str, ...], file: str
) -> None:
    out = alone.parent / "out"
    words = [str(out) if word == "OUT" else word for word in arguments]
    captured = error(capsys, *words, "--checkpoint", str(alone / file))
    assert f"{alone / 'config.json'}: there are no weights beside this configuration" in captured
    assert "no model.safetensors and no model.safetensors.index.json" in captured
    assert not out.exists()


def test_a_configuration_that_has_its_weights_beside_it_answers_alone(
    capsys: pytest.CaptureFixture[str], tiny_copy: Path
) -> None:
    named = str(tiny_copy / "config.json")
    assert document(capsys, "inspect", "--checkpoint", named)["weights"] is False
    captured = error(capsys, "quantize", *INT4, "--out", "x", "--checkpoint", named)
    assert f"pass {tiny_copy}, which holds the weights, instead" in captured


def _one_shard_gone(path: Path) -> None:
    split(path)
    (path / "model-00002-of-00002.safetensors").unlink()


def _all_shards_gone(path: Path) -> None:
    split(path)
    for shard in path.glob("*.safetensors"):
        shard.unlink()


def _index_and_shard_gone(path: Path) -> None:
    _one_shard_gone(path)
    (path / "model.safetensors.index.json").unlink()


def _pickles(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_one_shard_gone, "model-00002-of-00002.safetensors: this shard is missing"),
        (_all_shards_gone, "model-00001-of-00002.safetensors: this shard is missing"),
        (_index_and_shard_gone, "model-00002-of-00002.safetensors: this shard is missing"),
        (_pickles, "pickle weights can run code"),
    ],
)
@pytest.mark.parametrize("arguments", ANSWERS)
def test_a_download_that_broke_off_is_not_taken_for_a_configuration(
    capsys: pytest.CaptureFixture[str],
    tiny_copy: Path,
    spoil: Any,
    says: str,
    arguments: tuple[str, ...],
) -> None:
    spoil(tiny_copy)
    assert says in error(capsys, *arguments, "--checkpoint", str(tiny_copy))


def _link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/hostname")


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _consent(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"trust_remote_code": True}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_link, "outside of the checkpoint"),
        (_device, "outside of the checkpoint"),
        (_pipe, "no regular file"),
        (_consent, "trust_remote_code"),
        (lambda path: path.write_bytes(b" " * 30_000_000 + b"{}"), "too large"),
        (lambda path: path.write_bytes(bytes(range(256))), "not readable"),
        (lambda path: path.write_text('{"a": NaN}'), "NaN"),
        (lambda path: path.write_text("[1]"), "no JSON object"),
        (lambda path: path.unlink(), "onfig"),
    ],
)
def test_a_hostile_configuration_alone_gets_one_message(
    capsys: pytest.CaptureFixture[str], alone: Path, spoil: Any, says: str
) -> None:
    spoil(alone / "config.json")
    for named in (alone, alone / "config.json"):
        assert says in error(capsys, "inspect", "--checkpoint", str(named))


def test_another_file_is_no_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    captured = error(capsys, "inspect", "--checkpoint", str(TINY / "model.safetensors"))
    assert "no such directory or configuration" in captured
