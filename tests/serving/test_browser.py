"""The page of `ark-hf serve` in a browser, Chromium without a screen, as people use it at a desk and on a phone."""

import base64
import csv
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
from ark_hf.inference.overlays import OPACITY, overlay
from tests.data.images.test_dicom import make_dicom, save
from tests.serving.test_page import (  # noqa: F401
    LONG,
    NAME,
    PHOTO,
    SECRET,
    all_labels,
    free_port,
    model,
    organs,
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

PIXELS = """each => {
  const { data } = each.getContext("2d").getImageData(0, 0, each.width, each.height);
  const parts = [], step = 2 ** 14;
  for (let at = 0; at < data.length; at += step) parts.push(String.fromCharCode(...data.subarray(at, at + step)));
  return [btoa(parts.join("")), each.width];
}"""
NAME_OF_FOCUS = "(({ dataset, name, className }) => dataset.do || name || className)(document.activeElement)"
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
        tab.wait_for_selector(".ark-choose input", state="attached")
        return tab

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == [] and complaints == []


def give(tab: Page, name: str, data: bytes) -> None:
    """Chooses a file and waits for the answer."""
    give_all(tab, {name: data})


def give_all(tab: Page, files: dict[str, bytes]) -> None:
    """Chooses files at once and waits until all are read."""
    tab.evaluate("document.querySelector('.ark-result').replaceChildren()")
    kind = "application/octet-stream"
    chosen = [{"name": name, "mimeType": kind, "buffer": data} for name, data in files.items()]
    tab.set_input_files(".ark-choose input", chosen)
    wait(tab)


def wait(tab: Page) -> None:
    tab.wait_for_selector(".ark-columns, .ark-error", state="attached")
    tab.wait_for_selector(".ark:not(.busy)", state="attached")
    tab.wait_for_function("() => [...document.querySelectorAll('.ark-view')].every(each => each.dataset.drawn)")


def pixels(tab: Page, canvas: str) -> np.ndarray:
    """(height, width, 4) of a view's `base` or `over`."""
    found = tab.locator(".ark-stage canvas").nth(["base", "over"].index(canvas))
    values, width = found.evaluate(PIXELS)
    return np.frombuffer(base64.b64decode(values), np.uint8).reshape(-1, width, 4)


def drawn_anew(tab: Page) -> None:
    """Waits until what was asked for is drawn."""
    tab.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def transform(tab: Page) -> list[float]:
    """Scale, and how far the picture is moved, in pixels."""
    text = tab.locator(".ark-stage").evaluate("each => getComputedStyle(each).transform")
    scale, _, _, _, x, y = map(float, text[text.index("(") + 1 : -1].split(","))
    return [scale, x, y]


def saved(tab: Page, button: str) -> tuple[str, bytes]:
    """Name and content of what a button saves."""
    with tab.expect_download() as download:
        tab.locator(f"[data-do={button}]").click()
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def rows_of(saved: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(saved.decode("utf-8-sig"), newline="")))


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

    radiograph, view = tab.locator(".ark-stage img"), tab.locator(".ark-view").bounding_box()
    assert radiograph.evaluate("each => [each.naturalWidth, each.naturalHeight]") == list(PHANTOM.size)
    assert min(view["width"], view["height"] * PHANTOM.width / PHANTOM.height) > 1280 / 2  # of the picture itself
    about = tab.locator(".ark-overlaid")
    before = pixels(tab, "over")
    assert before.shape == (PHANTOM.height, PHANTOM.width, 4) and before[..., 3].max() > 240
    tab.locator(".ark-row", has_text="Nodule").click()
    tab.wait_for_selector(".ark-view:not([data-drawn='1'])")
    assert about.inner_text().endswith("Nodule (north).") and (pixels(tab, "over") != before).any()
    tab.keyboard.press("ArrowDown")
    assert about.inner_text().endswith("Mass <b> (north).")
    assert_is_a_picture(tab.screenshot(), tmp_path / "desk.png", 1280)


def test_the_heat_map_is_laid_over_as_predict_lays_it(visit, pipe):  # noqa: F811
    tab = visit(**DESK)
    give(tab, "phantom.png", png(PHANTOM))
    label = next(each for each in all_labels(pipe(PHANTOM, heatmaps=True)) if each["label"] == "Edema")
    expected = np.asarray(overlay(np.asarray(PHANTOM)[None], label["heatmap"]), float)
    base, over = (pixels(tab, each).astype(float) for each in ("base", "over"))
    opacity = OPACITY * over[..., 3:] / 255
    laid_over = (1 - opacity) * base[..., :3] + opacity * over[..., :3]
    assert np.abs(laid_over - expected).mean() < 3 and np.abs(base[..., :3] - expected).mean() > 10
    picture = Image.open(io.BytesIO(saved(tab, "png")[1])).convert("RGB")
    assert np.abs(np.asarray(picture, float)[: PHANTOM.height] - laid_over).mean() < 1


