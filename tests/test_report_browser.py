"""index.html in headless Chromium: it fits 1280 and 400 pixels, sorts and filters."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from synthetic import MODELS, TEXT_MODELS, write_tree

from benchmark.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium on this machine"
)
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

LAYOUT = """
document.querySelectorAll("details").forEach(details => { details.open = true; });
const problems = [];
const inScroll = element => element.closest(".scroll, svg, pre") !== null;
for (const element of document.body.querySelectorAll("*")) {
  const box = element.getBoundingClientRect();
  if (!inScroll(element) && box.width && (box.right > innerWidth + 1 || box.left < -1))
    problems.push("outside: " + element.tagName + " " + element.textContent.slice(0, 40));
}
const leaves = [...document.querySelectorAll("h1,h2,h3,p,td,th,a,label,summary,figcaption,li,pre")]
  .filter(element => element.getClientRects().length && !element.closest(".controls"));
for (const cell of document.querySelectorAll("td, th"))
  if (cell.scrollWidth > cell.clientWidth + 1) problems.push("cut: " + cell.textContent);
const blocks = [...document.body.querySelectorAll("h1,h2,h3,p,table,figure,nav,form")]
  .filter(element => element.getClientRects().length && !element.parentElement.closest("figure"));
for (let i = 0; i + 1 < blocks.length; i++) {
  const a = blocks[i].getBoundingClientRect(), b = blocks[i + 1].getBoundingClientRect();
  const apart = b.top >= a.bottom - 1 || b.left >= a.right - 1 || blocks[i].contains(blocks[i + 1]);
  if (!apart && !blocks[i + 1].closest("form") && !blocks[i].closest("form"))
    problems.push("overlap: " + blocks[i].textContent.slice(0, 40));
}
const page = document.documentElement.scrollWidth;
return {width: innerWidth, page, leaves: leaves.length, problems};
"""

SORT_AND_FILTER = """
const table = document.querySelector("table.sortable");
const column = index => [...table.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[index]);
const numbers = index => column(index).map(cell => Number(cell.dataset.value));
const names = () => column(0).map(cell => cell.textContent);
const header = index => table.tHead.rows[0].cells[index].firstElementChild;
const result = {before: names()};
header(5).click(); result.ascending = numbers(5);
header(5).click(); result.descending = numbers(5);
result.aria = table.tHead.rows[0].cells[5].getAttribute("aria-sort");
header(0).click(); result.byName = names();
const box = document.querySelector("input[name=mixer][value=attention]");
box.click(); result.withoutAttention = column(1).map(cell => cell.textContent);
result.note = table.parentElement.nextElementSibling.textContent;
box.click();
const filter = document.getElementById("filter");
filter.value = "textcnn"; filter.dispatchEvent(new Event("input"));
result.filtered = names();
return result;
"""


def evaluate(page: Path, script: str, width: int, tmp_path: Path) -> Any:
    """Run `script` in the page and return its value.

    The page is shown in a frame, because a window cannot be narrower than 500 pixels.
    """
    assert CHROMIUM, "CI must not leave these tests out: install chromium, as .ci/run does"
    code = (
        f"<script>document.body.dataset.result = JSON.stringify((() => {{ {script} }})());</script>"
    )
    inner = html.escape(page.read_text().replace("</body>", f"{code}</body>"))
    probe = page.with_name("probe.html")
    probe.write_text(
        '<!doctype html><html><head><meta charset="utf-8"></head><body>'
        f'<iframe style="width:{width}px;height:1000px;border:0" srcdoc="{inner}"></iframe><script>'
        'const frame = document.querySelector("iframe"); frame.addEventListener("load", () => '
        "document.body.dataset.result = frame.contentDocument.body.dataset.result);"
        "</script></body></html>"
    )
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--window-size=1400,1000", "--dump-dom", probe.as_uri()]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    finally:
        probe.unlink()
    found = re.search(r'<body data-result="([^"]*)"', done.stdout)
    assert found, done.stdout[:500] + done.stderr[-500:]
    return json.loads(html.unescape(found[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_tree(root / "results", rows=200, failed=["deit-tiny"])
    write_tree(root / "results", TEXT_MODELS, ["bbc-sentences"], rows=200, classes=5)
    return write_report(root / "results", root / "reports").folder


@pytest.mark.parametrize("width", [1280, 400])
def test_page_fits_the_window(folder: Path, width: int, tmp_path: Path) -> None:
    layout = evaluate(folder / "index.html", LAYOUT, width, tmp_path)
    assert layout["width"] == width
    assert layout["page"] <= width
    assert layout["leaves"] > 100
    assert layout["problems"] == []


def test_layout_check_sees_overflow(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    wide = '<h2 style="width:900px">too wide</h2>'
    page.write_text((folder / "index.html").read_text().replace("<nav", f"{wide}<nav", 1))
    layout = evaluate(page, LAYOUT, 400, tmp_path)
    assert "outside: H2 too wide" in layout["problems"]


def test_tables_sort_and_filter(folder: Path, tmp_path: Path) -> None:
    result = evaluate(folder / "index.html", SORT_AND_FILTER, 1280, tmp_path)
    assert len(result["before"]) == len(TEXT_MODELS)
    assert result["ascending"] == sorted(result["ascending"])
    assert result["descending"] == result["ascending"][::-1]
    assert result["aria"] == "descending"
    assert result["byName"] == sorted(model.name for model in TEXT_MODELS)
    assert set(result["withoutAttention"]) == {"convolution", "hybrid"}
    assert result["note"] == "4 of 7 rows match the filter."
    assert result["filtered"] == ["textcnn-tiny"]
    assert MODELS  # the other dataset's table is there as well


@pytest.mark.parametrize("width", [1280, 400])
def test_rendered_markdown_fits_the_window(folder: Path, width: int, tmp_path: Path) -> None:
    """As repository hosts show it: tables scroll, pictures shrink, nothing else is too wide."""
    body = MarkdownIt("gfm-like", {"linkify": False}).render((folder / "README.md").read_text())
    body = body.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )
    page = folder / "rendered.html"
    style = ".scroll{overflow-x:auto} td,th{white-space:nowrap} img{max-width:100%}"
    style += " body{font:16px/1.5 sans-serif;overflow-wrap:break-word}"
    page.write_text(
        '<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width"><style>{style}</style></head><body>{body}</body></html>'
    )
    layout = evaluate(page, LAYOUT, width, tmp_path)
    assert layout["page"] <= width
    assert layout["problems"] == []
