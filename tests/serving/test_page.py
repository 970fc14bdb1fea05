"""`ark-hf serve` and the Space without a browser: what the page answers, keeps, logs and lets through."""

import base64
import http.client
import io
import json
import os
import re
import runpy
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement
from PIL import Image

from ark_hf.cli.serve import serve as serve_verb
from ark_hf.data.build.build import encode_png
from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.data.inputs import read_input
from ark_hf.inference.load import load_ark
from ark_hf.inference.overlays import OPACITY, TINT, enlarged_heat, heat_colours
from ark_hf.inference.pipeline import ChestXrayClassificationPipeline
from ark_hf.inference.segmentation_pipeline import ChestXraySegmentationPipeline
from ark_hf.inference.training_statistics import (
    TrainingStatistics,
    modality_statistics,
    model_hashes,
    write_training_statistics,
)
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification
from ark_hf.pages.html import escape
from ark_hf.serving.probabilities_answer import probabilities_answer, why_no_heat_maps
from tests.conftest import REPOSITORY
from tests.data.images.test_dicom import make_dicom, save
from tests.data.test_colours import colour_dicom
from tests.inference.segmenters import ORGANS, SIZE, save_segmenter, tiny_segmenter
from tests.models.ark.several_modalities import CHEST as CHEST_OF_BOTH
from tests.models.ark.several_modalities import EYE, save_both
from tests.wrong_inputs import wrong_inputs  # noqa: F401

pytestmark = pytest.mark.slow_ci  # a server for each process, and gradio takes seconds to import

SPACE = REPOSITORY / "hub_cards" / "space"
NAME = 'someone/ark ${1+1} {{x}} <b>"'
SECRET = "hunter2-of-the-ward"
LONG = "Pneumonoultramicroscopicsilicovolcanoconiosis_of_the_lower_lobe, and of what lies beside and behind it"
TASKS = [
    ArkTask("north", ["Edema", "Mass <b>", "Nodule"], thresholds={"Edema": 0.01, "Mass <b>": 0.99}),
    ArkTask("south_" * 8 + "hospitals", ["normal", LONG], "single_label_classification"),
]


def save_model(folder: Path, processor: dict | None = None, **config) -> str:
    torch.manual_seed(0)
    config = {"backbone": "test_resnet", "image_size": 64, "projector_dim": 8, **(config or {"tasks": TASKS})}
    ArkForImageClassification(ArkConfig(**config)).save_pretrained(folder)
    ArkImageProcessor(**{"size": 64, **(processor or {})}).save_pretrained(folder)
    return str(folder)


def load_pipeline(folder: str) -> ChestXrayClassificationPipeline:
    model, processor = load_ark(folder)
    return ChestXrayClassificationPipeline(model=model, image_processor=processor)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return save_model(tmp_path_factory.mktemp("served") / "ark-cxr")


@pytest.fixture(scope="module")
def pipe(model) -> ChestXrayClassificationPipeline:
    return load_pipeline(model)


@pytest.fixture(scope="module")
def serve():
    """The page's module, which imports gradio: that takes seconds, in every process that collects these tests."""
    from ark_hf.serving import page

    return page


@pytest.fixture(scope="module")
def page(serve, pipe):
    page = serve.build_page(pipe, NAME)
    server = serve.start_page(page, "127.0.0.1", free_port())
    yield page
    server.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


CHEST = png(Image.fromarray((np.random.default_rng(0).random((80, 100)) * 255).astype(np.uint8)))
CHEST_INPUT = {"bytes": CHEST, "path": "chest.png"}
PHOTO = png(Image.new("RGB", (300, 40), "red"))


def request(page, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict]:
    return ask(page.server_port, method, path, body, **headers)


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="host" in headers)
    for name, value in {"content_length": str(len(body or b"")), **headers}.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), {name.lower(): value for name, value in answer.getheaders()}


def send(page, name: str, data: bytes) -> str:
    """What the page's script gets for a file: HTML."""
    return send_to(page.server_port, name, data)


