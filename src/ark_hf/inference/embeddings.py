"""Embeddings computed once: a store on disk whose key is the picture and all that the model does to it."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate.utils import gather_object
from datasets import Dataset, Image
from tqdm.auto import tqdm

from ..data.images.image_files import IMAGE_SUFFIXES, sort_files
from ..data.inputs import RadiographInput
from ..data.loading import RowSamples, check_has_pictures, default_num_workers, iterate
from ..data.task_dataset import CARD_KEY, KIND_KEY, load_task_splits, read_any_task, split_names
from ..data.unlabelled import AnyTask
from ..files import printable, replacing, write_json
from ..models.ark.image_processing_ark import ArkImageProcessor
from ..models.ark.modeling_ark import ArkModel
from ..models.ark.tasks_ark import DEFAULT_MODALITY, check_modality
from ..provenance import shown_name
from .load import load_ark, process_state, usual_batch_size
from .model_hash import hash_model
from .read_files import default_readers, read_files

TABLE_SUFFIXES = (".parquet", ".npz")
PART_ROWS = 512  # embeddings a file, and the most that a killed run loses
READ_ROWS = 64  # stored pictures in memory at once while their keys are computed
_SET_NAME = r"[0-9a-f]{16}-[a-z_]+"


def picture_keys(rows: Dataset, description: str | None = None, modality: str = DEFAULT_MODALITY) -> list[bytes]:
    """
    The SHA-256 of each row's picture as it is stored: two rows with the same file, read in the same modality, have the
    same key.
    """
    check_has_pictures(rows.column_names, "The dataset")
    stored = rows.select_columns(["image"]).cast_column("image", Image(decode=False))
    starts = range(0, len(stored), READ_ROWS)
    keys = []
    for start in tqdm(starts, desc=description, disable=description is None, unit="batch", leave=False):
        for image in stored[start : start + READ_ROWS]["image"]:
            content = image["bytes"] if image["bytes"] is not None else Path(image["path"]).read_bytes()
            keys.append(hashlib.sha256(_of_modality(modality) + content).digest())
    return keys


def _of_modality(modality: str) -> bytes:
    return b"" if modality == DEFAULT_MODALITY else modality.encode()


class EmbeddingStore:
    """
    The embeddings that one model gives, in a folder of parquet files; other models have folders beside it.

    Several processes may write at once: files are written whole under names that no two share.

    Args:
        folder: The store, which may hold embeddings of other models.
        model_hash: As [`hash_model`] gives it.
        layer: Which vector: "embeddings" or "pooler_output" of `ArkModelOutput`.
        width: Its length.
        facts: What else `model.json` says of the model; for readers only.

    Raises:
        ValueError: `folder` is something else than a store.
    """

    def __init__(self, folder: Path, model_hash: str, layer: str, width: int, facts: dict[str, Any] | None = None):
        _check_is_store(folder)
        self.folder, self.width = folder / f"{model_hash[:16]}-{layer}", width
        self.facts = {"model_hash": model_hash, "layer": layer, "width": width}
        self.about = {**(facts or {}), **self.facts}
        described = self.folder / "model.json"
        if not described.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(described, self.about)
        try:
            there = json.loads(described.read_text(encoding="utf-8"))
            agrees = {name: there[name] for name in self.facts} == self.facts
        except (ValueError, KeyError, TypeError):
            agrees = False
        if not agrees:
            raise ValueError(f"{described} is damaged or of another model; delete the folder {self.folder}.")

    def keys(self) -> set[bytes]:
        """Keys of the pictures that are there."""
        return {key for path in self._parts() for key in self._read(path, ["key"])["key"].to_pylist()}

    def add(self, keys: Sequence[bytes], embeddings: np.ndarray) -> None:
        """Writes the embeddings, float32 (n, width), of the pictures with these keys as one new file."""
        table = pa.table(
            {
                "key": pa.array(keys, pa.binary(32)),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), self.width),
            }
        )
        options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
        with replacing(self.folder / f"part-{uuid4().hex}.parquet") as new:
            pq.write_table(table, new, **options)

    def load(self, keys: Sequence[bytes]) -> np.ndarray:
        """
        The embeddings of pictures in the order of their keys, float32 (n, width); a key may occur twice.

        Raises:
            ValueError: A picture has no embedding yet, or a file is damaged; the message names it.
        """
        places: dict[bytes, list[int]] = {}
        for place, key in enumerate(keys):
            places.setdefault(key, []).append(place)
        embeddings = np.empty((len(keys), self.width), dtype=np.float32)
        for path in self._parts():
            found = [
                (row, key) for row, key in enumerate(self._read(path, ["key"])["key"].to_pylist()) if key in places
            ]
            if found:
                stored = self._read(path, ["embedding"])["embedding"].combine_chunks().flatten().to_numpy()
                for row, key in found:
                    embeddings[places.pop(key)] = stored[row * self.width : (row + 1) * self.width]
        if places:
            raise ValueError(f"{self.folder} lacks {len(places)} of {len(keys)} pictures; run `ark-hf embed` first.")
        return embeddings

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _read(self, path: Path, columns: list[str]) -> pa.Table:
        schema = {"key": pa.binary(32), "embedding": pa.list_(pa.float32(), self.width)}
        try:
            table = pq.ParquetFile(path, page_checksum_verification=True).read(columns)
            return table.cast(pa.schema([(name, schema[name]) for name in columns]))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} is damaged ({reason}); delete it and run `ark-hf embed` again.") from None


def open_store(
    folder: Path, model: ArkModel, processor: ArkImageProcessor, layer: str, name: str | Path
) -> EmbeddingStore:
    """The place of a model's embeddings in a store; its name is written down for readers."""
    encoder: Any = model.encoder
    widths = {
        "embeddings": model.embedding_dim,
        "pooler_output": getattr(encoder, "head_hidden_size", encoder.num_features),
    }
    facts = {
        "model": shown_name(name),
        "backbone": model.config.backbone,
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return EmbeddingStore(folder, hash_model(model, processor), layer, widths[layer], facts)


@dataclass
class Embedded:
    """
    One split of a dataset, or a folder of images, whose `split` is "": the key of each picture in the store, what it
    is called (`image_ids`; of a folder the path, of a dataset without names the row's number), and how many
    embeddings were computed. `unreadable` names the files that cannot be read, and why; `left_out`
    are files of the folder that one may take for images, and that are none.
    """

    dataset: str
    split: str
    keys: list[bytes]
    computed: int
    image_ids: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


def embed(
    model: str,
    datasets: Sequence[str],
    store: str | Path = "embeddings",
    splits: Sequence[str] = (),
    layer: str = "embeddings",
    batch_size: int | None = None,
    num_workers: int | None = None,
    out: str | Path | None = None,
    dtype: str = "float32",
    compile: bool = False,
    modality: str | None = None,
) -> tuple[EmbeddingStore, list[Embedded]]:
    """
    Computes the embeddings of task datasets, and of folders of images, that a store lacks. Labels do not count.

    Args:
        model: Folder or Hub id of an ark-cxr.
        datasets: Folders or Hub ids of task datasets; image files, and folders that are searched for them.
        store: Folder of the embeddings of all models.
        splits: Of train, validation, test; all that there are unless set.
        layer: "embeddings", what the heads read, or "pooler_output", what the encoder gives.
        batch_size: Images a forward pass, 32 unless set, and fewer of large pictures, see [`usual_batch_size`].
        num_workers: Processes that read images; the package's own choice unless set, see [`default_readers`].
        out: Table of the embeddings by image, see [`write_embeddings`]; none unless set.
        dtype, compile: How the model computes, see [`move_model`]; embeddings of another dtype are another model's.
        modality: What image files were taken with, DICOM's code. Unless set what a DICOM file says; others are taken
            for images of the model's first modality. Of task datasets their cards say it.

    Returns:
        The model's place in the store, and what was done: `store.load(done[0].keys)` are the embeddings of the first
        split, float32 (rows, width).

    Raises:
        ValueError: The model or a dataset cannot be read, no image is in a folder, or `store` is something else.
    """
    if out is not None:
        check_table(out)
    files = {source: image_files(source) for source in datasets if holds_images(source)}
    tasks = {dataset: read_any_task(dataset) for dataset in datasets if dataset not in files}
    if splits and not tasks:
        raise ValueError("splits are those of task datasets, and none is named: leave them out.")
    if modality is not None:
        check_modality(modality, "modality")
        if not files:
            raise ValueError("modality is of image files, and none are named: of datasets their cards say it.")
    network, processor = load_ark(model, ArkModel, dtype, compile)
    place = open_store(Path(store), network, processor, layer, model)
    batch_size = batch_size or usual_batch_size(network, 32)
    done = []
    for source in dict.fromkeys(datasets):
        if source in files:
            images, left_out = files[source]
            name = shown_name(source)
            readers = default_readers(len(images)) if num_workers is None else num_workers
            done.append(embed_files(network, processor, images, place, batch_size, name, readers, modality))
            done[-1].left_out = left_out
            continue
        workers = default_num_workers(network.device) if num_workers is None else num_workers
        for split in splits or split_names(source):
            rows, name = load_task_splits(source, [split], images_only=True)[split], shown_name(source)
            description = f"{name}, {split}"
            keys, computed = embed_rows(
                network, processor, rows, tasks[source], place, batch_size, workers, description
            )
            done.append(Embedded(name, split, keys, computed, image_names(rows)))
    if out is not None:
        write_embeddings(Path(out), place, done)
    return place, done


def holds_images(source: str | Path) -> bool:
    """Whether it is an image file or a folder of images, and no task dataset, whose card says so."""
    path = Path(source)
    card = path / "README.md"
    told = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    return path.is_file() or path.is_dir() and not any(f"{key}:" in told for key in (CARD_KEY, KIND_KEY))


def image_files(source: str | Path) -> tuple[list[Path], list[Path]]:
    """
    A file itself, or the image files below a folder, and what else is there that one may take for images.

    Raises:
        ValueError: There are no images.
    """
    path = Path(source)
    files, left_out = ([path], []) if path.is_file() else sort_files(path)
    if not files:
        raise ValueError(
            f"{source} holds neither a task dataset (it has no card README.md with `{CARD_KEY}`) nor files with the "
            f"suffixes {', '.join(IMAGE_SUFFIXES)}."
        )
    return files, left_out


def image_names(rows: Dataset) -> list[str]:
    """The `image_id` of each row; its number where it has none."""
    names = rows["image_id"][:] if "image_id" in rows.column_names else [None] * len(rows)
    return [str(number) if name is None else str(name) for number, name in enumerate(names)]


@torch.no_grad()
def embed_files(
    model: ArkModel,
    processor: ArkImageProcessor,
    paths: Sequence[Path],
    store: EmbeddingStore,
    batch_size: int = 32,
    name: str = "",
    num_workers: int = 0,
    modality: str | None = None,
) -> Embedded:
    """
    Computes what the store lacks of image files, which are read as `ark-hf predict` reads them.

    Args:
        model: In eval mode.
        name: What the files are called together.
        num_workers: Processes that read files; 0 reads them in this one.
        modality: What they were taken with; unless set what each file says.

    Returns:
        What was done; files that cannot be read are in its `unreadable`.

    Raises:
        ValueError: None can be read, or the model gives NaN or infinite values for one.
    """
    done, there = Embedded(name, "", [], 0), store.keys()
    batches = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    loaded = read_files(batches, processor, num_workers, _hash_pixels, modality)
    for batch, (found, pixel_values) in tqdm(
        zip(batches, loaded, strict=True), desc=name, total=len(batches), unit="batch", leave=False
    ):
        inputs = iter(() if pixel_values is None else pixel_values)
        pictures: dict[bytes, tuple[str, torch.Tensor]] = {}
        for path, key in zip(map(printable, batch), found, strict=True):
            if isinstance(key, str):
                done.unreadable.append((path, key))
                continue
            done.keys.append(key)
            done.image_ids.append(path)
            picture = next(inputs)
            if key not in there:
                pictures[key] = (path, picture)
        if pictures:
            stacked = torch.stack([pixel_values for _, pixel_values in pictures.values()])
            embeddings = _embeddings(model, stacked, str(store.facts["layer"]))
            _check_finite(embeddings, [path for path, _ in pictures.values()])
            store.add(list(pictures), embeddings)
            there |= pictures.keys()
            done.computed += len(pictures)
    if not done.keys:
        raise ValueError(f"{name}: none of {len(paths)} files can be read; the first: {done.unreadable[0][1]}.")
    return done


def _hash_pixels(image: RadiographInput) -> bytes:
    """The key of a file's picture. Of a dataset's picture the stored bytes are hashed: the two are kept apart."""
    pixels = image.pixels
    what = f"{pixels.dtype} {pixels.shape}".encode()
    return hashlib.sha256(_of_modality(image.modality) + what + pixels.tobytes()).digest()


def check_table(out: str | Path) -> None:
    """Raises `ValueError` if a table of embeddings cannot be written there."""
    if Path(out).suffix not in TABLE_SUFFIXES:
        raise ValueError(f"--out {out}: its suffix says what is written; use one of {', '.join(TABLE_SUFFIXES)}.")


def write_embeddings(path: Path, store: EmbeddingStore, done: Sequence[Embedded]) -> None:
    """
    Writes embeddings by image: `image_id`, `dataset`, `split` and `embedding`, as parquet or, by the suffix, as arrays
    of NumPy, `embedding` being float32 (images, width).

    Raises:
        ValueError: The suffix is another, or two images of a split have one name.
    """
    check_table(path)
    for each in done:
        if len(set(each.image_ids)) < len(each.image_ids):
            raise ValueError(f"{each.dataset}, {each.split}: two images have one image_id, which is to be the key.")
    names = ("image_id", "dataset", "split")
    columns = zip(*((image, each.dataset, each.split) for each in done for image in each.image_ids), strict=True)
    texts = dict(zip(names, map(list, columns), strict=True))
    embeddings = np.concatenate([store.load(each.keys) for each in done])
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as new:
        if path.suffix == ".npz":
            with open(new, "wb") as file:
                arrays: dict[str, Any] = {name: np.array(values) for name, values in texts.items()}
                np.savez(file, embedding=embeddings, **arrays)
        else:
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), store.width)
            pq.write_table(pa.table({**texts, "embedding": vectors}), new)


