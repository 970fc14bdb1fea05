"""The page of a Genesis on a server, and its sliders in a browser."""

from types import SimpleNamespace

import pytest

from ark_hf import VolumeReader
from ark_hf.cli.serve import serve as serve_verb
from tests.data.volumes.made import nifti
from tests.inference.genesis_models import genesis_segmenter, save_genesis
from tests.inference.test_sliding_window import smooth_ct
from tests.serving.test_browser import browser, give, visit  # noqa: F401
from tests.serving.test_page import free_port, serve  # noqa: F401

pytestmark = pytest.mark.slow_ci  # gradio takes seconds to import

VOLUME = smooth_ct((13, 9, 7))
# Pixels of each view that something is laid over
OPAQUE = """() => [...document.querySelectorAll(".ark-stage canvas:last-child")].map(canvas =>
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .filter((value, at) => at % 4 === 3 && value > 0).length)"""


@pytest.fixture(scope="module")
def page(serve):  # noqa: F811
    page = serve.build_page(VolumeReader(*genesis_segmenter()), "organs")
    server = serve.start_page(page, "127.0.0.1", free_port())
    yield page
    server.close()


def test_sliders_change_the_slices(visit):  # noqa: F811
    tab = visit(viewport={"width": 1280, "height": 900})
    assert tab.locator("h1").inner_text() == "Volume" and "masks of lungs, vessels" in tab.locator(".ark").inner_text()
    assert "Convert a DICOM series to NIfTI first" in tab.locator(".ark-drop").inner_text()
    give(tab, "ct.nii.gz", nifti(VOLUME.voxels, VOLUME.affine, packed=True))
    assert tab.locator("figcaption").all_inner_texts() == [
        f"{plane}, slice {middle + 1} of {count}"
        for plane, middle, count in zip(("Axial", "Coronal", "Sagittal"), middles(), (7, 9, 13), strict=True)
    ]
    image, slider = tab.locator("figure img").first, tab.locator("input[data-slices]").first
    before = image.get_attribute("src")
    slider.fill("0")
    assert tab.locator("figcaption").first.inner_text() == "Axial, slice 1 of 7"
    tab.wait_for_function("before => document.querySelector('figure img').src !== before", arg=before)
    slider.focus()
    tab.keyboard.press("End")
    assert tab.locator("figcaption").first.inner_text() == "Axial, slice 7 of 7"
    assert image.evaluate("each => each.naturalWidth") > 100
    pictures = tab.locator(".ark-view").all()
    large, small = (each.bounding_box()["width"] for each in pictures[:2])
    assert large > 1280 / 2 > small
    slider.fill("3")
    tab.locator("figcaption", has_text="slice 4 of 7").wait_for()
    tab.wait_for_function(f"() => Math.max(...({OPAQUE})()) > 0")
    tab.locator(".ark-all").click()
    tab.wait_for_function(f"() => Math.max(...({OPAQUE})()) === 0")
    tab.locator(".ark-row:has(input)").last.click()
    tab.wait_for_function(f"() => Math.max(...({OPAQUE})()) > 0")
    assert tab.locator(".ark-all input").evaluate("each => each.indeterminate || each.checked")


def middles() -> list[int]:
    from ark_hf.inference.sliding_window import segment_volume
    from ark_hf.inference.volume_slices import VolumeSlices

    model, processor = genesis_segmenter()
    found = segment_volume(model, processor, VOLUME)
    return list(VolumeSlices(VOLUME, processor, model.config.segmentation, found).middle())[::-1]


def test_a_picture_is_refused_with_the_way_out(visit):  # noqa: F811
    tab = visit()
    give(tab, "chest.png", b"\x89PNG\r\n\x1a\n" + bytes(200))
    assert "2D picture (PNG), which models of radiographs (Ark) take" in tab.locator(".ark-error").inner_text()


def test_the_verb_serves_a_genesis(tmp_path, monkeypatch, capsys):
    from ark_hf.serving import page as module

    folder = save_genesis(tmp_path / "organs", genesis_segmenter())
    served = []
    there = SimpleNamespace(address="http://here", wait=lambda: None)
    monkeypatch.setattr(module, "start_page", lambda page, *where: served.append(page) or there)
    assert serve_verb([folder]) == 0
    assert "The page is at http://here" in capsys.readouterr().out
    assert served[0].title == "organs: volumes"
    model, processor = genesis_segmenter(None, num_labels=3)
    with pytest.raises(ValueError, match="is a segmenter without a named task"):
        serve_verb([save_genesis(tmp_path / "unnamed", (model, processor))])