def send_to(port: int, name: str, data: bytes, **more: str) -> str:
    components = json.loads(ask(port, "GET", "/config")[1])["components"]
    component = next(each["id"] for each in components if each["type"] == "html")
    upload = {"name": name, "data": base64.b64encode(data).decode(), **more}
    message = {"data": upload, "component_id": component, "fn_name": "read", "session_hash": "test"}
    body = json.dumps(message).encode()
    status, text, headers = ask(port, "POST", "/gradio_api/component_server/", body, content_type="application/json")
    assert status == 200 and headers["cache-control"] == "no-store"
    return json.loads(text)


def read_directly(page, data: bytes, name: str = "chest.png") -> str:
    import gradio

    (html,) = [block for block in page.blocks.values() if isinstance(block, gradio.HTML)]
    return html.read({"name": name, "data": base64.b64encode(data).decode()})


class Answer(HTMLParser):
    """The parts of an answer, which is well-formed and brings everything that it shows."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.scores: list[str] = []
        self.images: list[dict] = []
        self.choices: list[dict] = []
        self.sliders: list[dict] = []
        self.facts: dict = {}
        self.styles: dict[str, list[str]] = {"i": [], "u": []}
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name, value in attributes.items():
            assert not name.startswith("on") and name not in ("href", "action", "srcset")
            assert name != "src" or value.startswith(("data:image/jpeg;base64,", "data:image/png;base64,"))
            assert name != "data-layer" or value.startswith("data:image/png;base64,")
        if tag == "img":
            self.images.append(attributes)
        elif tag == "input":
            inputs = self.choices if attributes["type"] in ("radio", "checkbox") else self.sliders
            inputs.append(attributes)
        else:
            self.open.append(attributes.get("class", tag))
        if "data-facts" in attributes:
            self.facts = json.loads(attributes["data-facts"])
        if attributes.get("class") == "ark-name":
            self.names.append("")
            self.scores.append("")
        if tag in self.styles:
            self.styles[tag].append(attributes["style"])

    def handle_endtag(self, tag):
        self.open.pop()

    def handle_data(self, data):
        if "ark-name" in self.open:
            self.names[-1] += data
        elif "ark-score" in self.open:
            self.scores[-1] += data


def all_labels(result: dict) -> list[dict]:
    return [label for task in result["tasks"].values() for label in task]


def picture_of(data_uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data_uri.split(",")[1]))), float)


@pytest.fixture(scope="module")
def page_of_both(serve, tmp_path_factory):
    """The page of a model of radiographs and of photographs of the eye."""
    pipe = load_pipeline(str(save_both(tmp_path_factory.mktemp("both") / "ark-cxr")))
    page = serve.build_page(pipe, NAME)
    server = serve.start_page(page, "127.0.0.1", free_port())
    yield page
    server.close()


def test_a_picture_is_answered_by_the_heads_of_its_modality(page_of_both, tmp_path):
    port, eye = page_of_both.server_port, encode_png(EYE)["bytes"]
    told = send_to(port, "eye.png", eye, modality="OP")
    assert set(Answer(told).names) == {"any_dr", "Edema"}
    assert "The picture was read as OP. For other images: chest, kinds." in told and "in colour" not in told
    chest = send_to(port, "chest.png", encode_png(CHEST_OF_BOTH)["bytes"], modality="")
    assert "Not asked" in chest and "read as CR. For other images: eye." in chest
    assert "It is in colour" in send_to(port, "eye.png", eye)
    file = save(colour_dicom(EYE), tmp_path / "eye.dcm").read_bytes()
    assert set(Answer(send_to(port, "eye.dcm", file)).names) == {"any_dr", "Edema"}
    shown = picture_of(Answer(told).images[0]["src"])
    assert np.ptp(shown, axis=-1).mean() > 30  # in its colours
    refused = send_to(port, "eye.png", eye, modality="MG")
    assert "This file cannot be read" in refused and "nothing for images of modality MG" in refused


def test_a_header_that_is_wrong_can_be_gainsaid_where_there_is_one_modality(serve, page, tmp_path):
    file = save(make_dicom(CHEST_OF_BOTH[0], 8, Modality="MG"), tmp_path / "scanned.dcm").read_bytes()
    refused = send_to(page.server_port, "scanned.dcm", file)
    assert "its header says that it is of modality MG" in refused and "say so: modality CR" in refused
    told = send_to(page.server_port, "scanned.dcm", file, modality="CR")
    assert Answer(told).names and "its header says that it is of modality MG, and it is read as CR" in told
    choice = serve._modality_choice(["CR"])
    assert re.findall('value="(.*?)"', choice) == ["", "CR"] and "As the file says<" in choice
    assert serve._modality_choice([]) == ""


def test_modalities_are_to_choose_from_and_photographs_named_where_there_are_any(page, page_of_both):
    pages = [json.dumps(ask(each.server_port, "GET", "/config")[1]) for each in (page, page_of_both)]
    assert all("Taken with" in each for each in pages) and ["or else CR" in each for each in pages] == [False, True]
    assert "photograph of the eye" in pages[1] and "Chest radiograph" not in pages[1]


def test_the_answer_is_the_pipelines(page, pipe):
    html = send(page, "chest.png", CHEST)
    answer = Answer(html)
    labels = all_labels(pipe(CHEST_INPUT))
    assert answer.names == [label["label"] for label in labels] and set(answer.names) >= {"Mass <b>", "normal"}
    for label, shown in zip(labels, answer.scores, strict=True):
        verdict = ""
        if label["threshold"] is not None:
            verdict = f"{'above' if label['positive'] else 'below'} {100 * label['threshold']:.1f}\xa0%"
        assert shown.strip() == f"{100 * label['score']:.1f}\xa0% {verdict}".strip()
    assert answer.styles["i"] == [f"width: {100 * label['score']:.2f}%" for label in labels]
    thresholds = [label["threshold"] for label in labels if label["threshold"] is not None]
    assert answer.styles["u"] == [f"left: {100 * threshold:.2f}%" for threshold in thresholds]
    assert len(thresholds) == 2
    summary = html[html.index("Above the operating point") : html.index("ark-key")]
    assert "<li>Edema (north) " in summary and "Mass" not in summary
    assert "chest.png, 100\xa0x\xa080 pixels" in html and "Reasons for doubt" not in html
    tasks = [task for task, each in pipe(CHEST_INPUT)["tasks"].items() for _ in each]
    assert answer.facts["rows"] == [
        {
            "task": task,
            "label": label["label"],
            "probability": label["score"],
            "threshold": label["threshold"],
            "positive": label["positive"],
        }
        for task, label in zip(tasks, labels, strict=True)
    ]
    assert answer.facts["brief"] == "1 above" and answer.facts["warnings"] == []


def test_every_label_has_its_heat_map(page, pipe):
    answer = Answer(html := send(page, "chest.png", CHEST))
    (checked,) = [choice for choice in answer.choices if "checked" in choice]
    assert checked["data-caption"] == "Heat map: what speaks for Edema (north)."  # alone above its operating point
    radiograph, bar = answer.images
    assert f"{checked['data-caption']}</span>" in html and radiograph["alt"] and bar["alt"]
    pixels = read_input(CHEST).pixels
    assert np.abs(picture_of(radiograph["src"]) - pixels[0]).mean() < 6  # JPEG, sent once
    colours = picture_of(bar["src"])[0]
    assert colours.shape == (256, 3) and (colours == np.rint(255 * heat_colours(np.linspace(0, 1, 256)))).all()
    labels, shown = all_labels(pipe(pixels, heatmaps=True)), []
    for label, choice in zip(labels, answer.choices, strict=True):
        shown.append(picture_of(choice["data-layer"]))
        assert shown[-1].shape == (51, 64)  # of 80 by 100 pixels
        heat = Image.fromarray(shown[-1].astype(np.float32)).resize((100, 80), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(heat) - 255 * enlarged_heat(label["heatmap"], (100, 80))).mean() < 2
        assert label["label"] in choice["data-caption"]
    assert np.abs(shown[0] - shown[1]).mean() > 3
    (slider,) = [each for each in answer.sliders if each["name"] == "opacity"]
    assert float(slider["value"]) == 100 * OPACITY


def test_an_answer_is_small(page):
    """Twenty-five labels more are 25 times a few kilobytes; the picture is sent once."""
    answer = Answer(html := send(page, "chest.png", CHEST))
    layers = [len(each["data-layer"]) for each in answer.choices]
    assert len(layers) == 5 and max(layers) < 8_000
    assert html.count(answer.images[0]["src"]) == 1


def test_reasons_for_doubt_come_first(page):
    html = send(page, "red.png", PHOTO)
    warnings = read_input(PHOTO).warnings
    assert len(warnings) >= 2
    assert all(html.index(escape(each[1:])) < html.index("ark-columns") for each in warnings)


def test_a_picture_unlike_the_training_images_is_doubted(model, tmp_path):
    shutil.copytree(model, tmp_path / "known")
    network, processor = load_ark(model)
    points = np.random.default_rng(0).normal(size=(600, network.base_model.embedding_dim))
    known = {"CR": replace(modality_statistics(points, points, ["north <b>"], 2), threshold=0.0)}
    write_training_statistics(tmp_path / "known", TrainingStatistics(model_hashes(network, processor), known))
    pipe = load_pipeline(str(tmp_path / "known"))
    html = probabilities_answer(pipe, read_input(CHEST), why_no_heat_maps(pipe))
    (doubt,) = pipe(CHEST_INPUT)["warnings"]
    assert doubt.startswith("it is unlike the training images of north <b>: its distance from them is ")
    assert escape(doubt[1:]) in html and html.index("Reasons for doubt") < html.index("ark-columns")


def test_every_file_gets_what_the_pipeline_says(page, pipe, wrong_inputs):  # noqa: F811
    for each in wrong_inputs:
        if not each.path.is_file():
            continue  # a browser has no such thing
        data = each.path.read_bytes()
        html = send(page, each.name, data)
        upload = {"bytes": data, "path": each.name}
        if each.kind == "warned":
            warnings = pipe(upload)["warnings"]
            assert any(each.message in warning for warning in warnings)
            assert all(escape(warning[1:]) in html for warning in warnings) and "ark-columns" in html
        else:
            with pytest.raises(UnreadableImageError) as reason:
                pipe(upload)
            assert escape(str(reason.value)) in html and "ark-columns" not in html


def test_names_are_text(page):
    name = """"><img src=x onerror='alert(1)'>.png"""
    assert len(Answer(send(page, name, CHEST)).images) == 2  # the radiograph and the legend's colours
    assert not Answer(send(page, name, b"x")).images


