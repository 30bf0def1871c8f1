"""The documentation's site in headless Chromium, in a window 1,280 px wide; needs Debian's chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.airflow.site import open_browser
from tests.pages import build_site

if TYPE_CHECKING:
    from playwright.sync_api import Page

# Return what a reader cannot read: an identifier on two lines, and content beyond an edge without a scroll bar.
FAULTS = """() => {
  const faults = [];
  const words = function* (element) {
    const texts = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      for (const match of texts.currentNode.data.matchAll(/\\S+/g)) {
        const range = document.createRange();
        range.setStart(texts.currentNode, match.index);
        range.setEnd(texts.currentNode, match.index + match[0].length);
        yield [match[0], range.getClientRects()];
      }
    }
  };
  for (const code of document.querySelectorAll("td code, th code")) {
    for (const [word, lines] of words(code)) {
      if (new Set([...lines].map((line) => Math.round(line.top))).size > 1) faults.push(`broken: ${word}`);
    }
  }
  for (const table of document.querySelectorAll("table")) {
    let right = Math.max(...[...table.querySelectorAll("td, th")].map((cell) => cell.getBoundingClientRect().right));
    for (let box = table; box; box = box.parentElement) {
      const overflow = getComputedStyle(box).overflowX;
      const root = box === document.documentElement;
      const edge = root ? box.clientWidth : box.getBoundingClientRect().right;
      if (overflow === "auto" || overflow === "scroll") {
        // The reader can scroll to all of it, if the box itself is not cut.
        right = Math.min(right, edge);
      } else if ((overflow !== "visible" || root) && right > edge + 1) {
        faults.push(`cut: ${table.innerText.split("\\n")[0]}`);
        break;
      }
    }
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page is wider than the window");
  return faults;
}"""
CELL = "<table><tr><td><code>limits.maxPartsPerPartition</code></td><td>parts</td></tr></table>"


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser() as browser:
        yield browser.new_page(viewport={"width": 1280, "height": 800})


def test_tables_are_readable(page: Page, tmp_path: Path) -> None:
    build_site(tmp_path)
    pages = [path for path in sorted((tmp_path / "site").rglob("index.html")) if "<table>" in path.read_text()]
    faults = {}
    for path in pages:
        page.goto(path.as_uri(), wait_until="domcontentloaded")
        # The script of the theme puts each table into a box that scrolls.
        page.locator(".md-typeset__table table").first.wait_for()
        if found := page.evaluate(FAULTS):
            faults[str(path.parent.relative_to(tmp_path / "site"))] = found
    assert faults == {}
    assert len(pages) > 20, "the search for tables found too few pages"


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        (f"<div style='width: 90px; overflow-wrap: anywhere'>{CELL}</div>", "broken: limits.maxPartsPerPartition"),
        (f"<div style='width: 90px; overflow: hidden'>{CELL}</div>", "cut: limits.maxPartsPerPartition\tparts"),
        # A box that may scroll, but is as wide as its content.
        (
            f"<div style='width: 90px; overflow: hidden'><div style='width: 900px; overflow: auto'>{CELL}</div></div>",
            "cut: limits.maxPartsPerPartition\tparts",
        ),
        (f"<div style='width: 1400px'>{CELL}</div>", "the page is wider than the window"),
        (f"<div style='width: 90px; overflow: auto'>{CELL}</div>", None),
        (CELL, None),
    ],
)
def test_a_fault_is_found(page: Page, html: str, fault: str | None) -> None:
    page.set_content(html)
    assert page.evaluate(FAULTS) == ([fault] if fault else [])