@torch.no_grad()
def embed_rows(
    model: ArkModel,
    processor: ArkImageProcessor,
    rows: Dataset,
    task: AnyTask,
    store: EmbeddingStore,
    batch_size: int = 32,
    num_workers: int = 0,
    description: str | None = None,
) -> tuple[list[bytes], int]:
    """
    Computes what the store lacks of a split, a batch at a time; what is done stays whatever happens.

    A processor with several crops an image gives the mean of their embeddings.

    Args:
        model: In eval mode.
        task: Of the rows, for messages.
        description: What the progress bars are called; there are none without.

    Returns:
        The key of each row, and how many embeddings were computed.

    Raises:
        ValueError: A picture cannot be decoded, or the model gives NaN or infinite values for it.
    """
    keys = picture_keys(rows, description and f"{description}: looking up", task.modality)
    there = store.keys()
    first_rows: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first_rows.setdefault(key, row)
    missing = [row for key, row in first_rows.items() if key not in there]
    batches = [np.array(missing[start : start + batch_size]) for start in range(0, len(missing), batch_size)]
    layer = str(store.facts["layer"])
    waiting: list[tuple[bytes, np.ndarray]] = []
    progress = tqdm(total=len(missing), desc=description, disable=description is None, unit="image", leave=False)
    with progress:
        try:
            for batch, pixel_values in zip(
                batches, _pictures(rows, task, processor, batches, num_workers), strict=True
            ):
                embeddings = _embeddings(model, pixel_values, layer)
                _check_finite(embeddings, [f"Task {task.name!r}, row {row}" for row in batch])
                waiting += zip((keys[row] for row in batch), embeddings, strict=True)
                progress.update(len(batch))
                if len(waiting) >= PART_ROWS:
                    _flush(store, waiting)
        finally:
            _flush(store, waiting)
    return keys, len(missing)


