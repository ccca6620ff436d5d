"""Listing, headers, downloads and their faults, against the stand-in."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.hub.client import cache_folder, download, list_repository
from nemotron_deploy.hub.faults import ChangedError, UnreachableError
from nemotron_deploy.hub.meter import StoppedError
from nemotron_deploy.hub.name import HubName
from nemotron_deploy.hub.snapshot import open_snapshot
from nemotron_deploy.hub.verified import Verified
from nemotron_deploy.model.checkpoint import Checkpoint
from nemotron_deploy.tests.hub.conftest import REPOSITORY
from nemotron_deploy.tests.hub.stand_in import SIGNATURE, StandIn, digests

NAME = HubName(REPOSITORY)
SHARD = "model-00002-of-00004.safetensors"


def test_listing_carries_commit_sizes_and_digests(hub: StandIn, sharded: Path) -> None:
    found = list_repository(NAME)
    assert found.commit == hub.commit(REPOSITORY)
    for name, file in found.files.items():
        sha256, blob = digests(sharded / name)
        assert file.bytes == (sharded / name).stat().st_size
        assert file.digest == (sha256 if name.endswith(".safetensors") else blob)


def test_a_snapshot_is_opened_by_its_headers_alone(hub: StandIn, sharded: Path) -> None:
    snapshot = open_snapshot(NAME)
    whole = Checkpoint.open(sharded)
    assert list(snapshot.checkpoint.tensors) == list(whole.tensors)
    assert snapshot.checkpoint.bytes == whole.bytes
    assert [shard.name for shard in snapshot.shards] == [path.name for path in whole.shards]
    weights = sum(path.stat().st_size for path in whole.shards)
    assert sum(sent for name, sent in hub.sent.items() if name.endswith(".safetensors")) < (
        weights / 4
    )
    assert "modeling_nemotron_h.py" not in hub.fetched()
    assert "modeling_nemotron_h.py" not in {file.name for file in snapshot.files}


def test_a_file_arrives_as_it_is_and_is_fetched_once(hub: StandIn, sharded: Path) -> None:
    repository = list_repository(NAME)
    counted: list[int] = []
    path = download(repository, repository.files[SHARD], on_bytes=counted.append)
    assert path.read_bytes() == (sharded / SHARD).read_bytes()
    assert sum(counted) == path.stat().st_size
    assert download(repository, repository.files[SHARD]) == path
    assert hub.starts(SHARD) == [0]


@pytest.mark.parametrize("reset", [False, True])
def test_a_dropped_connection_is_resumed_where_it_broke(
    hub: StandIn, sharded: Path, reset: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What arrived of the last chunk is lost, and a whole shard of `tiny` is less than one.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 16)
    repository = list_repository(NAME)
    hub.faults.cut[SHARD], hub.faults.reset = [300_000, 100_000], reset
    counted: list[int] = []
    path = download(repository, repository.files[SHARD], on_bytes=counted.append)
    assert path.read_bytes() == (sharded / SHARD).read_bytes()
    starts = hub.starts(SHARD)
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2]
    assert sum(counted) == path.stat().st_size


def test_a_connection_that_keeps_dropping_is_given_up(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    repository = list_repository(NAME)
    hub.faults.cut[SHARD] = [0] * 99
    with pytest.raises(UnreachableError, match=rf"{SHARD}.*dropped and could not be resumed"):
        download(repository, repository.files[SHARD])
    assert not any(cache_folder(REPOSITORY).rglob("*.incomplete"))


def test_a_file_with_another_hash_is_removed(hub: StandIn) -> None:
    repository = list_repository(NAME)
    hub.faults.flip = {SHARD}
    path, file = download(repository, repository.files[SHARD]), repository.files[SHARD]
    blob = path.resolve()
    with pytest.raises(ChangedError, match=rf"the hash of {SHARD} differs"):
        Verified(cache_folder(REPOSITORY)).check(repository, path, file)
    assert not path.is_symlink()
    assert not blob.exists()


def test_what_was_verified_is_hashed_again_only_when_touched(hub: StandIn) -> None:
    repository = list_repository(NAME)
    file = repository.files[SHARD]
    path, verified = download(repository, file), Verified(cache_folder(REPOSITORY))
    assert not verified.knows(path, file)
    verified.check(repository, path, file)
    assert verified.knows(path, file)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.resolve().write_bytes(data)
    assert not verified.knows(path, file)
    with pytest.raises(ChangedError):
        verified.check(repository, path, file)


def test_a_download_can_be_stopped(hub: StandIn) -> None:
    repository, stop = list_repository(NAME), threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        download(repository, repository.files[SHARD], stop=stop)
    assert not any(cache_folder(REPOSITORY).rglob("*.incomplete"))


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "", r"\(401\).*hf auth login"),
        (403, "GatedRepo", r"gated\. Accept its terms"),
        (403, "", r"forbidden \(403\).*hf auth login"),
        (404, "RepoNotFound", "no such repository on the hub"),
        (404, "RevisionNotFound", "no revision 'main'"),
        (429, "", r"too many requests \(429\)"),
        (500, "", r"status 500\. Try again later"),
    ],
)
def test_each_refusal_says_what_to_do(hub: StandIn, status: int, code: str, said: str) -> None:
    hub.faults.refuse = (status, code)
    with pytest.raises(BadInputError, match=said) as caught:
        open_snapshot(NAME)
    assert REPOSITORY in str(caught.value)


def test_a_revision_that_does_not_exist_is_named(hub: StandIn) -> None:
    with pytest.raises(BadInputError, match="no revision 'v9'"):
        open_snapshot(HubName(REPOSITORY, "v9"))


def test_no_hub_at_all_is_said_with_the_way_around(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="hf download example/nemotron-h-small"):
        open_snapshot(NAME)


def test_pickle_weights_are_never_fetched(hub: StandIn, tmp_path: Path) -> None:
    folder = tmp_path / "pickles"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    hub.repositories["example/pickles"] = folder
    with pytest.raises(BadInputError, match="pickle weights only"):
        open_snapshot(HubName("example/pickles"))
    assert hub.fetched() == []


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    snapshot = open_snapshot(NAME)
    for file in snapshot.files:
        download(snapshot.repository, file)
    asked: list[Any] = []
    signed: list[Any] = []
    for row in hub.requests:
        (signed if row.signed else asked).append(row.authorization)
    assert set(asked) == {"Bearer hf_secret"}
    assert set(signed) == {None}
    record = json.dumps(snapshot.record(computed=True))
    assert "hf_secret" not in record
    assert SIGNATURE not in record
