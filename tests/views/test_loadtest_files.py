"""Reports as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nemotron_deploy.core.errors import BadInputError, UsageError
from nemotron_deploy.loadtest import Level
from nemotron_deploy.tests.views.loadtest_reports import report, run
from nemotron_deploy.views.loadtest_files import SUFFIXES, require_writable, save


def test_the_suffix_says_what_a_file_holds(tmp_path: Path) -> None:
    document = report(run(Level(40, concurrency=1))).to_json()
    paths = [tmp_path / f"report{suffix}" for suffix in SUFFIXES]
    require_writable(paths)
    save(paths, document)
    texts = {path.suffix: path.read_text() for path in paths}
    assert json.loads(texts[".json"]) == document
    assert texts[".html"].startswith("<!doctype html>")
    assert texts[".csv"].startswith("model,url,")
    assert texts[".prom"].startswith("# HELP nemo_deploy_loadtest_")
    assert len(list(tmp_path.iterdir())) == len(SUFFIXES), "nothing else is left"


@pytest.mark.parametrize(
    ("names", "error", "problem"),
    [
        (["report.pdf"], UsageError, r"write one of \.json, \.html, \.csv, \.prom"),
        (["report"], UsageError, "the suffix names the format"),
        (["a.csv", "a.csv"], UsageError, "is given twice"),
        (["none/a.csv"], BadInputError, "create it first"),
        (["folder.csv"], BadInputError, "is a directory"),
    ],
)
def test_what_cannot_be_written_is_refused(
    tmp_path: Path, names: list[str], error: type[Exception], problem: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(error, match=problem):
        require_writable([tmp_path / name for name in names])