@torch.no_grad()
def embed_pictures(
    model: ArkModel,
    processor: ArkImageProcessor,
    rows: Dataset,
    task: AnyTask,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """
    Embeddings of all pictures of a dataset, float32 (rows, width), which are kept nowhere; every process gets all.

    Args, Raises: as of [`embed_rows`].
    """
    state = process_state()
    mine = np.arange(len(rows))[state.process_index :: state.num_processes]
    batches = [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
    found: list[tuple[int, np.ndarray]] = []
    loaded = _pictures(rows, task, processor, batches, 0)
    shown = tqdm(loaded, desc=description, total=len(batches), disable=not state.is_main_process, leave=False)
    for batch, pixel_values in zip(batches, shown, strict=True):
        embeddings = _embeddings(model, pixel_values, "embeddings")
        _check_finite(embeddings, [f"Task {task.name!r}, row {row}" for row in batch])
        found += zip(batch.tolist(), embeddings, strict=True)
    return np.stack([embedding for _, embedding in sorted(gather_object(found), key=lambda pair: pair[0])])


def _embeddings(model: ArkModel, pixel_values: torch.Tensor, layer: str) -> np.ndarray:
    """float32 (pictures, width); of several crops a picture their mean."""
    vectors = model(pixel_values.flatten(0, -4).to(model.device, model.dtype))[layer]
    vectors = vectors.float().unflatten(0, pixel_values.shape[:-3])
    return (vectors if vectors.ndim == 2 else vectors.mean(dim=1)).cpu().numpy()


def _pictures(
    rows: Dataset, task: AnyTask, processor: ArkImageProcessor, batches: list[np.ndarray], num_workers: int
) -> Iterator[torch.Tensor]:
    return iterate(_PictureSamples(rows, task, processor), batches, num_workers)  # type: ignore[arg-type,return-value]


class _PictureSamples(RowSamples):
    """Rows without their labels, through the image processor."""

    def samples(self, numbers: list[int], rows: list[dict], pictures: list[torch.Tensor]) -> list[dict]:
        return [{"image": picture} for picture in pictures]

    def collate(self, samples: list[dict]) -> torch.Tensor:
        return self.processor([sample["image"] for sample in samples], return_tensors="pt")["pixel_values"]


def _flush(store: EmbeddingStore, waiting: list[tuple[bytes, np.ndarray]]) -> None:
    if waiting:
        keys, embeddings = zip(*waiting, strict=True)
        store.add(keys, np.stack(embeddings))
        waiting.clear()


def _check_finite(embeddings: np.ndarray, names: Sequence[str]) -> None:
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        name = names[finite.argmin()]
        raise ValueError(
            f"{name}: the model gives NaN or infinite values for this image. Its training "
            "diverged, or the model is damaged; take an earlier checkpoint."
        )


def _check_is_store(folder: Path) -> None:
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    foreign = [path for path in entries if not re.fullmatch(_SET_NAME, path.name)]
    if foreign or folder.exists() and not folder.is_dir():
        named = f": it holds {foreign[0].name}" if foreign else ""
        raise ValueError(f"{folder} is no store of embeddings{named}. Give a new or empty folder.")