def test_zoom_and_move(visit):
    tab = visit(**DESK)
    give(tab, "phantom.png", png(PHANTOM))
    box = tab.locator(".ark-view").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    assert transform(tab) == [1, 0, 0]
    tab.locator("[data-do=in]").click()
    scale, x, y = transform(tab)
    assert scale == pytest.approx(1.3) and x == pytest.approx(-0.15 * box["width"], abs=1)
    tab.mouse.move(box["x"] + 10, box["y"] + 10)
    tab.mouse.wheel(0, -200)
    assert transform(tab)[0] == pytest.approx(1.3 * np.exp(0.4), rel=1e-3)
    tab.mouse.move(*middle)
    before = transform(tab)
    tab.mouse.down()
    tab.mouse.move(middle[0] + 30, middle[1] + 20)
    tab.mouse.up()
    assert np.subtract(transform(tab), before) == pytest.approx([0, 30, 20], abs=1)
    tab.mouse.move(middle[0] + 90, middle[1])
    assert transform(tab)[1] == pytest.approx(before[1] + 30, abs=1)  # no button is held
    tab.locator("[data-do=reset]").click()
    assert transform(tab) == [1, 0, 0]
    tab.mouse.move(*middle)
    tab.mouse.wheel(0, 200)  # out of a whole picture: the page scrolls
    assert transform(tab) == [1, 0, 0]
    tab.locator(".ark-view").focus()
    tab.keyboard.press("+")
    tab.keyboard.press("+")
    tab.keyboard.press("Shift+ArrowRight")
    scale, x, _ = transform(tab)
    assert scale == pytest.approx(1.69) and x == pytest.approx(-0.345 * box["width"] - 40, abs=1)
    for _ in range(20):
        tab.keyboard.press("Shift+ArrowLeft")
    assert transform(tab)[1] == 0  # never past its edge
    for _ in range(30):
        tab.keyboard.press("+")
    assert transform(tab)[0] == 16
    seen = Image.open(io.BytesIO(saved(tab, "png")[1]))
    assert seen.width == pytest.approx(PHANTOM.width * box["width"] / min(box["width"], box["height"]), rel=0.05)
    tab.keyboard.press("0")
    tab.locator(".ark-view").press("0")
    assert transform(tab) == [1, 0, 0]


def test_window_level_and_opacity(visit):
    tab = visit(**DESK)
    give(tab, "phantom.png", png(PHANTOM))
    plain = pixels(tab, "base")[..., 0].astype(float)
    tab.locator("input[name=window]").fill("50")
    tab.locator("input[name=level]").fill("40")
    drawn_anew(tab)
    expected = np.clip((plain / 255 - 0.15) / 0.5, 0, 1) * 255
    assert np.abs(pixels(tab, "base")[..., 0] - expected).max() <= 1 and (plain != expected).any()
    over = tab.locator(".ark-stage canvas").last
    assert over.evaluate("each => getComputedStyle(each).opacity") == "0.65"
    before = tab.locator(".ark-view").screenshot()
    tab.locator("input[name=opacity]").fill("0")
    drawn_anew(tab)
    assert over.evaluate("each => getComputedStyle(each).opacity") == "0"
    assert tab.locator(".ark-view").screenshot() != before
    tab.locator(".ark-view").focus()
    tab.keyboard.press("o")
    drawn_anew(tab)
    assert over.evaluate("each => getComputedStyle(each).opacity") == "1"
    tab.keyboard.press("0")
    drawn_anew(tab)
    assert (pixels(tab, "base")[..., 0] == plain).all()
    assert over.evaluate("each => getComputedStyle(each).opacity") == "0.65"

    def values() -> list[str]:
        return tab.locator(".ark-controls output").all_inner_texts()

    assert values() == ["100 %", "50 %", "65 %"]
    for key in ("w", "Shift+W", "w", "L", "l", "L"):
        tab.keyboard.press(key)
    assert values() == ["95 %", "52 %", "65 %"]
    box = tab.locator(".ark-view").bounding_box()
    tab.mouse.move(box["x"] + 100, box["y"] + 100)
    tab.keyboard.down("Shift")
    tab.mouse.down()
    tab.mouse.move(box["x"] + 60, box["y"] + 140)
    tab.mouse.up()
    tab.keyboard.up("Shift")
    assert values() == ["85 %", "62 %", "65 %"] and transform(tab) == [1, 0, 0]


