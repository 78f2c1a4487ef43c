import functools
import html
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import dask.array as da
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

from stackedae import (
    StackedAutoEncoder,
    StackedAutoEncoderClassifier,
    StackedAutoEncoderOutlierDetector,
    StackedAutoEncoderRegressor,
    extract_patches,
)
from stackedae.cli import main
from stackedae.errors import DataError, MissingExtraError, StoreExistsError
from stackedae.plotting.fitted import random_samples

mpl.use("Agg")

HOSTILE = '"><script>alert(1)</script><img src=http://example.org/x onerror=alert(2)>'
ALLOWED = {
    *("html", "head", "meta", "title", "link", "style", "body", "a", "header", "h1", "h2", "p"),
    *("nav", "ul", "li", "main", "section", "strong", "div", "footer"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "figure", "img", "figcaption"),
}
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, "an element is not closed"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture(scope="module")
def X():
    values = da.from_array(np.random.default_rng(0).random((400, 8, 8)), chunks=(100, 8, 8))
    attrs = {"stride": 3, HOSTILE: HOSTILE}
    return xr.DataArray(values, dims=("patch", "y", "x"), attrs=attrs)


@pytest.fixture(scope="module")
def sae(X):
    return StackedAutoEncoder((9, 4), max_iter=5, tol=0, random_state=0).fit(X)


@pytest.fixture(scope="module")
def report(sae, X):
    """Of a model and data that are out for harm."""
    sae.set_params(checkpoint=HOSTILE)
    sae.info["machine"] = sae.info["data"][HOSTILE] = HOSTILE
    sae.info["long"] = "x" * 10_000
    sae.info["many"] = [{"n": number} for number in range(300)]
    sae.info["deep"] = functools.reduce(lambda inner, _: {"d": inner}, range(5000), 1)
    sae.info["nested"] = functools.reduce(lambda inner, _: [inner], range(5000), 1)
    return sae.report(X, title=HOSTILE)


@pytest.fixture(scope="module")
def page(report):
    return Page(report.html)


def test_pictures_have_words_and_headings_an_order(page):
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.tags if tag in ("h1", "h2")] == ["h1"] + ["h2"] * 8
    pictures = page.all("img")
    assert len(pictures) == 2 + 2 + 1 + 2
    for picture in pictures:
        assert picture["src"].startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
        assert re.search(r"\d", picture["alt"]), "says the numbers"
        assert int(picture["width"]) > 0
        assert int(picture["height"]) > 0
    assert len(page.all("figcaption")) == len(pictures)
    assert "Layer 0: the cost falls from " in pictures[2]["alt"]


def test_every_link_leads_somewhere_and_no_id_is_twice(page):
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert page.all("a")[0] == {"class": "skip", "href": "#content"}
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(ids)


def test_tables_have_captions_and_headers(page):
    n_tables = len(page.all("table"))
    assert len(page.all("caption")) == n_tables
    assert {th["scope"] for th in page.all("th")} == {"col", "row"}
    assert len(page.all("thead")) == n_tables


def test_nothing_is_fetched_and_nothing_is_run(report, page):
    assert {tag for tag, _ in page.tags} == ALLOWED
    for _, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    style = re.search("<style>(.*?)</style>", report.html, re.DOTALL).group(1)
    assert not re.search(r"url\(|@import", style)


def test_what_a_model_says_is_text(report, page):
    assert "<script" not in report.html
    said = "".join(page.text)
    assert said.count(HOSTILE) == 2 + 2 + 2 + 1 + 1  # titles, data, attributes, parameter, machine
    assert "x" * 300 + "…" in said
    assert "x" * 301 not in said
    assert "more rows" in said
    assert len(report.html) < 500_000


def test_what_it_tells(page, sae):
    said = re.sub(r"\s+", " ", " ".join(page.text))
    for words in (
        "2 layers on samples of 8 × 8",
        "Layer 1 took all iterations, as tol=0 has it.",
        "Errors of 400 samples drawn at random",
        "patch 400, y 8, x 8",
        "n_samples 400",
        str(sae.info["data"]["crc32"]),
        "stride 3",
        "hidden_layer_sizes 9, 4",
        np.__version__,
        "Dead",
        "Saturated",
    ):
        assert words in said


