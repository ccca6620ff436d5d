"""`bundle.json` of others: checked against its types, brought up to date, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nemotron_deploy.core.bundle import Bundle, MadeFrom, building
from nemotron_deploy.core.errors import BadInputError
from nemotron_deploy.core.record import RECORD_NAME, SCHEMA, Header, parse_record
from nemotron_deploy.core.result import MADE_BY

OLD = Path(__file__).parent / "golden" / "bundle-schema-1.json"
"""A record that was written before stages said what made them."""

FILE = {"bytes": 3, "sha256": "ab" * 32}
RECORD: dict[str, Any] = {
    "schema": SCHEMA,
    "name": "tiny-h100-int4",
    "model_name": "tiny",
    "made_by": "nemo-deploy 0.1.0",
    "asked": {"gpu": "h100"},
    "backend": "pytorch",
    "needs": [],
    "complete": True,
    "files": {"engine/engine.json": FILE},
    "stages": {"engine": {"maker": "sources 1", "inputs": "2", "made_by": "x", "made": None}},
}


def written(directory: Path, document: object) -> Path:
    (directory / RECORD_NAME).write_text(json.dumps(document))
    return directory


def test_a_record_is_read(tmp_path: Path) -> None:
    bundle = Bundle.open(written(tmp_path, RECORD))
    assert (bundle.name, bundle.model_name, bundle.complete) == ("tiny-h100-int4", "tiny", True)
    assert bundle.files["engine/engine.json"].bytes == 3
    assert bundle.record.stages["engine"].maker == "sources 1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"complete": "no"}, "Expected `bool`, got `str`"),
        ({"name": None}, r"Expected `str`, got `null` - at `\$.name`"),
        ({"name": "../x"}, r"\$.name"),
        ({"model_name": "a/b"}, r"\$.model_name"),
        ({"needs": "none"}, r"Expected `array`, got `str` - at `\$.needs`"),
        ({"asked": []}, r"\$.asked"),
        ({"files": []}, "`files` is missing or not an object"),
        ({"files": {"a": []}}, "`files`, a is missing or not an object"),
        ({"files": {"a": {"bytes": 1}}}, "sha256"),
        ({"files": {"a": FILE | {"bytes": -1}}}, r">= 0 - at `\$.bytes`"),
        ({"files": {"a": FILE | {"bytes": 1.5}}}, r"\$.bytes"),
        ({"files": {"a": FILE | {"bytes": True}}}, r"\$.bytes"),
        ({"files": {"a": FILE | {"bytes": 10**30}}}, r"\$.bytes"),
        ({"files": {"a": FILE | {"sha256": "AB" * 32}}}, r"\$.sha256"),
        ({"files": {"a": FILE | {"sha256": "ab" * 31}}}, r"\$.sha256"),
        ({"files": {"a": FILE | {"sha256": "ab" * 32 + "\n"}}}, r"\$.sha256"),
        ({"stages": 1}, "`stages` is missing or not an object"),
        ({"stages": {"k8s": {"inputs": "1"}}}, "`stages`, k8s: Object missing required field"),
        ({"schema": "2"}, "`schema` is 2"),
        ({"schema": True}, "`schema` is True"),
        ({"schema": 0}, "`schema` is 0; known are 1 to 2"),
    ],
)
def test_a_malformed_record_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=rf"bundle\.json: .*{message}"):
        Bundle.open(written(tmp_path, RECORD | change))


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "a/../../outside", "a/./b", "/etc/passwd", "//x", "a//b", "", ".", "a/",
        "a\\..\\b", "bundle.json", "bundle.json/x", "a\nb", "a\x00b", "\ud800", "x" * 300,
        "a/" * 2000 + "b",
    ],
)  # fmt: skip
def test_paths_that_do_not_stay_in_the_bundle_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="which is not a file of a bundle"):
        Bundle.open(written(tmp_path, RECORD | {"files": {name: FILE}}))


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "engine.json").write_text("abc")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "engine").symlink_to(outside)
    checks = {check.name: check for check in Bundle.open(written(bundle, RECORD)).verify_files()}
    assert not checks["digests"].ok
    assert checks["digests"].detail.endswith("lies behind a symbolic link (engine)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested deeper"),
        (f'{{"a": [{"0," * 1_100_000}0]}}', "more than 1000000 values"),
        ('{"schema": 2, "schema": 1}', "a key stands in it twice"),
        ('{"a": "' + "x" * 10_000_000 + '"}', "too large"),
        ('{"schema": NaN}', "NaN"),
        ('{"schema": ' + "1" * 5000 + "}", "digits"),
        ("[]", "holds no JSON object"),
        ("{}", "`schema` is missing"),
    ],
)
def test_a_record_is_bounded_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / RECORD_NAME).write_text(text)
    with pytest.raises(BadInputError, match=message):
        Bundle.open(tmp_path)


def test_a_record_that_is_a_link_or_a_pipe_is_refused(tmp_path: Path) -> None:
    import os

    (tmp_path / RECORD_NAME).symlink_to("/etc/hostname")
    with pytest.raises(BadInputError, match="is a link to /etc/hostname"):
        Bundle.open(tmp_path)
    (tmp_path / RECORD_NAME).unlink()
    os.mkfifo(tmp_path / RECORD_NAME)
    with pytest.raises(BadInputError, match="is no regular file"):
        Bundle.open(tmp_path)


def test_a_newer_record_names_the_version_that_wrote_it(tmp_path: Path) -> None:
    newer = {"schema": SCHEMA + 1, "made_by": "nemo-deploy 7.1", "files": "elsewhere"}
    with pytest.raises(BadInputError, match=r"made by nemo-deploy 7\.1; upgrade") as raised:
        Bundle.open(written(tmp_path, newer))
    assert raised.value.exit_code == 4


def test_an_older_record_is_read(tmp_path: Path) -> None:
    old = json.loads(OLD.read_text())
    assert old["schema"] == 1
    record = Bundle.open(written(tmp_path, old)).record
    assert record.name == old["name"]
    assert set(record.files) == set(old["files"])
    assert record.stages["k8s"].made_by == old["made_by"]
    assert record.stages["checkpoint"].made == old["stages"]["checkpoint"]["made"]


def test_unknown_keys_survive_a_rewrite(tmp_path: Path) -> None:
    path = tmp_path / "b"
    header = Header(name="b", model_name="b", asked={})
    made_from = MadeFrom("encoding 1", "1")
    with building(path, header) as bundle:
        for stage in ("checkpoint", "engine"):
            bundle.run_stage(stage, made_from, lambda dest: (dest / "f").touch())
    document = json.loads((path / RECORD_NAME).read_text())
    document |= {"signature": {"by": "me"}, "unknown": 1}
    document["stages"]["checkpoint"]["host"] = "a"
    document["files"]["checkpoint/f"]["blake3"] = "b"
    document["files"]["engine/f"]["blake3"] = "old"
    with building(written(path, document), header) as bundle:
        bundle.run_stage("engine", made_from, lambda dest: (dest / "f").touch())
    again = json.loads((path / RECORD_NAME).read_text())
    assert (again["signature"], again["unknown"]) == ({"by": "me"}, 1)
    assert again["stages"]["checkpoint"]["host"] == "a"
    assert again["files"]["checkpoint/f"]["blake3"] == "b"
    assert "blake3" not in again["files"]["engine/f"]  # it was of the file that was replaced
    assert (again["schema"], again["made_by"]) == (SCHEMA, MADE_BY)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
changes = st.dictionaries(st.sampled_from(sorted(RECORD)), json_values, max_size=3)


@given(changes, st.dictionaries(st.text(max_size=8), json_values, max_size=3))
@example({}, {"stages": {"x": {}}})
def test_any_value_is_a_record_or_bad_input(change: dict[str, Any], inside: dict[str, Any]) -> None:
    files = {"files": {"a": FILE | inside, **inside}, "stages": inside}
    for document in (RECORD | change, RECORD | files | change, inside):
        try:
            record = parse_record(document, Path("bundle.json"))
        except BadInputError as error:
            assert "bundle.json" in str(error)
        else:
            assert isinstance(record.complete, bool)
            assert all(row.bytes >= 0 for row in record.files.values())