def test_several_files_their_table_and_the_keys_between_them(visit, pipe):  # noqa: F811
    tab = visit(**DESK)
    second = Image.fromarray(255 - np.asarray(PHANTOM))
    give_all(tab, {"=one,1.png": png(PHANTOM), "two.png": png(second), "three.png": b"x", "red.png": PHOTO})
    assert tab.locator(".ark-status").inner_text() == "4 files."
    results = [pipe(PHANTOM), pipe(second), None, pipe({"bytes": PHOTO, "path": "red.png"})]
    assert shown(tab) == expected(results[0])

    name, data = saved(tab, "csv")
    rows = rows_of(data)
    assert name == "answers.csv" and list(rows[0]) == [
        "file", "task", "label", "probability", "threshold", "positive", "warnings", "error",
    ]  # fmt: skip
    assert [row["file"] for row in rows] == ["'=one,1.png"] * 5 + ["two.png"] * 5 + ["three.png"] + ["red.png"] * 5
    told = {each: [row for row in rows if row["file"] == each] for each in ("two.png", "three.png", "red.png")}
    labels = all_labels(results[1])
    assert [float(row["probability"]) for row in told["two.png"]] == [each["score"] for each in labels]
    assert [(row["label"], row["positive"]) for row in told["two.png"]] == [
        (each["label"], "" if each["positive"] is None else str(each["positive"]).lower()) for each in labels
    ]
    assert "three.png" in told["three.png"][0]["error"] and told["three.png"][0]["probability"] == ""
    assert told["red.png"][0]["warnings"] == "; ".join(results[3]["warnings"]) != ""

    tab.locator(".ark-row", has_text="Nodule").click()
    tab.keyboard.press("ArrowRight")  # from the label that has the focus
    assert tab.locator("[aria-current]").inner_text().startswith("two.png") and shown(tab) == expected(results[1])
    assert tab.locator(".ark-overlaid").inner_text().endswith("Nodule (north).")  # the label stays
    tab.keyboard.press("ArrowRight")
    assert "three.png" in tab.locator(".ark-error").inner_text()
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")  # there is no other
    assert tab.locator(".ark-doubt").is_visible() and "doubts" in tab.locator("[aria-current]").inner_text()
    tab.locator("[data-do=previous]").click()
    assert tab.locator(".ark-error").is_visible()
    tab.locator(".ark-files li button").first.click()
    assert shown(tab) == expected(results[0])
    give(tab, "five.png", png(second))  # is added to the others
    assert tab.locator(".ark-files li").count() == 5 and shown(tab) == expected(results[1])
    tab.locator("[data-do=clear]").click()
    assert tab.locator(".ark-result").inner_html() == "" and not tab.locator(".ark-files").is_visible()


def test_a_folder_of_dicom(visit, pipe, tmp_path):  # noqa: F811
    folder = tmp_path / "patient"
    (folder / "a").mkdir(parents=True)
    stored = np.asarray(PHANTOM, np.uint16) << 4
    for number, place in enumerate(("IM10", "IM2", "a/x.dcm")):
        save(make_dicom(stored[number * 20 :], 12), folder / place)
    (folder / "notes.txt").write_text("x")
    (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (folder / "unknown").write_bytes(bytes(200))
    tab = visit(**DESK)
    tab.set_input_files(".ark-folder input", folder)
    wait(tab)
    names = [each.partition("\n")[0] for each in tab.locator(".ark-files li").all_inner_texts()]
    assert names == ["patient/a/x.dcm", "patient/IM2", "patient/IM10"]
    assert "3 files. 3 files of the folder are no images and were left out." in tab.locator(".ark-status").inner_text()
    assert shown(tab) == expected(pipe(str(folder / "a" / "x.dcm")))
    tab.locator("[data-do=next]").click()
    assert shown(tab) == expected(pipe(str(folder / "IM2")))
    assert "Sentinel" not in tab.content()
    assert {row["file"] for row in rows_of(saved(tab, "csv")[1])} == set(names)
    for each in folder.rglob("*"):
        if each.is_file() and each.name != "notes.txt":
            each.unlink()
    tab.locator("[data-do=clear]").click()
    tab.set_input_files(".ark-folder input", folder)
    tab.locator(".ark-error", has_text="One file of the folder is no image").wait_for()


def test_a_dropped_folder(visit, pipe, tmp_path):  # noqa: F811
    (tmp_path / "set" / "deep").mkdir(parents=True)
    for place in ("b.png", "deep/a.png"):
        (tmp_path / "set" / place).write_bytes(png(PHANTOM))
    tab = visit(**DESK)
    session = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(tmp_path / "set")], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 600, "y": 400, "data": data})
    wait(tab)
    names = [each.partition("\n")[0] for each in tab.locator(".ark-files li").all_inner_texts()]
    assert names == ["set/b.png", "set/deep/a.png"] and shown(tab) == expected(pipe(PHANTOM))


