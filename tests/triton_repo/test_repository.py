"""config.pbtxt and the copied model: what is written, and what the check finds."""

import os
from pathlib import Path

import pytest

from nemotron_deploy import runtime, triton_repo
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.runtime import contract

GOLDEN = Path(__file__).parent / "golden" / "config.pbtxt"


def test_config_is_the_golden_one(repository):
    text = (repository / "tiny" / "config.pbtxt").read_text()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_an_emitted_repository_passes_its_check(repository):
    checks = triton_repo.check(repository)
    assert [check.ok for check in checks] == [True, True]
    assert checks[0].detail == "41 inputs, 22 outputs, decoupled"


def test_the_runtime_is_copied_as_one_package(repository):
    package = repository / "tiny" / "1" / contract.PACKAGE
    source = Path(runtime.__file__).parent
    copied = {path.relative_to(package): path.read_bytes() for path in package.rglob("*.py")}
    assert copied == {p.relative_to(source): p.read_bytes() for p in source.rglob("*.py")}
    assert not any(path.is_symlink() for path in repository.rglob("*"))


def test_emit_refuses_a_directory_that_holds_something(tmp_path, deployment):
    (tmp_path / "left-over").touch()
    with pytest.raises(BadInputError, match="must be an empty directory"):
        triton_repo.emit(tmp_path, deployment)
    assert [path.name for path in tmp_path.iterdir()] == ["left-over"]


def _edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name: "tiny"', 'name: "other"', "names the model 'other'"),
        ('name: "tiny"', 'nam: "tiny"', 'no field named "nam"'),
        ("TYPE_FP32", "TYPE_FLOAT", "TYPE_FLOAT"),
        ("decoupled: true", "decoupled: false", "decoupled true"),
        ('name: "sampling_param_seed"', 'name: "seed"', "sampling_param_seed"),
        ("TYPE_UINT64", "TYPE_INT64", "sampling_param_seed"),
    ],
)
def test_check_finds_a_wrong_config(repository, old, new, said):
    _edit(repository / "tiny" / "config.pbtxt", old, new)
    config, code = triton_repo.check(repository)
    assert not config.ok
    assert said in config.detail
    assert code.ok


def test_check_finds_code_that_does_not_compile(repository):
    (repository / "tiny" / "1" / "model.py").write_text("def broken(:\n")
    assert [check.ok for check in triton_repo.check(repository)] == [True, False]


def test_check_finds_what_is_missing(repository, tmp_path):
    (repository / "tiny" / "1" / "model.py").unlink()
    assert "has no model.py" in triton_repo.check(repository)[1].detail
    (repository / "tiny" / "1").rename(repository / "tiny" / "one")
    assert "no version directory" in triton_repo.check(repository)[1].detail
    (repository / "tiny" / "config.pbtxt").unlink()
    assert not triton_repo.check(repository)[0].ok
    assert [check.ok for check in triton_repo.check(tmp_path / "nowhere")] == [False]
