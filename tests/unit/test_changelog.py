"""The fragments in changelog.d become the next release's section; a name or a type that does not is an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_fragment_is_in_the_next_section() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2030-01-01"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    section = " ".join(done.stdout.split())
    assert "## [9.9.9] - 2030-01-01" in section
    for fragment in (ROOT / "changelog.d").glob("*.*.md"):
        assert " ".join(fragment.read_text(encoding="utf-8").split()) in section, fragment.name


def test_the_section_has_a_place_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    intro, mark, sections = changelog.partition("<!-- the next release goes here -->\n")
    assert mark
    assert "\n## " not in intro
    assert sections.lstrip().startswith("## [")