def test_pinch(visit):
    tab = visit(**PHONE)
    give(tab, "phantom.png", png(PHANTOM))
    session, box = tab.context.new_cdp_session(tab), tab.locator(".ark-view").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, apart in (("Start", 40), ("Move", 80), ("Move", 120)):
        points = [{"x": x + side * apart / 2, "y": y, "id": side + 1} for side in (-1, 1)]
        session.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert transform(tab)[0] == pytest.approx(3, rel=0.05)


def test_masks_are_toggled(browser, serve, organs, tmp_path):  # noqa: F811
    server = serve.start_page(serve.build_page(organs, "organs"), "127.0.0.1", free_port())
    context = browser.new_context(**DESK)
    try:
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        tab.goto(server.address)
        tab.wait_for_selector(".ark-choose input", state="attached")
        give(tab, "phantom.png", png(PHANTOM))
        boxes, legend = tab.locator(".ark-row input[data-colour]"), tab.locator(".ark-legend li:visible")
        found = boxes.count()
        assert found >= 1 and legend.count() == found
        everything = pixels(tab, "over")
        assert everything[..., 3].max() == 255
        boxes.first.uncheck()
        tab.wait_for_selector(".ark-view:not([data-drawn='1'])")
        assert legend.count() == found - 1 and (pixels(tab, "over") != everything).any()
        give(tab, "again.png", png(PHANTOM))
        assert not boxes.first.is_checked()  # as it was put for the file before
        tab.locator(".ark-all input").check()
        drawn_anew(tab)
        tab.wait_for_selector(".ark-view:not([data-drawn='1'])")
        assert (pixels(tab, "over") == everything).all()
        rows = rows_of(saved(tab, "csv")[1])
        assert [row["label"] for row in rows[: len(rows) // 2]] == organs.model.config.segmentation.labels
        assert list(rows[0]) == ["file", "task", "label", "pixels", "mm2", "mean_probability", "warnings", "error"]
        assert_is_a_picture(tab.screenshot(), tmp_path / "masks.png", 1280)
    finally:
        context.close()
        server.close()


def test_on_a_phone(visit, tmp_path):
    tab = visit(**PHONE)
    give(tab, f"{'long_name_of_a_file_' * 8}.png", png(PHANTOM))
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    right = "all => Math.max(...all.map(each => each.getBoundingClientRect().right))"
    assert tab.locator(".ark, .ark *").evaluate_all(right) <= 390  # nor is anything cut off
    assert LONG in tab.locator(".ark-tasks").inner_text()
    view = tab.locator(".ark-view").bounding_box()
    assert view["width"] == 390 and view["height"] == pytest.approx(390 * PHANTOM.height / PHANTOM.width, abs=1)
    for box in [tab.locator(each).first.bounding_box() for each in (".ark-view", ".ark-tasks .ark-box")]:
        assert box["y"] + box["height"] <= 844  # to be seen without scrolling
    buttons = tab.locator("button:visible").all()
    for each in [
        *tab.locator(".ark-row").all(),
        *tab.locator("summary").all(),
        *buttons,
        tab.locator(".ark-ways strong").first,
    ]:
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
    for control in tab.locator(".ark :is(input, button, select, [tabindex])").all():
        assert control.evaluate(
            "each => each.ariaLabel || each.title || [...each.labels || []].join() || each.textContent.trim()"
        )


def test_without_a_mouse(visit):
    tab = visit(**DESK)
    tab.locator("body").press("Tab")
    assert tab.evaluate("document.activeElement.type") == "file"
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.webkitdirectory")
    give(tab, "phantom.png", png(PHANTOM))
    assert tab.locator(".ark").get_by_role("status").inner_text().endswith("phantom.png: 1 above")  # is read aloud
    reached = set()
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.add(
            tab.evaluate("(({ dataset, name, className }) => dataset.do || name || className)(document.activeElement)")
        )
    assert reached >= {"in", "out", "png", "csv", "clear", "reset", "window", "level", "opacity", "ark-label"}
    assert "ark-view" in reached
    tab.locator(".ark-help summary").press("Enter")
    assert "previous and next file" in tab.locator(".ark-help").inner_text()


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
        for password, then in (("wrong", "text=Incorrect Credentials"), (SECRET, ".ark-choose input")):
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
