"""The bundle's record: resuming, and states that a kill can leave."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from nemotron_deploy.core.bundle import Bundle, MadeFrom, building, inputs_digest
from nemotron_deploy.core.errors import BadInputError, CheckFailedError
from nemotron_deploy.core.files import locked, new_directory, require_space, write_atomically
from nemotron_deploy.core.record import RECORD_NAME, Header

HEADER = Header(name="x-h100-int4", model_name="x", asked={"gpu": "h100"})


class KilledError(BaseException):
    """Stands for the process ending at this point."""


def fill(text: str = "a") -> Callable[[Path], None]:
    def make(dest: Path) -> None:
        (dest / "sub").mkdir()
        (dest / "sub" / "file.txt").write_text(text)
        (dest / "other.txt").write_text(text * 2)

    return make


def made_from(inputs: str) -> MadeFrom:
    return MadeFrom("encoding 1", inputs)


def made(path: Path, text: str = "a", inputs: str = "1") -> Bundle:
    with building(path, HEADER) as bundle:
        for stage in ("checkpoint", "engine"):
            if bundle.why_outdated(stage, made_from(inputs)):
                bundle.run_stage(stage, made_from(inputs), fill(text))
    return Bundle.open(path)


def failing(bundle: Bundle) -> set[str]:
    return {check.name for check in bundle.verify_files() if not check.ok}


def test_a_bundle_records_every_file(tmp_path: Path) -> None:
    bundle = made(tmp_path / "b")
    assert bundle.complete
    assert set(bundle.files) == {
        f"{stage}/{name}"
        for stage in ("checkpoint", "engine")
        for name in ("sub/file.txt", "other.txt")
    }
    assert bundle.stage_bytes("engine") == 3
    assert not failing(bundle)


SERVED = ("checkpoint", "engine", "model_repository")


def served(path: Path, text: str = "a", inputs: str = "1", manifests: str = "m") -> Bundle:
    """A bundle with every stage; `manifests` is what its `k8s` holds."""
    with building(path, HEADER) as bundle:
        for stage in SERVED:
            bundle.run_stage(stage, made_from(inputs), fill(text))
        bundle.run_stage("k8s", made_from(manifests), fill(manifests))
    return Bundle.open(path)


def test_the_files_digest_names_the_served_bytes(tmp_path: Path) -> None:
    digest = served(tmp_path / "b").files_digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert served(tmp_path / "other inputs", inputs="2").files_digest == digest
    assert served(tmp_path / "other manifests", manifests="n").files_digest == digest
    assert served(tmp_path / "other bytes", text="b").files_digest != digest
    carded = served(tmp_path / "with a card")
    carded.replace_file("checkpoint/README.md", b"# A card\n")
    assert carded.files_digest == digest, "no server reads the model card"


def test_the_inputs_digest_names_what_served_stages_are_made_from(tmp_path: Path) -> None:
    digest = served(tmp_path / "b").inputs_digest
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert inputs_digest(dict.fromkeys(SERVED, made_from("1"))) == digest
    assert served(tmp_path / "other bytes", text="b").inputs_digest == digest
    assert served(tmp_path / "other manifests", manifests="n").inputs_digest == digest
    assert served(tmp_path / "other inputs", inputs="2").inputs_digest != digest
    other_code = dict.fromkeys(SERVED, made_from("1")) | {"engine": MadeFrom("encoding 2", "1")}
    assert inputs_digest(other_code) != digest


def test_a_bundle_without_a_served_stage_has_no_digest(tmp_path: Path) -> None:
    bundle = made(tmp_path / "b")
    with pytest.raises(BadInputError, match=r"bundle\.json: `files` lists nothing in model_repos"):
        _ = bundle.files_digest
    with pytest.raises(BadInputError, match="does not say what model_repository is made from"):
        _ = bundle.inputs_digest


def test_nothing_is_done_twice(tmp_path: Path) -> None:
    made(tmp_path / "b")
    before = (tmp_path / "b" / RECORD_NAME).stat().st_mtime_ns
    with building(tmp_path / "b", HEADER) as bundle:
        assert bundle.why_outdated("checkpoint", made_from("1")) is None
        assert bundle.why_outdated("checkpoint", made_from("2")) == "its inputs have changed"
        other_code = MadeFrom("encoding 2", "1")
        assert bundle.why_outdated("checkpoint", other_code) == "the code that makes it has changed"
        assert bundle.why_outdated("k8s", made_from("1")) == "it is not in the bundle yet"
    assert (tmp_path / "b" / RECORD_NAME).stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    ["edit", "same size", "remove", "add", "replace by link", "same content behind a link"],
)
def test_a_changed_stage_is_noticed_and_made_again(tmp_path: Path, change: str) -> None:
    path = tmp_path / "b"
    made(path)
    target = path / "engine" / "other.txt"
    if change == "edit":
        target.write_text("longer than before")
    elif change == "same size":
        target.write_text("zz")
        os.utime(target, ns=(2**62, 2**62))
    elif change == "remove":
        target.unlink()
    elif change == "add":
        (path / "engine" / "new.txt").write_text("")
    elif change == "replace by link":
        target.unlink()
        target.symlink_to("/etc/hostname")
    else:
        elsewhere = tmp_path / "engine"
        (path / "engine").rename(elsewhere)
        (path / "engine").symlink_to(elsewhere)
    assert failing(Bundle.open(path))
    why = Bundle.open(path).why_outdated("engine", made_from("1"))
    assert why == "its files were changed"
    assert not failing(made(path))


def test_files_outside_the_record_are_reported(tmp_path: Path) -> None:
    bundle = made(tmp_path / "b")
    (bundle.path / "stray.txt").write_text("x")
    (bundle.path / "link").symlink_to("/etc")
    check = next(c for c in bundle.verify_files() if c.name == "no other files")
    assert check.detail == "link, stray.txt"


def test_an_error_in_a_stage_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "b"
    made(path)

    def fails(dest: Path) -> None:
        (dest / "half").write_text("x")
        raise KilledError

    with pytest.raises(KilledError), building(path, HEADER) as bundle:
        bundle.run_stage("engine", made_from("2"), fails)
    assert sorted(os.listdir(path)) == [RECORD_NAME, "checkpoint", "engine"]
    assert not failing(Bundle.open(path))


def test_every_point_a_build_can_be_killed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End the process at each change to the file system in turn; the next run completes."""
    real: dict[str, Callable[..., object]] = {
        "rename": Path.rename,
        "replace": Path.replace,
        "mkdir": Path.mkdir,
    }
    reached = 0

    def killing(point: int) -> None:
        count = 0

        def wrap(name: str) -> Callable[..., object]:
            def call(*args: object, **kwargs: object) -> object:
                nonlocal count
                count += 1
                if count == point:
                    raise KilledError
                return real[name](*args, **kwargs)

            return call

        for name in real:
            monkeypatch.setattr(Path, name, wrap(name))

    for point in range(1, 40):
        path = tmp_path / f"b{point}"
        made(path, "old", "1")
        killing(point)
        try:
            with pytest.raises(KilledError):
                made(path, "new", "2")
        except pytest.fail.Exception:
            break
        finally:
            monkeypatch.undo()
        reached = point
        state = Bundle.open(path)
        wrong = failing(state) - {"complete", "no other files"}
        assert not wrong, f"after point {point}: {wrong}"
        again = made(path, "new", "2")
        assert again.complete
        assert not failing(again)
        assert (path / "engine" / "other.txt").read_text() == "newnew"
    assert reached > 8