def test_a_model_without_operating_points_or_heat_maps(serve, tmp_path):
    crops = {"size": 80, "do_center_crop": True, "crop_size": 64}
    pipe = load_pipeline(save_model(tmp_path / "model", crops, num_labels=2, id2label={0: "no", 1: "yes"}))
    answer = read_directly(serve.build_page(pipe, "mine"), CHEST)
    assert "No operating points" in answer and "cuts crops" in answer
    parsed = Answer(answer)
    assert len(parsed.images) == 1 and not parsed.choices and sorted(parsed.names) == ["no", "yes"]
    assert "classifier" in answer


# Segmenters


@pytest.fixture(scope="module")
def organs() -> ChestXraySegmentationPipeline:
    return ChestXraySegmentationPipeline(model=tiny_segmenter(ORGANS), image_processor=ArkImageProcessor(size=SIZE))


def test_the_answer_of_a_segmenter_shows_each_mask_and_area(serve, organs, tmp_path):
    page = serve.build_page(organs, "organs")
    path = save(make_dicom(np.asarray(Image.open(io.BytesIO(CHEST))), 8, PixelSpacing=[4, 4]), tmp_path / "chest.dcm")
    for name, data in (("chest.png", CHEST), ("chest.dcm", path.read_bytes())):
        html = read_directly(page, data, name)
        answer, found = Answer(html), organs({"bytes": data, "path": name})
        assert [each.strip() for each in answer.names] == ["All masks", *ORGANS.labels]
        masks = list(found["masks"].values())
        for shown, each in zip(answer.scores[1:], masks, strict=True):
            area = f"{each['pixels']:,} pixels" if name == "chest.png" else f"{(each['mm2'] or 0) / 100:,.1f} cm²"
            words = f"{area} mean probability {100 * (each['score'] or 0):.1f} %" if each["pixels"] else "not found"
            assert " ".join(shown.split()) == words
        assert answer.styles["i"] == [f"width: {100 * each['mask'].mean():.2f}%" for each in masks]
        ratio = found["cardiothoracic_ratio"]
        assert ("No cardiothoracic ratio" if ratio is None else f"Cardiothoracic ratio {ratio:.2f}") in html
        assert ("does not say how large its pixels are" in html) == (name == "chest.png")
        assert [each["alt"] for each in answer.images] == ["The radiograph"]
        there = {number: each["mask"] for number, each in enumerate(masks) if each["pixels"]}
        assert there and all("checked" in each for each in answer.choices)
        assert [int(each["value"]) for each in answer.choices[1:]] == list(there)
        for choice, mask in zip(answer.choices[1:], there.values(), strict=True):
            layer = picture_of(choice["data-layer"])
            assert ((layer > 0) == mask).all() and set(np.unique(layer)) <= {0, round(255 * TINT), 255}
        assert [(each["label"], each["pixels"], each["mm2"]) for each in answer.facts["rows"]] == [
            (label, each["pixels"], each["mm2"]) for label, each in found["masks"].items()
        ]
    assert "This file cannot be read" in read_directly(page, b"no picture")
    assert "Reasons for doubt" in read_directly(page, PHOTO)


