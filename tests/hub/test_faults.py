"""What goes wrong on the way, as a user sees it: the exit code, the message, and what is left."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.hub.client import cache_folder, download, list_repository
from nemotron_deploy.hub.name import HubName
from nemotron_deploy.tests.hub.conftest import INT4, NAMES, REPOSITORY, contents, run
from nemotron_deploy.tests.hub.stand_in import SIGNATURE, StandIn

COMMAND = [sys.executable, "-m", "nemotron_deploy"]


def quantize_command(out: Path, *more: str) -> list[str]:
    return ["quantize", "--checkpoint", REPOSITORY, *INT4, "--out", str(out), *more]


@pytest.mark.parametrize("low_disk", [False, True])
def test_a_dropped_connection_costs_nothing_but_time(
    hub: StandIn, expected: dict[str, bytes], tmp_path: Path, low_disk: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    hub.faults.cut[NAMES[1]] = [500_000]
    out = tmp_path / "out"
    done = run(*quantize_command(out, *(["--low-disk"] if low_disk else [])))
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected
    first, second = hub.starts(NAMES[1])
    assert first == 0 < second


@pytest.mark.parametrize("low_disk", [False, True])
def test_a_wrong_hash_is_an_error_and_the_file_is_removed(
    hub: StandIn, expected: dict[str, bytes], tmp_path: Path, low_disk: bool
) -> None:
    hub.faults.flip = {NAMES[2]}
    out = tmp_path / "out"
    command = quantize_command(out, *(["--low-disk"] if low_disk else []))
    done = run(*command)
    assert done.returncode == 4
    assert NAMES[2] in done.stderr
    assert "damaged" in done.stderr
    assert not out.exists()
    assert not list(tmp_path.rglob(f"state/shards/{NAMES[2]}"))
    assert not list(cache_folder(REPOSITORY).rglob(NAMES[2]))
    hub.faults.flip = set()
    before = len(hub.starts(NAMES[0]))
    assert run(*command).returncode == 0
    assert contents(out) == expected
    assert len(hub.starts(NAMES[0])) == before


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(401, "", "hf auth login"), (404, "RepoNotFound", "no such repository"), (500, "", "later")],
)
def test_refusals_exit_4_and_leave_nothing(
    hub: StandIn, tmp_path: Path, status: int, code: str, said: str
) -> None:
    hub.faults.refuse = (status, code)
    done = run(*quantize_command(tmp_path / "out"))
    assert done.returncode == 4
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert SIGNATURE not in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(("out", ".nemo"))]


def test_a_file_that_cannot_grow_is_said(hub: StandIn, tmp_path: Path) -> None:
    """A limit of the process (EFBIG): what a disk quota or a FAT file system does."""
    out, limit = tmp_path / "out", 600_000

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [*COMMAND, *quantize_command(out)], preexec_fn=limited, capture_output=True, text=True,
        timeout=180, check=False, env=os.environ | {"HF_HUB_OFFLINE": "0"},
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert NAMES[0] in done.stderr
    assert not out.exists()
    assert not list(cache_folder(REPOSITORY).rglob("*.incomplete"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Gives a file system of so many bytes (needs root)."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, check=False).returncode:
            pytest.skip("mounting a small file system needs root")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_fills_up_is_said(
    hub: StandIn, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = small_disk(1_000_000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk / "cache"))
    repository = list_repository(HubName(REPOSITORY))
    with (
        pytest.warns(UserWarning, match="Not enough free disk space"),
        pytest.raises(BadInputError, match=rf"{NAMES[0]}: the disk is full. Free some space"),
    ):
        download(repository, repository.files[NAMES[0]])
    assert not list(disk.rglob("*.incomplete"))


def test_low_disk_works_where_the_whole_does_not_fit(
    hub: StandIn, expected: dict[str, bytes], small_disk: Callable[[int], Path],
    sharded: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    shards = [(sharded / name).stat().st_size for name in NAMES]
    output = sum(map(len, expected.values()))
    disk = small_disk(output + max(shards) + 300_000)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(disk / "cache"))
    done = run(*quantize_command(disk / "out"))
    assert done.returncode == 4
    assert "use --low-disk" in done.stderr
    assert not set(NAMES) & set(hub.fetched())
    done = run(*quantize_command(disk / "out", "--low-disk"))
    assert done.returncode == 0, done.stderr
    assert contents(disk / "out") == expected


def test_a_killed_low_disk_run_goes_on_with_the_missing_shards_only(
    hub: StandIn, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    hub.faults.hold[NAMES[2]] = threading.Event()
    command = [*COMMAND, *quantize_command(out, "--low-disk")]
    environment = os.environ | {"HF_HUB_OFFLINE": "0"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    begun = time.monotonic()
    partial = tmp_path / ".nemo-deploy-partial-out"
    while not all(name in _journal(partial / "state") for name in NAMES[:2]):
        assert process.poll() is None
        assert time.monotonic() - begun < 120
        time.sleep(0.05)
    process.kill()
    process.wait()
    hub.faults.hold.pop(NAMES[2]).set()
    hub.requests.clear()
    done = run(*quantize_command(out, "--low-disk"))
    assert done.returncode == 0, done.stderr
    assert sorted(set(hub.fetched()) & set(NAMES)) == NAMES[2:]
    assert contents(out) == expected
    assert not partial.exists()


def _journal(state: Path) -> str:
    """What a run remembers of finished shards."""
    return "".join(path.read_text() for path in state.glob("*.json"))


@pytest.fixture
def new_session() -> Iterator[None]:
    """huggingface_hub reads the proxies of the environment once, for all of its requests."""
    from huggingface_hub.utils._http import close_session

    close_session()
    yield
    close_session()


@pytest.mark.usefixtures("new_session")
@pytest.mark.parametrize(
    ("variable", "proxy", "says"),
    [
        ("http_proxy", "http://user:secret@127.0.0.1:9", "through the proxy http://127.0.0.1:9"),
        ("all_proxy", "http://127.0.0.1:9", "through the proxy http://127.0.0.1:9"),
        ("http_proxy", "ftp://127.0.0.1:9", "the proxy ftp://127.0.0.1:9, which the environment"),
    ],
)
def test_a_proxy_that_is_down_is_named(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str, says: str
) -> None:
    monkeypatch.setenv(variable, proxy)
    monkeypatch.setenv("no_proxy", "elsewhere.example")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://hub.example")
    done = run("inspect", "--checkpoint", REPOSITORY)
    assert done.returncode == 4
    assert says in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("new_session")
def test_a_proxy_that_is_not_used_is_not_named(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    assert run("inspect", "--checkpoint", REPOSITORY).returncode == 0
