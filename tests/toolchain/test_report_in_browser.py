"""A report as a browser shows it: on a phone, in the dark, printed, by keyboard, and to a screen reader."""

import pytest
import report_sources
from chromium import Chromium, find

from da3.toolchain.report import write_report

# Texts and what is behind them: [words, contrast, the least there may be (WCAG 2.2, 1.4.3)] where that is too little.
_CONTRASTS = """(() => {
  const numbers = colour => {
    const found = colour.match(/[\\d.e-]+/g).map(Number);
    const whole = colour.startsWith('color(srgb') ? 1 : 255;
    return [...found.slice(0, 3).map(v => v / whole), found.length > 3 ? found[3] : 1];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = c => {
    const [r, g, b] = c.map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = node => {
    const layers = [];
    for (let at = node; at; at = at.parentElement) layers.push(numbers(getComputedStyle(at).backgroundColor));
    return layers.reduceRight((below, layer) => over(layer, below), [1, 1, 1, 1]);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), poor = [];
  let seen = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.checkVisibility({contentVisibilityAuto: true})) continue;
    const back = behind(element);
    const text = over(numbers(element.closest('svg') ? style.fill : style.color), back);
    const [dark, bright] = [light(text), light(back)].sort((a, b) => a - b);
    const size = parseFloat(style.fontSize), bold = style.fontWeight >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5, found = (bright + 0.05) / (dark + 0.05);
    seen += 1;
    if (found < least) poor.push([node.data.trim().slice(0, 30), found, least]);
  }
  return [seen, poor];
})()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if find() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    folder = tmp_path_factory.mktemp("report")
    paths = report_sources.write_everything(folder)[:3]
    return write_report([str(path) for path in paths], folder / "report.html", pictures=3)


@pytest.fixture(scope="module")
def browser(report, tmp_path_factory):
    with Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_every_section_is_there_and_nothing_goes_wrong(browser, report):
    browser.open(report)
    hidden = """[...document.querySelectorAll('nav a')].filter(link => {
      const box = document.getElementById(link.hash.slice(1)).closest('section, article').getBoundingClientRect();
      return box.height < 40 || box.width < 300;
    }).map(link => link.textContent)"""
    assert browser.ask("document.querySelectorAll('nav a').length") > 30 and browser.ask(hidden) == []
    drawn = "[...document.querySelectorAll('.drawing svg')].map(svg => svg.getBoundingClientRect().height)"
    assert len(browser.ask(drawn)) > 20 and min(browser.ask(drawn)) > 80
    pictures = "[...document.images].map(image => image.complete ? image.naturalWidth : 0)"
    assert len(browser.ask(pictures)) > 10 and min(browser.ask(pictures)) > 0
    assert browser.log == []
    assert {address.split(":")[0] for address in browser.requests} == {"file", "data"}
    assert [address for address in browser.requests if address.startswith("file")] == [report.as_uri()]


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_window(width, browser, report):
    browser.open(report, width=width)
    browser.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.ask("document.documentElement.scrollWidth") == width
    wide = f"""[...document.querySelectorAll('main *')].filter(one =>
      one.getBoundingClientRect().right > {width} + 1 && !one.closest('.scroll, svg')
    ).map(one => one.outerHTML.slice(0, 80))"""
    assert browser.ask(wide) == []
    # What can be scrolled begins with the names of its rows, which stay.
    stays = "getComputedStyle(document.querySelector('.scroll tbody th')).position"
    assert browser.ask(stays) == "sticky"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_either_light(scheme, browser, report):
    browser.open(report, scheme=scheme)
    browser.ask("document.querySelectorAll('details').forEach(one => one.open = true)")
    seen, poor = browser.ask(_CONTRASTS)
    assert seen > 2000 and poor == []
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 21, 27)"}[scheme]


def test_figures_change_with_the_light(browser, report):
    fills = """[...document.querySelectorAll('.drawing text, .drawing path')].map(one => {
      const style = getComputedStyle(one);
      return style.fill + style.stroke;
    })"""
    found = []
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        found.append(browser.ask(fills))
    coloured = [(a, b) for a, b in zip(*found, strict=True) if "rgb" in a]
    assert len(coloured) > 500 and [both for both in coloured if both[0] == both[1]] == []


def test_by_keyboard(browser, report):
    browser.open(report)
    browser.press("Tab")
    top = "document.activeElement.getBoundingClientRect().top"
    assert browser.ask("document.activeElement.className") == "skip" and browser.ask(top) >= 0
    browser.press("Enter")
    assert browser.ask("document.activeElement.id") == "main"
    reached = set()
    for _ in range(12):
        browser.press("Tab")
        reached.add(browser.ask("document.activeElement.tagName + '.' + document.activeElement.className"))
    assert {"DIV.scroll", "SUMMARY."} <= reached
    assert browser.ask("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    browser.ask("document.querySelector('main summary').focus()")
    browser.press("Enter")
    assert browser.ask("document.querySelector('main details').open")


def test_what_a_screen_reader_gets(browser, report):
    browser.open(report)
    nodes = [node for node in browser.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]

    def names(*roles):
        return [node["name"]["value"] for node in nodes if node["role"]["value"] in roles]

    figures = [name for name in names("image", "img") if "." in name]
    assert len(figures) > 20 and min(len(name) for name in names("image", "img")) > 10
    assert len(names("table")) > 20 and all(names("table")) and all(names("region"))
    assert len(names("rowheader")) > 50 and len(names("columnheader")) > 50
    assert names("navigation") == ["Contents"] and len(names("main")) == 1
    # Texts within a figure are not read one by one: the figure's own sentence is.
    assert "as sure as right" not in names("StaticText")


def test_on_paper(browser, report):
    """Black on white whatever the screen has, nothing folded away, no list of links."""
    browser.open(report, scheme="dark", media="print", width=800)
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    folded = """[...document.querySelectorAll('details')].filter(one =>
      !one.open && !one.lastElementChild.checkVisibility({contentVisibilityAuto: true})).length"""
    assert browser.ask("document.querySelectorAll('details').length") > 30 and browser.ask(folded) == 0
    printed = browser.pdf()
    assert printed.startswith(b"%PDF") and 5 < printed.count(b"/Type /Page\n") < 60