def test_the_answer_of_a_segmenter_that_finds_nothing(serve, organs):
    nothing = {"mask": np.zeros((80, 100), bool), "score": None, "pixels": 0, "mm2": None}
    masks = dict.fromkeys(ORGANS.labels, nothing)
    result = {"image": None, "warnings": [], "masks": masks, "cardiothoracic_ratio": None}

    class Nothing(ChestXraySegmentationPipeline):
        def __call__(self, inputs):
            return result

    page = serve.build_page(Nothing(model=organs.model, image_processor=organs.image_processor), "organs")
    html = read_directly(page, CHEST)
    assert html.count("<b>not found</b>") == 2 and "No cardiothoracic ratio" in html and "2 labels, 0 found" in html
    assert not Answer(html).choices


class Watch:
    """Files that this process opens for writing, and hosts that it turns to, while it is on."""

    def __init__(self):
        self.on = False
        self.written: list[str] = []
        self.hosts: list[str] = []
        sys.addaudithook(self.hook)  # for the life of the process: Python takes none away

    def hook(self, event: str, args: tuple):
        if not self.on:
            return
        if event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self.written.append(str(args[0]))
        elif event == "socket.connect" and isinstance(args[1], tuple):
            self.hosts.append(str(args[1][0]))
        elif event == "socket.getaddrinfo":
            self.hosts.append(str(args[0]))

    def __enter__(self):
        self.on, self.written, self.hosts = True, [], []
        return self

    def __exit__(self, *_):
        self.on = False


