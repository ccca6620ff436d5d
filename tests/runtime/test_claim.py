"""The folders of a claim: which bundles stay, and how one appears."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nemotron_deploy.runtime import check_bundle
from nemotron_deploy.runtime import claim as claims

DEADLINE_S = 30


def digest(number: int) -> str:
    return f"{number:064x}"


def hold(claim: Path, number: int, used: int | None = None) -> Path:
    """A folder that looks like a bundle, made at the time `number` and used at the time `used`."""
    bundle = claim / digest(number)
    bundle.mkdir()
    (bundle / "bundle.json").write_text("{}")
    os.utime(bundle / "bundle.json", (number, number))
    if used is not None:
        (claim / ".used").mkdir(exist_ok=True)
        (claim / ".used" / bundle.name).touch()
        os.utime(claim / ".used" / bundle.name, (used, used))
    return bundle


def held(claim: Path) -> list[int]:
    return [int(bundle.name, 16) for bundle in check_bundle.bundles(claim)]


def test_the_bundles_used_last_stay(tmp_path: Path) -> None:
    hold(tmp_path, 1, used=500)
    hold(tmp_path, 2, used=100)
    hold(tmp_path, 3)  # never used, made at the time 3
    hold(tmp_path, 4, used=300)
    assert claims.prune(tmp_path, 2, digest(9)) == [digest(2), digest(3)]
    assert held(tmp_path) == [1, 4]
    assert sorted(int(mark.name, 16) for mark in (tmp_path / ".used").iterdir()) == [1, 4]


def test_the_bundle_that_is_made_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        hold(tmp_path, number)
    assert claims.prune(tmp_path, 2, digest(1)) == []
    assert claims.prune(tmp_path, 1, digest(1)) == [digest(2)]
    assert held(tmp_path) == [1, 3]


def test_the_bundle_used_last_always_stays(tmp_path: Path) -> None:
    hold(tmp_path, 1, used=500)
    hold(tmp_path, 2, used=400)
    assert claims.prune(tmp_path, 0, digest(9)) == [digest(2)]
    assert held(tmp_path) == [1]


def test_a_served_bundle_stays_though_others_were_used_later(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        hold(tmp_path, number)
    program = (
        "import pathlib, sys; from nemotron_deploy.runtime.claim import serve_from;"
        "serve_from(pathlib.Path(sys.argv[1])); print('serves', flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / digest(1))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        server.stdout.readline()
        assert claims.prune(tmp_path, 1, digest(9)) == [digest(2)]
        server.kill()
    assert claims.prune(tmp_path, 1, digest(9)) == [digest(1)]


def test_what_abandoned_runs_left_of_other_bundles_is_deleted(tmp_path: Path) -> None:
    for kind in (claims.BUILDING, claims.INCOMING):
        for number in (1, 2, 3):
            (tmp_path / kind / digest(number)).mkdir(parents=True)
            (tmp_path / kind / digest(number) / "part").touch()
    with claims.working_folder(tmp_path, claims.BUILDING, digest(2), lambda: None):
        claims.prune(tmp_path, 2, digest(1))
    left = {
        kind: [int(folder.name, 16) for folder in sorted((tmp_path / kind).iterdir())]
        for kind in (claims.BUILDING, claims.INCOMING)
    }
    assert left == {claims.BUILDING: [1, 2], claims.INCOMING: [1]}


def test_a_bundle_appears_by_a_rename_in_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    (hold(tmp_path, 1) / "damaged").touch()
    with claims.working_folder(tmp_path, claims.BUILDING, digest(1), lambda: None) as folder:
        work = folder / "bundle"
        work.mkdir()
        (work / "bundle.json").write_text("new")
        claims.install(work, tmp_path, digest(1))
    assert [path.name for path in (tmp_path / digest(1)).iterdir()] == ["bundle.json"]
    assert (tmp_path / ".used" / digest(1)).exists()


def test_a_second_writer_waits_for_the_first(tmp_path: Path) -> None:
    waits, events = threading.Event(), []

    def second() -> None:
        with claims.working_folder(tmp_path, claims.BUILDING, digest(1), waits.set):
            events.append("second")

    thread = threading.Thread(target=second)
    with claims.working_folder(tmp_path, claims.BUILDING, digest(1), lambda: None) as folder:
        assert claims.in_work(folder)
        thread.start()
        assert waits.wait(DEADLINE_S)
        events.append("first")
        folder.rmdir()  # as the first one does when it has finished
    thread.join(DEADLINE_S)
    assert events == ["first", "second"]
    assert not claims.in_work(tmp_path / claims.BUILDING / digest(1))


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / claims.BUILDING).touch()
    with (
        pytest.raises(NotADirectoryError),
        claims.working_folder(tmp_path, claims.BUILDING, digest(1), lambda: None),
    ):
        pass
