"""The store: what is there is not computed again, another weight is another model, and damage is named."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value

import ark_hf.inference.embeddings as module
from ark_hf.data.build.build import encode_png
from ark_hf.inference import model_hash
from ark_hf.inference.embeddings import EmbeddingStore, embed_rows, open_store, picture_keys
from ark_hf.inference.load import load_ark
from ark_hf.inference.model_hash import hash_model
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel
from tests.training.conftest import TINY

TASK = ArkTask("toy", ["a"])
SETTINGS = {name: TINY[name] for name in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}
WIDTH = TINY["projector_dim"]


@pytest.fixture()
def model() -> ArkModel:
    torch.manual_seed(0)
    return ArkModel(ArkConfig(**SETTINGS)).eval()


@pytest.fixture(scope="module")
def processor() -> ArkImageProcessor:
    return ArkImageProcessor(size=TINY["image_size"])


def make_rows(numbers: list[int]) -> Dataset:
    """One picture a number; the same number is the same file."""
    pictures = [np.random.default_rng(number).integers(0, 256, (36, 40), dtype=np.uint8) for number in numbers]
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    return Dataset.from_dict(
        {"image": [encode_png(each) for each in pictures], "labels": [[float(n % 2)] for n in numbers]},
        features=features,
    )


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return make_rows([*range(20), 3, 3])


@pytest.fixture()
def seen(model, monkeypatch) -> list[int]:
    """Sizes of the batches that went through the model."""
    sizes: list[int] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda pixels: (sizes.append(len(pixels)), forward(pixels))[1])
    return sizes


def expected_embeddings(model: ArkModel, processor: ArkImageProcessor, rows: Dataset) -> np.ndarray:
    with torch.no_grad():
        return model(processor(rows["image"][:], return_tensors="pt")["pixel_values"]).embeddings.numpy()


def test_embeddings_are_the_model_s_in_the_order_of_the_rows(model, processor, rows, tmp_path):
    store = open_store(tmp_path / "store", model, processor, "embeddings", "some/where/ark-cxr")
    keys, computed = embed_rows(model, processor, rows, TASK, store, batch_size=6)
    assert computed == 20  # three of the rows are one picture
    embeddings = store.load(keys)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, expected_embeddings(model, processor, rows), atol=1e-6)
    np.testing.assert_array_equal(embeddings[[20, 21]], embeddings[[3, 3]])
    shuffled = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(store.load([keys[row] for row in shuffled]), embeddings[shuffled])
    described = json.loads((store.folder / "model.json").read_text())
    assert described["model"] == "ark-cxr" and described["width"] == WIDTH


def test_the_other_layer_is_kept_apart(model, processor, rows, tmp_path):
    stores = [open_store(tmp_path, model, processor, layer, "m") for layer in ("embeddings", "pooler_output")]
    for store in stores:
        keys, computed = embed_rows(model, processor, rows, TASK, store)
        assert computed == 20
    pooled = stores[1].load(keys)
    assert pooled.shape == (22, 32)
    projected = torch.from_numpy(pooled) @ model.projector.weight.T + model.projector.bias
    np.testing.assert_allclose(stores[0].load(keys), projected.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(("part_rows", "kept"), [(4, 8), (512, 8)])
def test_a_run_that_ends_midway_is_continued(model, processor, rows, tmp_path, monkeypatch, seen, part_rows, kept):
    monkeypatch.setattr(module, "PART_ROWS", part_rows)
    store = open_store(tmp_path, model, processor, "embeddings", "m")
    forward = model.forward

    def breaks(pixels):
        if sum(seen) >= kept:
            raise KeyboardInterrupt
        return forward(pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(model, "forward", breaks)
        embed_rows(model, processor, rows, TASK, store, batch_size=4)
    assert sum(seen) == kept == len(store.keys())

    seen.clear()
    keys, computed = embed_rows(model, processor, rows, TASK, store, batch_size=4)
    assert sum(seen) == computed == 20 - kept
    np.testing.assert_allclose(store.load(keys), expected_embeddings(model, processor, rows), atol=1e-6)
    seen.clear()
    assert embed_rows(model, processor, rows, TASK, store)[1] == 0 and seen == []


def test_what_a_killed_process_left_half_written_is_ignored(model, processor, rows, tmp_path):
    store = open_store(tmp_path, model, processor, "embeddings", "m")
    (store.folder / ".0123.new").write_bytes(b"half a file")
    keys, computed = embed_rows(model, processor, rows, TASK, store)
    assert computed == 20 and store.load(keys).shape == (22, WIDTH)


def test_a_failure_while_writing_leaves_no_part(tmp_path, monkeypatch):
    store = EmbeddingStore(tmp_path, "0" * 64, "embeddings", 2)

    def fails(table, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(module.pq, "write_table", fails)
    with pytest.raises(OSError, match="disk full"):
        store.add([b"k" * 32], np.zeros((1, 2), np.float32))
    assert [path.name for path in store.folder.iterdir()] == ["model.json"]


def test_two_writers_of_one_picture_agree(tmp_path):
    one, other = (EmbeddingStore(tmp_path, "0" * 64, "embeddings", 2) for _ in range(2))
    for store in (one, other):
        store.add([b"k" * 32, b"l" * 32], np.array([[1, 2], [3, 4]], np.float32))
    assert one.load([b"l" * 32, b"k" * 32, b"l" * 32]).tolist() == [[3, 4], [1, 2], [3, 4]]


def test_the_hash_is_of_what_makes_an_embedding(model, processor, tmp_path):
    torch.manual_seed(0)
    tasks = [ArkTask("toy", ["a", "b"])]
    classifier = ArkForImageClassification(ArkConfig(**SETTINGS, tasks=tasks))
    hashes = []
    for folder, change in (
        ("same", lambda: None),
        ("head", lambda: classifier.heads["toy"].weight.data.add_(1)),
        ("more", lambda: classifier.add_task(ArkTask("new", ["c"]))),
        ("encoder", lambda: next(classifier.ark.encoder.parameters()).data.view(-1)[0].add_(1e-3)),
        ("projector", lambda: classifier.ark.projector.bias.data[0].add_(1e-3)),
    ):
        change()
        classifier.save_pretrained(tmp_path / folder)
        processor.save_pretrained(tmp_path / folder)
        hashes.append(hash_model(*load_ark(str(tmp_path / folder), ArkModel)))
    same, head, more, encoder, projector = hashes
    assert same == head == more and len({same, encoder, projector}) == 3

    views = [ArkImageProcessor(**{"size": TINY["image_size"], **change}) for change in VIEWS]
    assert len({hash_model(model, view) for view in [processor, *views]}) == 1 + len(VIEWS)
    assert hash_model(model, ArkImageProcessor(size=TINY["image_size"])) == hash_model(model, processor)


def test_another_precision_is_another_model_and_float32_keeps_its_name(model, processor, rows, tmp_path):
    exact = hash_model(model, processor)
    settings = {name: getattr(model.config, name) for name in model_hash._MODEL_SETTINGS}
    settings |= {name: processor.to_dict().get(name) for name in model_hash._VIEW_SETTINGS}
    whole = hashlib.sha256(json.dumps(settings, sort_keys=True, default=dict).encode())
    for name, tensor in sorted(model.state_dict().items()):  # as stores that are there already were named
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    assert exact == whole.hexdigest()
    stores = [open_store(tmp_path, model, processor, "embeddings", "m")]
    first, _ = embed_rows(model, processor, rows, TASK, stores[0])
    model.to(torch.bfloat16)
    stores.append(open_store(tmp_path, model, processor, "embeddings", "m"))
    second, computed = embed_rows(model, processor, rows, TASK, stores[1])
    assert computed == 20 and [each.about["dtype"] for each in stores] == ["float32", "bfloat16"]
    difference = np.abs(stores[0].load(first) - stores[1].load(second)).max()
    assert 0 < difference < 0.05


def test_processes_that_read_files_change_nothing(model, processor, tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abcde"]
    for number, path in zip((0, 1, 2, 1), paths, strict=False):
        picture = np.random.default_rng(number).integers(0, 256, (36, 40), dtype=np.uint8)
        path.write_bytes(encode_png(picture)["bytes"])
    paths[4].write_bytes(b"no picture")
    done = []
    for workers in (0, 2):
        store = open_store(tmp_path / f"store-{workers}", model, processor, "embeddings", "m")
        done.append(module.embed_files(model, processor, paths, store, 2, "files", workers))
        assert (done[-1].computed, len(done[-1].unreadable), len(done[-1].keys)) == (3, 1, 4)
    assert done[0] == done[1]


VIEWS = [{"size": 40}, {"image_mean": [0.5] * 3}, {"intermediate_size": 64}, {"do_center_crop": True, "crop_size": 30}]


def test_ten_crops_give_the_mean_of_their_embeddings(model, tmp_path):
    rows, size = make_rows([0, 1, 2]), TINY["image_size"]
    crops = ArkImageProcessor(size=40, do_ten_crop=True, crop_size=size)
    store = open_store(tmp_path, model, crops, "embeddings", "m")
    keys, _ = embed_rows(model, crops, rows, TASK, store, batch_size=2)
    with torch.no_grad():
        each = model(crops(rows["image"][:], return_tensors="pt")["pixel_values"].flatten(0, 1)).embeddings
    np.testing.assert_allclose(store.load(keys), each.unflatten(0, (3, 10)).mean(1).numpy(), atol=1e-6)


def test_keys_are_of_the_stored_file(tmp_path, rows):
    keys = picture_keys(rows)
    assert keys[3] == keys[20] == keys[21] and len(set(keys)) == 20 and len(keys[0]) == 32
    path = tmp_path / "one.png"
    path.write_bytes(encode_png(np.random.default_rng(5).integers(0, 256, (36, 40), dtype=np.uint8))["bytes"])
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    referred = Dataset.from_dict({"image": [str(path)], "labels": [[0.0]]}, features=features)
    assert picture_keys(referred) == [keys[5]]


def test_nan_embeddings_are_explained_and_not_kept(model, processor, tmp_path):
    rows = make_rows(list(range(6)))
    store = open_store(tmp_path, model, processor, "embeddings", "m")
    with torch.no_grad():
        model.projector.bias[0] = torch.nan
    with pytest.raises(ValueError, match="'toy', row 0: the model gives NaN or infinite values"):
        embed_rows(model, processor, rows, TASK, store, batch_size=4)
    assert store.keys() == set()


def test_a_picture_that_cannot_be_decoded_is_named_and_the_others_kept(model, processor, tmp_path):
    broken = [*make_rows([0, 1, 2, 3]).cast_column("image", Image(decode=False))["image"][:], {"bytes": b"no picture"}]
    features = Features({"image": Image(), "labels": List(Value("float32"))})
    rows = Dataset.from_dict({"image": broken, "labels": [[0.0]] * 5}, features=features)
    store = open_store(tmp_path, model, processor, "embeddings", "m")
    with pytest.raises(ValueError, match="'toy', row 4: the image cannot be decoded"):
        embed_rows(model, processor, rows, TASK, store, batch_size=2)
    assert len(store.keys()) == 4


def add_one(folder: Path) -> tuple[EmbeddingStore, Path]:
    store = EmbeddingStore(folder, "ab" * 32, "embeddings", 300)
    store.add([bytes([n]) * 32 for n in range(20)], np.ones((20, 300), np.float32))
    return store, next(store.folder.glob("part-*.parquet"))


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage):
    store, path = add_one(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    if damage == "other":
        module.pq.write_table(module.pa.table({"x": [1]}), path)
    else:
        path.write_bytes({"cut": content[:-100], "flip": content, "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"{path.name} is damaged .*delete it and run `ark-hf embed` again"):
        store.load([bytes([1]) * 32])


def test_missing_pictures_are_counted(tmp_path):
    store, _ = add_one(tmp_path)
    with pytest.raises(ValueError, match="lacks 2 of 3 pictures; run `ark-hf embed` first"):
        store.load([bytes([1]) * 32, b"x" * 32, b"y" * 32])


def test_a_folder_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ValueError, match="no store of embeddings: it holds thesis.docx"):
        EmbeddingStore(tmp_path, "0" * 64, "embeddings", 2)
    with pytest.raises(ValueError, match="no store of embeddings"):
        EmbeddingStore(tmp_path / "thesis.docx", "0" * 64, "embeddings", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_a_set_of_another_model_is_refused(tmp_path):
    store, _ = add_one(tmp_path)
    with pytest.raises(ValueError, match="of another model"):
        EmbeddingStore(tmp_path, "ab" * 8 + "0" * 48, "embeddings", 300)
    (store.folder / "model.json").write_text("{")
    with pytest.raises(ValueError, match="damaged or of another model"):
        EmbeddingStore(tmp_path, "ab" * 32, "embeddings", 300)