WATCH = Watch()


def test_nothing_is_written_logged_or_sent(serve, page, capfd, monkeypatch):
    def fail(*about):
        raise RuntimeError(about)

    send(page, "chest.png", CHEST)  # what is imported on first use has been
    capfd.readouterr()
    with WATCH:
        Path(os.devnull).write_text("")
        assert WATCH.written == [os.devnull]  # or the test could not fail
        WATCH.written.clear()
        read = send(page, "JANE_DOE.png", CHEST)
        unreadable = send(page, "JANE_DOE.dcm", b"JANE_DOE" * 1000)
        monkeypatch.setattr("ark_hf.serving.probabilities_answer._result", fail)
        failed = send(page, "JANE_DOE.png", CHEST)
        assert WATCH.written == [] and set(WATCH.hosts) == {"127.0.0.1"}
    assert "ark-columns" in read and "ark-error" in unreadable and "This file cannot be evaluated" in failed
    assert "RuntimeError" in failed
    output = "".join(capfd.readouterr())
    assert "RuntimeError" in output and Path(__file__).name in output  # where it happened is logged
    assert "JANE_DOE" not in output


def test_neither_start_nor_page_turn_to_another_host(serve, pipe):
    with WATCH:
        page = serve.build_page(pipe, "mine")
        server = serve.start_page(page, "127.0.0.1", free_port())
        status, html, headers = request(page, "GET", "/")
        css = request(page, "GET", "/theme.css")[1]
        server.close()
        assert set(WATCH.hosts) <= {"127.0.0.1", "localhost"}
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["'](https?:)?//|@import|preconnect""", html)
    assert '"stylesheets":[]' in html
    assert not re.search(r"""url\(["']?(?!["']?data:)|@import""", css) and "system-ui" in css
    assert not (page.share or page.analytics_enabled or page.run_history or page.enable_monitoring or page.pwa)
    assert page.footer_links == []


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/upload",
        "/gradio_api/queue/join",
        "/gradio_api/call/read",
        "/gradio_api/info",
        "/gradio_api/openapi.json",
        "/gradio_api/runs",
        "/gradio_api/proxy=https://example.org",
        f"/gradio_api/file={__file__}",
        "/gradio_api/process_recording",
        "/monitoring/summary",
        "/docs",
    ],
)
def test_what_the_page_does_not_need_is_not_there(page, path):
    for method in ("GET", "POST"):
        assert request(page, method, path, b"x", content_type="multipart/form-data; boundary=x")[0] == 404