def test_advice_where_a_layer_did_not_converge(X):
    with pytest.warns(UserWarning, match="MAX_ITER"):
        sae = StackedAutoEncoder(4, max_iter=2, random_state=0).fit(X[:50])
    said = html.unescape(sae.report().html)
    assert "! Not converged.</strong> Layer 0 ended as MAX_ITER: max_iter was reached" in said
    assert "Reconstructions" not in said


def said_by(estimator, X=None):
    return re.sub(r"\s+", " ", " ".join(Page(estimator.report(X).html).text))


def test_what_predicts_has_a_head_and_no_reconstructions(X):
    values, settings = X.values, {"max_iter": 3, "tol": 0, "validation": 0.2, "random_state": 0}
    classes = np.arange(len(X)) % 3
    classifier = StackedAutoEncoderClassifier((9, 4), **settings).fit(values, classes)
    said = said_by(classifier, X)
    for words in (
        "Stacked auto-encoder 64-9-4-3",
        "2 layers and a head of 3 outputs on samples of 8 × 8",
        f"the cost of all layers together is {classifier.cost_:.4g}",
        "The head took all iterations, as tol=0 has it.",
        "All layers together took all iterations, as tol=0 has it.",
        "Cross entropy",
        "Validation",
        "Head: 4 → 3 softmax",
        "All layers, all samples",
        "As the StackedAutoEncoderClassifier was made",
        "patch 400, y 8, x 8",
    ):
        assert words in said
    assert "Reconstructions" not in said
    regressor = StackedAutoEncoderRegressor(4, fine_tune=False, **settings).fit(values, classes)
    said = said_by(regressor)
    assert "1 layer and a head of 1 output on" in said
    assert f"the cost of the head is {regressor.cost_:.4g}" in said
    assert "Squared error" in said


def test_a_detector_tells_its_threshold(X):
    settings = {"max_iter": 3, "tol": 0, "fine_tune": True, "random_state": 0}
    detector = StackedAutoEncoderOutlierDetector(9, **settings).fit(X)
    said = said_by(detector, X)
    assert f"Outliers have an error above {-detector.offset_:.4g}." in said
    assert "All layers together took" in said
    assert "Errors of 400 samples" in said
    assert "Cross entropy" not in said


def contrast(one, other):
    def luminance(colour):
        channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_sufficient(report):
    schemes = re.findall(r":root \{(.*?)\}", report.html, re.DOTALL)
    assert len(schemes) == 3  # light, dark, print
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6})", scheme))
        for text in ("text", "quiet", "link", "good", "bad"):
            for ground in ("page", "band"):
                if text in colours:
                    assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_no_more_is_read_than_a_few_chunks(sae):
    read = []

    def note(block, block_info=None):
        if block_info:
            read.append(block_info[0]["chunk-location"][0])
        return block

    X = da.zeros((10_000, 8, 8), chunks=(100, 8, 8)).map_blocks(note, dtype=float)
    samples = random_samples(sae, X, 500, np.random.default_rng(0))
    assert len(set(read)) == 8
    assert samples.shape == (8 * 63, 8, 8)
    rows = np.arange(400)[:, None] * np.ones(64)
    drawn = random_samples(sae, rows, 50, np.random.default_rng(0))[:, 0]
    assert len(set(drawn)) == 50


def test_samples_that_are_no_pictures():
    X = np.random.default_rng(0).random((60, 7))
    sae = StackedAutoEncoder(3, max_iter=2, tol=0, random_state=0).fit(X)
    page = Page(sae.report(X).html)
    assert len(page.all("img")) == 2 + 1 + 1
    assert "Samples with 7 entries have no shape" in "".join(page.text)
    with pytest.raises(DataError, match="X has 8 features"):
        sae.report(da.zeros((5, 8)))


