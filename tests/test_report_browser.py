"""index.html in headless Chromium: it fits, sorts, filters, unfolds, and everybody can read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import BINARY, Chromium
from markdown_it import MarkdownIt
from synthetic import TEXT_MODELS, FakeModel, write_tree
from test_table_report import made_up, written

from benchmark import load_results
from benchmark.report import write_report

pytestmark = pytest.mark.skipif(
    BINARY is None and not os.environ.get("CI"), reason="no chromium on this machine"
)
LOOKS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]

OPEN_ALL = "document.querySelectorAll('details').forEach(fold => { fold.open = true; });"

LAYOUT = """
const problems = [];
const inScroll = element => element.closest(".scroll, svg, pre") !== null;
for (const element of document.body.querySelectorAll("*:not(.skip)")) {
  const box = element.getBoundingClientRect();
  if (inScroll(element) || !element.checkVisibility()) continue;
  if (box.right > innerWidth + 1 || box.left < -1)
    problems.push("outside: " + element.tagName + " " + element.textContent.slice(0, 40));
}
for (const cell of document.querySelectorAll("td, th, button, label, output, summary"))
  if (cell.scrollWidth > cell.clientWidth + 1 && getComputedStyle(cell).display !== "inline")
    problems.push("cut: " + cell.textContent);
for (const head of document.querySelectorAll("th[scope=row]"))
  if (head.checkVisibility() && head.clientHeight > 80)
    problems.push("squeezed: " + head.textContent);
// Every line of text outside of what scrolls: no two may lie on one another.
const lines = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, parent = node.parentElement;
  // What is folded has a place, too.
  if (!node.data.trim() || inScroll(parent) || !parent.checkVisibility()) continue;
  if (parent.closest(".skip, script, style")) continue;
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects())
    if (box.width > 1 && box.height > 1) lines.push({box, text: node.data.trim().slice(0, 40)});
}
lines.sort((a, b) => a.box.top - b.box.top);
for (let i = 0; i < lines.length; i++)
  for (let j = i + 1; j < lines.length && lines[j].box.top < lines[i].box.bottom - 4; j++) {
    const a = lines[i].box, b = lines[j].box;
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2)
      problems.push("overlap: " + lines[i].text + " / " + lines[j].text);
  }
const page = document.documentElement.scrollWidth;
return {width: innerWidth, page, lines: lines.length, problems};
"""

CONTRAST = """
// Colours as [red, green, blue, alpha], from rgb(), rgba() and color(srgb ...).
const parts = colour => {
  const numbers = colour.match(/[\\d.]+(e-?\\d+)?/g).map(Number);
  const [r, g, b] = colour.startsWith("color") ? numbers.map(n => 255 * n) : numbers;
  return [r, g, b, numbers.length > 3 ? numbers[3] : 1];
};
const luminance = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const colour = parts(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) return colour;
  }
  throw new Error("no ground");
};
const found = new Map();
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  if (!own || element.closest("svg, script, style")) continue;
  const style = getComputedStyle(element);
  const [a, b] = [luminance(parts(style.color)), luminance(ground(element))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const token = style.color + " on " + ground(element).map(Math.round).join(" ");
  found.set(token, Math.round(100 * ratio) / 100);
}
return Object.fromEntries(found);
"""

SHOWN = """
return [...document.querySelectorAll(".choosing tbody tr")]
  .filter(row => !row.hidden).map(row => row.dataset.model);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium") / "profile") as chromium:
        yield chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_tree(root / "results", rows=200, failed=["deit-tiny"])
    write_tree(root / "results", TEXT_MODELS, ["bbc-sentences"], rows=200, classes=5)
    return write_report(root / "results", root / "reports").folder