def test_uploads_are_bounded_and_stay_in_memory(serve, page):
    path, most = "/gradio_api/component_server/", serve.MAX_MEGABYTES * 2**20
    assert request(page, "POST", path, b"--x", content_type="multipart/form-data; boundary=x")[0] == 415
    status, text, _ = request(page, "POST", path, content_type="application/json", content_length=str(most * 2))
    assert status == 413 and f"{serve.MAX_MEGABYTES} MB" in text
    script = request(page, "GET", "/")[1]
    assert f'data-megabytes=\\"{serve.MAX_MEGABYTES}\\"' in script and serve.NOTICE in script


def test_wrong_calls_are_explained_in_a_line(model, page, tmp_path, monkeypatch):
    for argv, message in [
        ([str(tmp_path)], "is not a model"),
        ([model, "--port", "0"], "--port must be from 1 to 65535, got 0."),
        ([model, "--port", "70000"], "--port must be from 1 to 65535, got 70000."),
        ([model, "--port", str(page.server_port)], f"port {page.server_port}"),
        ([model, "--host", "192.0.2.1", "--port", str(free_port())], "192.0.2.1"),
    ]:
        with pytest.raises((ValueError, OSError)) as caught:
            serve_verb(argv)
        assert message in str(caught.value) and "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match="^The page needs gradio: pip install gradio$"):
        serve_verb([model])


@pytest.fixture
def served(serve, monkeypatch) -> Iterator[list]:
    """The servers that the verb has started, which does not wait for them."""
    servers = []
    monkeypatch.setattr("ark_hf.serving.server.PageServer.wait", lambda server: servers.append(server))
    yield servers
    for server in servers:
        server.close()


