"""Build the site of the documentation into build/docs: python docs/build.py

The pages lie where GitHub shows them: docs/, benchmarks/results, the changelog beside the README. Their links
are relative and lead somewhere there. This puts copies of them into build/site-source, with links that hold
in the site, and calls Zensical, for which a warning is an error.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "build" / "site-source"
SITE = ROOT / "build" / "docs"
CONFIG = "mkdocs.yml"

# Folders of the checkout, and where they lie in the site; what is in none of them keeps its path.
FOLDERS = {
    Path("docs"): Path(),
    Path("benchmarks/results"): Path("results/benchmarks"),
    Path("benchmarks/studies"): Path("results/studies"),
}
ALONE = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "export/tgems_export/demo/README.md")

FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#\s])")


def pages() -> Iterator[Path]:
    """Yield the pages of the site, relative to the checkout."""
    for folder in FOLDERS:
        found = (path.relative_to(ROOT) for path in sorted((ROOT / folder).rglob("*.md")))
        yield from (page for page in found if not page.name.endswith(".notes.md"))
    yield from map(Path, ALONE)


def place(path: Path) -> Path:
    """Return where a file of the checkout lies in the site."""
    for folder, target in FOLDERS.items():
        if path.is_relative_to(folder):
            return target / path.relative_to(folder)
    return path


def rewrite(page: Path, text: str) -> tuple[str, set[Path]]:
    """Return a page with links that hold in the site, and the files that it links to.

    Raises:
        SystemExit: a link leads to no file, or to a folder, of which a site has no listing.
    """
    linked = set()

    def move(match: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / match[0]))
        if not (ROOT / target).is_file():
            raise SystemExit(f"error: {page}: {match[0]} is no file; link to one")
        linked.add(target)
        return os.path.relpath(place(target), place(page).parent).replace(os.sep, "/")

    parts = FENCED.split(text)  # every other part is code
    parts[::2] = [LINK.sub(move, part) for part in parts[::2]]
    return "".join(parts), linked


def write_source() -> None:
    """Copy pages and what they link to into build/site-source."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    linked: set[Path] = set()
    shown = list(pages())
    for page in shown:
        text, targets = rewrite(page, (ROOT / page).read_text(encoding="utf-8"))
        linked |= targets
        copy = SOURCE / "pages" / place(page)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
    for target in linked.difference(shown):
        copy = SOURCE / "pages" / place(target)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / target, copy)
    shutil.copy(ROOT / "docs" / CONFIG, SOURCE)


def main() -> None:
    """Build the site; the exit code is that of Zensical where it finds something wrong."""
    if find_spec("zensical") is None:
        raise SystemExit("error: Zensical is missing: pip install '.[docs]', with Python 3.11 or later")
    write_source()
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", CONFIG]
    if code := subprocess.run(command, cwd=SOURCE).returncode:
        raise SystemExit(code)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(SOURCE / "site", SITE)
    print(f"the site begins at {SITE / 'index.html'}")


if __name__ == "__main__":
    main()