WIDE = (
    *(
        FakeModel(f"a-long-name-of-a-model-patch16-{i}", "attention", f"Family {i}", 10**6 * 2**i)
        for i in range(5)
    ),
    FakeModel("fast-and-accurate", "convolution", "ResNet", 10**6, 40.0, 1.5, 0.9),
    FakeModel("slow-and-accurate", "convolution", "RegNet", 10**7, 40.0, 1.5, 1.4),
    FakeModel("fast-and-poor", "mlp", "Mixer", 10**5, 2.0, 1.5, 0.4),
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Results and report of models that share datasets, so that they are compared across them."""
    root = tmp_path_factory.mktemp("wide")
    datasets = ["cifar-100-superclasses", "dtd", "flowers", "pets"]
    write_tree(root / "results", WIDE, datasets, rows=200, shifts=("noise-1", "noise-2"))
    return root / "results", write_report(root / "results", root / "reports").folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a published table with hostile names."""
    return written(tmp_path_factory.mktemp("table"), made_up())[0]


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
@pytest.mark.parametrize("which", ["folder", "wide", "table"])
def test_page_fits_the_window(
    which: str, width: int, scheme: str, browser: Chromium, request: pytest.FixtureRequest
) -> None:
    made = request.getfixturevalue(which)
    browser.open((made[1] if which == "wide" else made) / "index.html", width, scheme=scheme)
    folded = browser.run(LAYOUT)
    layout = browser.run(OPEN_ALL + LAYOUT)
    assert layout["width"] == width
    assert folded["problems"] == layout["problems"] == []
    assert layout["page"] <= width
    assert layout["lines"] > folded["lines"] > 20
    assert browser.complaints == []


def test_checks_see_what_is_wrong(folder: Path, browser: Chromium, tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    wrong = (
        '<h2 style="width:900px">too wide</h2><p style="height:4px;margin:0">below</p><p>above</p>'
        '<p style="color:#ccc;background:#fff">pale</p><script>console.error("oh")</script>'
    )
    page.write_text((folder / "index.html").read_text().replace("<nav", f"{wrong}<nav", 1))
    browser.open(page, 400)
    problems = browser.run(LAYOUT)["problems"]
    assert "outside: H2 too wide" in problems
    assert any(text.startswith("overlap: below") for text in problems)
    assert min(browser.run(CONTRAST).values()) < 2
    assert any("oh" in complaint for complaint in browser.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["folder", "wide", "table"])
def test_text_has_contrast(
    which: str, scheme: str, browser: Chromium, request: pytest.FixtureRequest
) -> None:
    """At least 4.5, as WCAG 2.2 asks of text (1.4.3, level AA), also on shaded cells."""
    made = request.getfixturevalue(which)
    browser.open((made[1] if which == "wide" else made) / "index.html", scheme=scheme)
    ratios = browser.run(OPEN_ALL + CONTRAST)
    assert len(ratios) >= 6
    assert {token: ratio for token, ratio in ratios.items() if ratio < 4.5} == {}


def test_dark_page_is_dark_and_so_are_its_figures(folder: Path, browser: Chromium) -> None:
    look = """
    const style = element => getComputedStyle(document.querySelector(element));
    return [style("body").backgroundColor, style("figure svg").filter];
    """
    browser.open(folder / "index.html", scheme="light")
    assert browser.run(look) == ["rgb(255, 255, 255)", "none"]
    browser.open(folder / "index.html", scheme="dark")
    ground, turned = browser.run(look)
    assert ground == "rgb(18, 18, 18)"
    assert turned.startswith("invert(0.93)")


def filled(browser: Chromium, **values: str) -> list[str]:
    """Type into fields of the filter form; return the models left in the choosing tables."""
    for name, value in values.items():
        browser.run(f"document.getElementById('filters').elements.{name}.select();")
        browser.type(value)
    return sorted(browser.run(SHOWN))


def test_filters_leave_the_model_that_a_query_finds(
    wide: tuple[Path, Path], browser: Chromium
) -> None:
    results, report = wide
    frame = load_results(results)
    tests = frame[(frame["split"] == "test") & (frame["status"] == "completed")]
    means = tests.groupby("model")[["accuracy_none", "latency_p50_ms"]].mean()
    found = sorted(means.query("accuracy_none >= .95 and latency_p50_ms <= 1").index)
    assert found == ["fast-and-accurate"]
    browser.open(report / "index.html")
    assert len(browser.run(SHOWN)) == len(WIDE) == len(means)
    assert filled(browser, accuracy="95") == sorted(means.query("accuracy_none >= .95").index)
    assert filled(browser, latency="1") == found
    assert browser.run("return document.getElementById('count').textContent") == "1 of 8 models"
    assert filled(browser, accuracy="0.95", latency="1,0 ms") == found
    invalid = "return document.getElementsByName('accuracy')[0].getAttribute('aria-invalid')"
    assert browser.run(invalid) == "false"
    assert filled(browser, accuracy="much", latency="1") == sorted(
        means.query("latency_p50_ms <= 1").index
    )
    assert browser.run(invalid) == "true"
    browser.run("document.querySelector('#filters button').click()")
    browser.run("return new Promise(done => setTimeout(done, 50))")
    assert len(browser.run(SHOWN)) == len(WIDE)


def test_filter_holds_in_every_table_and_finds_the_start_of_words(
    folder: Path, browser: Chromium
) -> None:
    browser.open(folder / "index.html")
    assert filled(browser, words="conv lfm") == ["lfm2-conv-tiny"]
    assert filled(browser, words="cnn") == []
    assert filled(browser, words="textcnn") == ["textcnn-tiny"]
    rows = """
    return [...document.querySelectorAll("#data-bbc-sentences table.sortable")]
      .map(table => [...table.tBodies[0].rows].filter(row => !row.hidden).length);
    """
    assert browser.run(rows) == [1, 1]
    filled(browser, words="")
    browser.run("document.querySelector('input[name=mixer][value=attention]').click()")
    mixers = """
    return [...document.querySelectorAll(".choosing tbody tr")]
      .filter(row => !row.hidden).map(row => row.dataset.mixer);
    """
    assert set(browser.run(mixers)) == {"convolution", "hybrid", "other"}
    note = "return document.querySelector('#data-bbc-sentences .shown').textContent"
    assert browser.run(note) == "4 of 7 rows pass the filters. "


SORTED = """
const table = document.querySelector("#data-bbc-sentences table.sortable");
const column = index => [...table.tBodies[0].rows].map(row => row.cells[index].dataset.value);
const header = index => table.tHead.rows[0].cells[index].firstElementChild;
const result = {};
header(3).click(); result.ascending = column(3).map(Number);
result.told = table.parentElement.nextElementSibling.textContent;
result.texts = [...table.tBodies[0].rows].map(row => row.cells[3].textContent);
header(3).click(); result.descending = column(3).map(Number);
header(0).click(); result.names = column(0);
return result;
"""


def test_tables_sort_and_say_by_which_number(folder: Path, browser: Chromium) -> None:
    browser.open(folder / "index.html")
    result: dict[str, Any] = browser.run(SORTED)
    assert result["ascending"] == sorted(result["ascending"])
    assert result["descending"] == result["ascending"][::-1]
    assert result["told"] == "Sorted by ECE %, after, lowest first."
    after = [float(text.split("→")[1]) for text in result["texts"]]
    assert after == sorted(after)
    assert result["names"] == sorted(model.name for model in TEXT_MODELS)


def test_keyboard_alone_sorts_filters_and_unfolds(folder: Path, browser: Chromium) -> None:
    browser.open(folder / "index.html")
    focus = """
    const element = document.activeElement, style = getComputedStyle(element);
    return [element.tagName, element.name || element.textContent.trim(), style.outlineStyle];
    """
    reached = []
    for _ in range(60):
        browser.press("Tab", 9)
        reached.append(browser.run(focus))
        if reached[-1][:2] == ["BUTTON", "accuracy"]:
            break
    names = [name for _, name, _ in reached]
    assert names[0] == "Skip to the contents"
    assert names.index("latency") < names.index("accuracy") < names.index("words")
    assert all(outline != "none" for *_, outline in reached)
    assert reached[-1][1] == "accuracy"
    browser.press("Enter", 13)
    sorted_by = "return document.activeElement.parentElement.getAttribute('aria-sort')"
    assert browser.run(sorted_by) == "ascending"
    browser.press("Enter", 13)
    assert browser.run(sorted_by) == "descending"
    browser.run("document.querySelector('#data-mnist-5k summary').focus()")
    browser.press("Enter", 13)
    assert browser.run("return document.getElementById('data-mnist-5k').open") is True


def test_a_link_opens_what_it_leads_to(folder: Path, browser: Chromium) -> None:
    browser.open(folder / "index.html")
    opened = "return document.getElementById('data-mnist-5k').open"
    assert browser.run(opened) is False
    browser.run("document.querySelector('nav a[href=\"#data-mnist-5k\"]').click()")
    browser.run("return new Promise(done => setTimeout(done, 50))")
    assert browser.run(opened) is True


def test_screen_readers_are_told_what_everything_is(
    wide: tuple[Path, Path], browser: Chromium
) -> None:
    browser.open(wide[1] / "index.html")
    browser.run(OPEN_ALL)
    assert [name.strip() for name in browser.names("textbox")] == [
        "latency at most, milliseconds",
        "accuracy at least, percent or share",
        "name",
    ]
    for role, least in (("button", 20), ("region", 10), ("image", 5), ("checkbox", 3), ("link", 8)):
        names = browser.names(role)
        assert len(names) >= least, role
        assert all(name.strip() for name in names), role
    regions = browser.names("region")
    assert len(set(regions)) == len(regions)
    headings = browser.names("heading")
    assert headings[1:3] == ["Which model should I take?", "Is the claim true?"]
    assert browser.names("rowheader")[:1]


@pytest.mark.parametrize("width", [1280, 400])
def test_rendered_markdown_fits_the_window(folder: Path, width: int, browser: Chromium) -> None:
    """As repository hosts show it: tables scroll, pictures shrink, nothing else is too wide."""
    renderer = MarkdownIt("gfm-like", {"linkify": False, "html": True})
    body = renderer.render((folder / "README.md").read_text())
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
    browser.open(page, width)
    layout = browser.run(OPEN_ALL + LAYOUT)
    assert browser.run("return document.querySelectorAll('details').length") > 5
    assert layout["page"] <= width
    assert layout["problems"] == []
