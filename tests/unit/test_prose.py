"""The style guide of CONTRIBUTING.md, as far as a program can measure it; ruff (D401) holds the imperative."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Words that stand for a noun; a reader has to find which.
_WORDS = """
it its itself they them their theirs themselves this that these those which what whatever whichever who whom whose
whoever one ones he him his she her somebody anybody nobody everybody someone anyone everyone
"""
PRONOUNS = frozenset(_WORDS.split())
# Good documentation has 3 to 4 of 100.
MOST_PRONOUNS = 0.045
INSTEAD = {
    r"anew": "again",
    r"for good": "permanently",
    r"(go|goes|went|going) on": "continue",
    r"(held|hold|holds) against": "compare with",
    r"looked at": "check",
    r"left away": "omit",
    r"of late": "recently",
    r"mends?": "restore or fix",
    r"needs? somebody": "needs attention",
}


def prose(page: Path) -> str:
    """A page without code, comments and addresses of links."""
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", " ", text))


def share_of_pronouns(text: str) -> float:
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    return sum(word in PRONOUNS for word in words) / max(len(words), 1)


def test_few_words_stand_for_another() -> None:
    share = share_of_pronouns("\n".join(prose(page) for page in PAGES))
    worst = sorted(PAGES, key=lambda page: -share_of_pronouns(prose(page)))[:5]
    assert share < MOST_PRONOUNS, [(str(page.relative_to(ROOT)), share_of_pronouns(prose(page))) for page in worst]


def test_a_pronoun_is_counted() -> None:
    assert share_of_pronouns("What it gives is held against those of the `one` other") == pytest.approx(4 / 11)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_plain_verbs(page: Path) -> None:
    if page.name == "CONTRIBUTING.md":
        # The style guide names the words to avoid.
        return
    found = [
        f"{match[0]!r}: {better}"
        for words, better in INSTEAD.items()
        for match in re.finditer(rf"\b{words}\b", prose(page), re.IGNORECASE)
    ]
    assert not found


def test_the_places_of_changes_exist() -> None:
    """A newcomer opens the file that CONTRIBUTING names; each name is below the folder named before it."""
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where does my change go", 1)[1]
    rows = [line for line in table.split("\n## ", 1)[0].splitlines() if line.startswith("| a")]
    package = ROOT / "airflow_provider_backfill"
    for row in rows:
        folders = [package]
        names = [name for name in re.findall(r"`([\w/.*]+)`", row) if name.endswith(("/", ".py", ".js"))]
        assert names, row
        for name in names:
            found = [folder for folder in folders if any(folder.glob(name.rstrip("/")))]
            assert found, (name, row)
            folders += [folder / (name if name.endswith("/") else str(Path(name).parent)) for folder in found]
    assert len(rows) >= 10
