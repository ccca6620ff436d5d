"""The container file of an image that holds a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatch

from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.k8s.weights.layers import LAYER_BYTES, containerfile

DIGEST = "ab" * 32
SMALL = {
    "checkpoint/config.json": 2_000,
    "checkpoint/tokenizer.json": 17_000_000,
    "engine/engine.json": 400,
    "engine/kernels/sm_90/grouped.cubin": 90_000,
    "model_repository/nano/config.pbtxt": 900,
    "model_repository/nano/1/model.py": 900,
}


def shards(*sizes: int) -> dict[str, int]:
    total = len(sizes)
    return {
        f"checkpoint/model-{number:05}-of-{total:05}.safetensors": size
        for number, size in enumerate(sizes, start=1)
    }


def copies(text: str) -> list[list[str]]:
    """The arguments of every COPY: one layer each."""
    return [
        json.loads(line.removeprefix("COPY "))
        for line in text.splitlines()
        if line.startswith("COPY ")
    ]


def layers(files: Mapping[str, int]) -> list[list[str]]:
    return [row[:-1] for row in copies(containerfile("base:1", files, "nano", DIGEST))]


def holds(source: str, name: str) -> bool:
    return name == source or (source.endswith("/") and name.startswith(source))


@given(st.lists(st.integers(min_value=1, max_value=3 * LAYER_BYTES), max_size=12))
def test_every_file_is_in_one_layer_and_none_is_too_large(sizes: list[int]) -> None:
    files = {**shards(*sizes), **SMALL}
    made = layers(files)
    for name in [*files, "bundle.json"]:
        assert sum(holds(source, name) for layer in made for source in layer) == 1, name
    for layer in made:
        held = [name for name in files if any(holds(source, name) for source in layer)]
        assert len(held) <= 1 or sum(files[name] for name in held) <= LAYER_BYTES


def test_weights_come_first_and_what_changes_often_last() -> None:
    made = layers({**SMALL, **shards(5_000_000_000, 4_900_000_000, 5_000_000_000)})
    assert [len(layer) for layer in made[:2]] == [2, 1]
    assert all(fnmatch(name, "checkpoint/*.safetensors") for layer in made[:2] for name in layer)
    assert made[2] == ["checkpoint/config.json", "checkpoint/tokenizer.json"]
    assert made[3:] == [["engine/"], ["model_repository/"], ["bundle.json"]]


def test_another_engine_leaves_the_layers_of_the_weights_as_they_are() -> None:
    weights = shards(5_000_000_000, 5_000_000_000, 5_000_000_000)
    engine = {"engine/kernels/sm_90/other.cubin": 1, "engine/llm_args.yaml": 3}
    assert layers({**weights, **SMALL})[:2] == layers({**SMALL, **engine, **weights})[:2]


def test_files_keep_their_folders() -> None:
    made = copies(containerfile("base:1", {**SMALL, "checkpoint/sub/a.json": 1}, "nano", DIGEST))
    assert ["checkpoint/sub/a.json", "/bundle/checkpoint/sub/"] in made
    assert ["engine/", "/bundle/engine/"] in made
    assert ["bundle.json", "/bundle/"] in made


def test_the_build_checks_the_bundle_as_the_user_that_serves_it() -> None:
    lines = containerfile("registry/base@sha256:1", SMALL, "nano", DIGEST).splitlines()
    assert "FROM registry/base@sha256:1" in lines
    check = next(line for line in lines if line.startswith("RUN "))
    assert lines.index("USER 1000") < lines.index(check)
    assert json.loads(check.removeprefix("RUN ")) == [
        "python3",
        "/bundle/model_repository/nano/1/nemo_deploy_runtime/check_bundle.py",
        "verify",
        "/bundle",
        f"--digest={DIGEST}",
    ]
