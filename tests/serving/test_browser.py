"""The page of `ark-hf serve` in a browser, Chromium without a screen, as people use it at a desk and on a phone."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from tests.data.images.test_dicom import make_dicom, save
from tests.serving.test_page import (  # noqa: F401
    LONG,
    NAME,
    PHOTO,
    SECRET,
    all_labels,
    free_port,
    model,
    page,
    pipe,
    png,
    serve,
)
from tests.wrong_inputs import wrong_inputs  # noqa: F401

pytestmark = pytest.mark.slow_ci

DESK = {"viewport": {"width": 1280, "height": 800}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
SILENT = ["background-networking", "component-update", "sync", "gpu"]
PHANTOM = draw_phantom_image(next(iter(SITES.values())), "test", 0, size=200)["image"]

# The WCAG contrast of every text on the page with what it stands on
CONTRASTS = """() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const luminance = rgb => rgb.slice(0, 3).map(value => value / 255)
    .map(value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = element => {
    for (let each = element; each; each = each.parentElement) {
      const colour = channels(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll(".ark *")].filter(element => element.checkVisibility() &&
    [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return texts.map(element => {
    const pair = [channels(getComputedStyle(element).color), ground(element)].map(luminance).sort((a, b) => b - a);
    return [element.textContent.slice(0, 40), (pair[0] + 0.05) / (pair[1] + 0.05)];
  });
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        message = f"none of {', '.join(names)} is installed; CHROMIUM may name another"
        if os.environ.get("ARK_HF_REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{each}" for each in SILENT)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, page) -> Iterator:  # noqa: F811
    """Opens the page; afterwards nothing was asked of another host, and nothing went wrong unseen."""
    contexts, elsewhere, complaints = [], [], []

    def open_page(**settings) -> Page:
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.set_default_timeout(30_000)

        def note(request):
            if urlsplit(request.url).scheme not in ("data", "blob"):
                if urlsplit(request.url).netloc != f"127.0.0.1:{page.server_port}":
                    elsewhere.append(request.url)

        contexts[-1].on("request", note)
        tab.on("websocket", lambda socket: elsewhere.append(socket.url))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("console", lambda message: message.type == "error" and complaints.append(message.text))
        tab.goto(f"http://127.0.0.1:{page.server_port}/")
        tab.wait_for_selector(".ark-drop input", state="attached")
        return tab

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == [] and complaints == []


def give(tab: Page, name: str, data: bytes) -> None:
    """Chooses a file and waits for the answer."""
    tab.evaluate("document.querySelector('.ark-result').replaceChildren()")
    tab.set_input_files(".ark-drop input", {"name": name, "mimeType": "application/octet-stream", "buffer": data})
    tab.wait_for_selector(".ark-columns, .ark-error", state="attached")
    tab.wait_for_selector(".ark:not(.busy)", state="attached")


def shown(tab: Page) -> list[tuple[str, str]]:
    return [tuple(tab.locator(f".ark-{each}").all_inner_texts()) for each in ("name", "score")]


def expected(result: dict) -> list[tuple[str, ...]]:
    labels, scores = all_labels(result), []
    for label in labels:
        verdict = ""
        if label["threshold"] is not None:
            verdict = f" {'above' if label['positive'] else 'below'} {100 * label['threshold']:.1f}\xa0%"
        scores.append(f"{100 * label['score']:.1f}\xa0%{verdict}")
    return [tuple(label["label"] for label in labels), tuple(scores)]


def assert_is_a_picture(screenshot: bytes, path: Path, width: int) -> None:
    path.write_bytes(screenshot)
    picture = Image.open(io.BytesIO(screenshot)).convert("RGB")
    assert picture.width == width
    assert len(picture.getcolors(picture.width * picture.height)) > 100


def test_at_a_desk(visit, pipe, tmp_path):  # noqa: F811
    tab = visit(**DESK)
    assert tab.locator("h1").inner_text() == "Chest radiograph" and NAME in tab.locator(".ark-model").inner_text()
    give(tab, "phantom.png", png(PHANTOM))
    result = pipe(PHANTOM)
    assert shown(tab) == expected(result)

    row = tab.locator(".ark-row", has_text="Edema")
    bar, mark, fill = (row.locator(each).bounding_box() for each in (".ark-bar", "u", "i"))
    edema = next(label for label in all_labels(result) if label["label"] == "Edema")
    assert mark["x"] + mark["width"] / 2 - bar["x"] == pytest.approx(edema["threshold"] * bar["width"], abs=1)
    assert fill["width"] == pytest.approx(edema["score"] * bar["width"], abs=1)

    radiograph, heat_map = tab.locator(".ark-pictures img").all()
    size = "each => [each.naturalWidth, each.naturalHeight]"
    assert radiograph.evaluate(size) == heat_map.evaluate(size) == list(PHANTOM.size)
    before = heat_map.get_attribute("src")
    tab.locator(".ark-row", has_text="Nodule").click()
    assert heat_map.get_attribute("src") != before and heat_map.get_attribute("alt").endswith("Nodule (north)")
    assert heat_map.evaluate(size) == list(PHANTOM.size)
    tab.keyboard.press("ArrowDown")
    assert heat_map.get_attribute("alt").endswith("Mass <b> (north)")
    assert_is_a_picture(tab.screenshot(), tmp_path / "desk.png", 1280)


def test_on_a_phone(visit, tmp_path):
    tab = visit(**PHONE)
    give(tab, f"{'long_name_of_a_file_' * 8}.png", png(PHANTOM))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    right = "all => Math.max(...all.map(each => each.getBoundingClientRect().right))"
    assert tab.locator(".ark, .ark *").evaluate_all(right) <= 390  # nor is anything cut off
    assert LONG in tab.locator(".ark-tasks").inner_text()
    for box in [tab.locator(each).first.bounding_box() for each in (".ark-pictures img", ".ark-tasks .ark-box")]:
        assert box["y"] + box["height"] <= 844  # to be seen without scrolling
    for each in [*tab.locator(".ark-row").all(), *tab.locator("summary").all(), tab.locator(".ark-drop strong")]:
        assert each.bounding_box()["height"] >= 44
    sizes = tab.locator(".ark *").evaluate_all("all => all.map(each => parseFloat(getComputedStyle(each).fontSize))")
    assert min(sizes) >= 14
    tab.locator(".ark-row").last.tap()
    tab.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    for each in (".ark-notice", ".ark-pictures"):  # stay beside the labels however far down these are
        assert 0 <= tab.locator(each).bounding_box()["y"] < 100
    assert_is_a_picture(tab.screenshot(), tmp_path / "phone.png", 390)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_every_picture_is_described(serve, visit, scheme):  # noqa: F811
    tab = visit(**DESK, color_scheme=scheme)
    give(tab, "notes.txt", b"not a picture")
    contrasts = tab.evaluate(CONTRASTS)
    give(tab, "red.png", PHOTO)
    contrasts += tab.evaluate(CONTRASTS)
    assert len(contrasts) > 30 and min(contrast for _, contrast in contrasts) >= 4.5, sorted(contrasts, key=str)
    assert tab.evaluate("getComputedStyle(document.querySelector('.ark')).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 27)"
    )
    assert all(image.get_attribute("alt") for image in tab.locator("img").all())
    assert tab.locator(".ark-doubt").is_visible() and tab.get_by_text(serve.NOTICE).is_visible()
    tab.locator("body").press("Tab")
    assert tab.evaluate("document.activeElement.type") == "file"


def test_dicom(visit, pipe, tmp_path):  # noqa: F811
    stored = (np.asarray(PHANTOM, np.uint16) << 4)[::2]
    data = save(make_dicom(stored, 12), tmp_path / "x.dcm").read_bytes()
    tab = visit(**DESK)
    give(tab, "1.2.840.113619.dcm", data)
    assert shown(tab) == expected(pipe(str(tmp_path / "x.dcm")))
    assert "Sentinel" not in tab.content()


def test_wrong_files_get_the_pipelines_reasons(visit, pipe, wrong_inputs):  # noqa: F811
    tab = visit(**DESK)
    refused = [each for each in wrong_inputs if each.kind == "refused" and each.path.is_file()]
    for each in refused:
        data = each.path.read_bytes()
        give(tab, each.name, data)
        with pytest.raises(UnreadableImageError) as reason:
            pipe({"bytes": data, "path": each.name})
        assert tab.locator(".ark-error li").inner_text() == str(reason.value)
    give(tab, "phantom.png", png(PHANTOM))
    assert shown(tab) == expected(pipe(PHANTOM)) and len(refused) > 20


def test_what_is_dropped_beside_the_zone_or_wrongly(serve, visit, pipe):  # noqa: F811
    tab = visit(**DESK)
    drop = """([names, size]) => {
      const data = new DataTransfer();
      for (const name of names) data.items.add(new File([new Uint8Array(size)], name));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
    }"""
    too_large = (serve.MAX_MEGABYTES + 1) * 2**20
    for names, size, reason in [
        (["a.png"], 9, "this is no PNG"),
        (["a.png", "b.png"], 9, "a single file"),
        (["a.dcm"], too_large, f"has {serve.MAX_MEGABYTES + 1} MB; up to {serve.MAX_MEGABYTES} MB are read"),
    ]:
        tab.evaluate(drop, [names, size])
        tab.locator(".ark-error", has_text=reason).wait_for()
    give(tab, "phantom.png", png(PHANTOM))
    assert shown(tab) == expected(pipe(PHANTOM))


def test_a_file_or_server_that_is_gone(visit):
    tab = visit(**DESK)
    tab.route("**/component_server/", lambda route: route.abort())
    give(tab, "phantom.png", png(PHANTOM))
    assert "The server does not answer" in tab.locator(".ark-error").inner_text()
    assert [each for each in visit.complaints if "ERR_FAILED" not in each] == []
    visit.complaints.clear()
    tab.evaluate("() => { FileReader.prototype.readAsDataURL = function () { this.onerror(); }; }")
    give(tab, "phantom.png", png(PHANTOM))
    assert "The browser cannot read it" in tab.locator(".ark-error").inner_text()


def test_a_password_comes_before_the_page(serve, pipe, browser):  # noqa: F811
    server = serve.start_page(serve.build_page(pipe, NAME), "127.0.0.1", free_port(), ("ward", SECRET))
    context = browser.new_context(**DESK)
    try:
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.goto(server.address)
        for password, then in (("wrong", "text=Incorrect Credentials"), (SECRET, ".ark-drop input")):
            name, word = tab.get_by_label("username"), tab.get_by_label("password")
            name.fill("ward")
            word.fill(password)
            assert NAME not in tab.content() and word.get_attribute("type") == "password"
            tab.get_by_role("button", name="Login").click()
            tab.wait_for_selector(then, state="attached")
        give(tab, "phantom.png", png(PHANTOM))
        assert shown(tab) == expected(pipe(PHANTOM))
    finally:
        context.close()
        server.close()