def test_it_leaves_no_trace_in_matplotlib(sae):
    with plt.style.context("dark_background"):
        before = dict(mpl.rcParams)
        first = sae.report().html
        assert dict(mpl.rcParams) == before
    assert not plt.get_fignums()
    pictures = [re.findall(r'src="(.*?)"', text) for text in (first, sae.report().html)]
    assert pictures[0] == pictures[1]


def test_files_appear_whole_and_are_not_replaced_unasked(report):
    report.save("there/report.html")
    assert Path("there/report.html").read_text(encoding="utf-8") == report.html
    with pytest.raises(StoreExistsError, match=r"there/report.html exists already"):
        report.save("there/report.html")
    report.save("there/report.html", overwrite=True)
    assert os.listdir("there") == ["report.html"]


def test_notebooks_show_it_in_a_frame_of_its_own(report):
    frame = report._repr_html_()
    shown = html.unescape(re.search('srcdoc="(.*?)"', frame, re.DOTALL).group(1))
    assert shown.replace('<base href="about:srcdoc">', "") == report.html
    assert 'sandbox=""' in frame


def test_without_matplotlib_the_extra_is_named(sae, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'stackedae\[plot\]'"):
        sae.report()


def test_command_line():
    images = np.random.default_rng(0).random((2, 30, 30))
    patches = extract_patches(images, (6, 6), 200, store="patches.zarr", rng=0)
    StackedAutoEncoder(4, max_iter=2, tol=0, random_state=0).fit(patches).save("model.zarr")
    words = ["report", "model.zarr", "--patches", "patches.zarr", "--title", "Mine"]
    result = CliRunner().invoke(main, [*words, "--out", "out/mine.html"])
    assert result.exit_code == 0, result.output
    page = Page(Path("out/mine.html").read_text(encoding="utf-8"))
    assert "Mine" in page.text
    assert any("random positions" in each for each in page.text)
    result = CliRunner().invoke(main, [*words, "--out", "out/mine.html"])
    assert result.exit_code == 2
    assert "out/mine.html exists already" in result.output
    result = CliRunner().invoke(main, [*words, "--out", "out/mine.html", "--overwrite"])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    # As root, as in containers, it refuses to run with its sandbox.
    options = ["--no-sandbox"] if os.getuid() == 0 else []
    with api.sync_playwright() as started:
        running = started.chromium.launch(executable_path=chromium, args=options)
        yield running
        running.close()


@pytest.mark.long
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_in_a_browser(browser, report, tmp_path, width, scheme):
    report.save(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    said, requests = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "report.html").as_uri())

    assert said == []
    assert [url[:7] for url in requests if not url.startswith("data:")] == ["file://"]
    assert page.title() == HOSTILE

    pictures = page.get_by_role("img").all()
    assert len(pictures) == 7
    for picture in pictures:
        assert picture.is_visible()
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        box = picture.bounding_box()
        assert box["width"] > 300
        assert box["x"] + box["width"] <= width

    root = "document.documentElement"
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 27)"}[scheme]

    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    assert skip.evaluate("link => link === document.activeElement")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'content'")
    page.keyboard.press("Tab")
    region = page.get_by_role("region", name="Layers, from the data up")
    assert region.evaluate("region => region === document.activeElement")
    assert region.evaluate("region => getComputedStyle(region).outlineStyle") == "solid"

    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("navigation", name="Contents").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("table", name="What training took").count() == 1
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 794, "height": 1123})  # A4
    assert page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth")
    assert not page.get_by_role("navigation").is_visible()
    page.close()


@pytest.mark.long
def test_links_lead_through_the_frame_in_a_notebook(browser, report):
    page = browser.new_page()
    page.set_content(f"<h1>Notebook</h1>{report._repr_html_()}")
    frame = page.query_selector("iframe").content_frame()
    assert frame.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    frame.get_by_role("link", name="Parameters").click()
    frame.wait_for_function("scrollY > 500")
    assert page.get_by_role("heading", name="Notebook").count() == 1
    page.close()