def test_a_build_that_fails_at_its_first_stage_leaves_nothing(tmp_path: Path) -> None:
    def fails(dest: Path) -> None:
        (dest / "half").write_text("x")
        raise BadInputError("no")

    with pytest.raises(BadInputError), building(tmp_path / "b", HEADER) as bundle:
        bundle.run_stage("checkpoint", made_from("1"), fails)
    assert not (tmp_path / "b").exists()


def test_an_incomplete_bundle_says_so(tmp_path: Path) -> None:
    with pytest.raises(KilledError), building(tmp_path / "b", HEADER) as bundle:
        bundle.run_stage("checkpoint", made_from("1"), fill())
        raise KilledError
    with pytest.raises(CheckFailedError, match="incomplete"):
        Bundle.open(tmp_path / "b").require_complete()


def test_a_directory_that_holds_something_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInputError, match=r"holds something else \(thesis\.tex\)"):
        made(tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "b"
    made(path)
    with locked(path), pytest.raises(BadInputError, match="another nemo-deploy"):
        made(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema": 99}', '{"schema": 1}'])
def test_a_broken_record(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(BadInputError, match=r"bundle\.json"):
        Bundle.open(tmp_path)


def test_reports_are_recorded(tmp_path: Path) -> None:
    bundle = made(tmp_path / "b")
    bundle.add_report("load.json", b"{}\n")
    assert not failing(Bundle.open(bundle.path))
    assert json.loads((bundle.path / "report" / "load.json").read_text()) == {}


def test_a_new_directory_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    with pytest.raises(KilledError), new_directory(target) as work:
        (work / "half").write_text("x")
        raise KilledError
    assert os.listdir(target.parent) == []
    with new_directory(target) as work:
        (work / "whole").write_text("x")
    assert os.listdir(target) == ["whole"]
    with pytest.raises(BadInputError, match="already holds something"), new_directory(target):
        pass


def test_space_is_checked_before_work_begins(tmp_path: Path) -> None:
    require_space({tmp_path / "not" / "there": 1})
    with pytest.raises(BadInputError, match="are needed here"):
        require_space({tmp_path: 10**18})


def test_atomic_writes_keep_the_old_content_on_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(BadInputError, match="f: cannot be written: No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]