def test_the_verb_serves_this_machine_alone_and_says_where(model, served, monkeypatch, capsys):
    port = free_port()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # of a network that has one; nobody answers there
    assert serve_verb([model, "--port", str(port)]) == 0
    told = capsys.readouterr()
    assert f"http://127.0.0.1:{port}/" in told.out and "Warning" not in told.err
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
    assert "ark-cxr: 5 labels in 2 tasks" in ask(port, "GET", "/")[1]


def test_the_verb_warns_of_other_machines_and_asks_for_a_password(model, served, monkeypatch, capsys):
    monkeypatch.setenv("ARK_HF_PASSWORD", SECRET)
    for options, told in (
        ([], "may use the page: pass --password"),
        (["--password"], "the password and pictures travel"),
    ):
        port = free_port()
        assert serve_verb([model, "--host", "0.0.0.0", "--port", str(port), *options]) == 0
        output = "".join(capsys.readouterr())
        assert told in output and "unencrypted" in output and SECRET not in output
        form = {"content_type": "application/x-www-form-urlencoded"}
        assert ask(port, "GET", "/", host="ark.hospital.org")[0] == 200
        read = ask(port, "POST", "/gradio_api/component_server/", b"{}", content_type="application/json")[0]
        if options:
            assert read == 401 and NAME not in ask(port, "GET", "/")[1]
            assert ask(port, "POST", "/login", b"username=ark&password=wrong", **form)[0] == 400
            status, _, headers = ask(port, "POST", "/login", f"username=ark&password={SECRET}".encode(), **form)
            assert status == 200 and "HttpOnly" in headers["set-cookie"]
            assert SECRET not in "".join(capsys.readouterr())
        else:
            assert read == 400


def test_a_password_is_asked_for_where_none_is_set(model, served, monkeypatch):
    monkeypatch.delenv("ARK_HF_PASSWORD", raising=False)
    monkeypatch.setattr("ark_hf.cli.serve.getpass", lambda prompt: SECRET)
    assert serve_verb([model, "--port", str(free_port()), "--password", "--user", "ward 3"]) == 0
    assert (
        ask(served[0].port, "POST", "/gradio_api/component_server/", b"{}", content_type="application/json")[0] == 401
    )
    monkeypatch.setattr("ark_hf.cli.serve.getpass", lambda prompt: "")
    with pytest.raises(ValueError, match="--password needs a password: set ARK_HF_PASSWORD, or give one when asked."):
        serve_verb([model, "--password"])


def test_the_space_is_the_same_page(serve, model, page, tmp_path, monkeypatch):
    card = SpaceCard.load(SPACE / "README.md")
    assert card.data.sdk == "gradio" and card.data.sdk_version.split(".")[0] == version("gradio").split(".")[0]
    assert (SPACE / card.data.app_file).name == "app.py" and card.data.license == "apache-2.0"
    assert len(card.data.short_description) <= 60  # the Hub's limit
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}  # the Hub takes no others
    assert {card.data.colorFrom, card.data.colorTo} <= colours
    assert serve.NOTICE in card.text
    # On no index yet, so the name alone would install whatever somebody else puts there
    requirement = (SPACE / "requirements.txt").read_text().strip()
    parsed = Requirement(requirement)
    assert (parsed.name, parsed.extras) == ("ark-hf", {"demo", "dicom", "segmentation"}) and parsed.url.startswith(
        "git+https://"
    )
    assert card.text.count("pip install") == card.text.count(f'pip install "{requirement}"') == 1
    monkeypatch.setenv("MODEL", model)
    app = runpy.run_path(str(SPACE / "app.py"))
    assert read_directly(app["page"], CHEST) == send(page, "chest.png", CHEST)
    monkeypatch.setenv("MODEL", save_segmenter(tmp_path, ORGANS))
    assert "All masks" in read_directly(runpy.run_path(str(SPACE / "app.py"))["page"], CHEST)
