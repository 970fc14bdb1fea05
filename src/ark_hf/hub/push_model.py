"""Models to the Hub: what may go is checked first, the card is filled in, and all is sent in one commit."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open

from ..data.images.image_files import IMAGE_SUFFIXES, UNREAD_SUFFIXES
from ..files import read_json
from ..inference.training_statistics import open_training_statistics
from ..models.ark.modeling_ark import ArkForImageClassification
from ..names import model_below
from ..outcome import read_outcome
from ..provenance import CALIBRATION_FILE, PROVENANCE_FILE, STATISTICS_FILE, read_provenance
from ..training.peac.heads import HEADS_FILE
from .families import CLASSIFIERS, FAMILIES, Family, family_of
from .model_card import model_card_files
from .push import CARD_FILE, Push, Repository, check_secrets, check_text, explained, name_files, open_repository, send

CONFIGS = ("config.json", "preprocessor_config.json")
EARLIER_VERSIONS = Path(__file__).with_name("earlier_versions.yaml")
WEIGHTS_INDEX = "model.safetensors.index.json"
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
ALLOWED = {*CONFIGS, PROVENANCE_FILE, CALIBRATION_FILE, STATISTICS_FILE, CARD_FILE, WEIGHTS_INDEX}
CODE_NAMES = {name for family in FAMILIES.values() for name in family.code}
GENERATED = re.compile(r"figures/(auroc|dice)-[^/]+\.png|report/report\.(json|md|html)|\.eval_results/ark-hf\.yaml")
# By the ending of the name, why a file may not go; an image of a patient must not travel with a model by accident
REFUSED = {
    "images": (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES, ".gz"),
    "pickles, which run code when they are loaded": (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"),
    "tables or arrays, which may be about patients": (".csv", ".tsv", ".parquet", ".arrow", ".xlsx", ".npy", ".npz"),
}
# What git and the Hub's client leave in a folder that came from there
LEFT_BY_TOOLS = re.compile(r"\.gitattributes|\.gitignore|(\.git|\.cache/huggingface)/.*")
STAYS = (HEADS_FILE,)  # larger than the model, and of no use but to go on with its training
ABOUT_A_PATIENT = re.compile(
    r"(patient|study)[ _]?(id|name|instance|birth)|birth[ _]?date|\bmrn\b|accession|image_id", re.IGNORECASE
)


class ModelFiles(NamedTuple):
    """
    What a push sends, by path in the repository: files of the model, and its card with all that belongs to it.

    Of the model those are bytes that an earlier version wrote and that are renewed; the folder keeps its own. `stays`
    are files of the folder that do not go.
    """

    model: dict[str, Path | bytes]
    card: dict[str, bytes]
    stays: tuple[str, ...] = ()

    @property
    def renewed(self) -> list[str]:
        return sorted(name for name, content in self.model.items() if isinstance(content, bytes))


def push_model(
    folder: Path,
    repo_id: str,
    report: Path | None = None,
    public: bool = False,
    license_id: str | None = None,
    revision: str | None = None,
    pull_request: bool = False,
    allow_worse: bool = False,
) -> Push:
    """
    Pushes a model with its processor, code, card, report and recipe, in one commit.

    What an interrupted push has sent, and files that have not changed, are not sent again. What an earlier push sent
    and this one does not have is removed. Code that an earlier version of ark-hf wrote is replaced by this version's.

    Args:
        folder: See [`check_model_folder`], whose checks come first.
        repo_id: `someone/name`, or `name` for the account's own.
        report: Folder that `ark-hf evaluate --out` wrote for this model: the card shows its results.
        public: Whether everybody may find the repository; it is made if there is none.
        license_id: Of the weights, by its name on the Hub, such as "cc-by-nc-4.0".
        revision: Branch to push to; it is made if there is none.
        pull_request: Whether to propose the change to the repository's owner instead.
        allow_worse: Whether the last teacher of a run may go though its best is clearly better.

    Raises:
        ValueError: The folder may not be pushed; the report is of other weights; the repository is public where it
            should be private or the reverse, or holds something else; or the Hub refuses or cannot be reached.
    """
    files = model_files(folder, repo_id, report, license_id, allow_worse)  # before anything is asked of the Hub
    api = HfApi()
    with explained(f"Cannot push {folder} to {repo_id}: "):
        there = open_repository(api, repo_id, "model", public, revision, pull_request)
        kind = family_of(folder)
        if not there.is_new and not _holds(there, kind):
            raise ValueError("it holds something else; choose another name.")
        card = files.card
        if there.id != repo_id:  # a name without the account's
            card = model_card_files(folder, there.id, report, license_id)
        sent = files.model | card
        config = kind.config_class.from_pretrained(folder)
        message = f"{getattr(config, 'backbone', config.model_type)}, {len(sent)} files"
        pushed = send(api, there, sent, message, _is_ours, revision, pull_request)
        return pushed._replace(renewed=tuple(files.renewed), stays=files.stays)


def model_files(
    folder: Path,
    repo_id: str,
    report: Path | None = None,
    license_id: str | None = None,
    allow_worse: bool = False,
) -> ModelFiles:
    """All that would go to the Hub; arguments and errors as of [`push_model`]."""
    files = check_model_folder(folder)
    if not allow_worse:
        _check_outcome(folder)
    card = model_card_files(folder, repo_id, report, license_id)
    for name, content in card.items():
        if not name.endswith(".png"):
            _check_text_file(name, content.decode("utf-8"))
    return ModelFiles(files, card, tuple(name for name in STAYS if (folder / name).is_file()))


def check_model_folder(folder: Path) -> dict[str, Path | bytes]:
    """
    What of a model's folder goes to the Hub, if all of it may. The card there is not among it: a new one is made.

    Args:
        folder: An ark-cxr or a Genesis that training, conversion, calibration or `save_pretrained` wrote.

    Returns:
        The files by their path in the repository: as bytes where an earlier version of ark-hf wrote them and they are
        renewed, that is its code, and what the configs name of it.

    Raises:
        ValueError: The folder is no model of ours, cannot be loaded, or holds images, tables, pickles, code that is
            not this package's, tokens, paths of this machine or anything else that is no part of a model.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder.")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a model: it has no config.json.{model_below(folder)}")
    try:
        family = family_of(folder)
    except ValueError as error:
        raise ValueError(f"{folder} cannot be pushed: {error}.") from None
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    files = {name: path for name, path in found.items() if name not in STAYS and not LEFT_BY_TOOLS.fullmatch(name)}
    weights = {name for name in files if WEIGHTS.fullmatch(name)}
    others = sorted(set(files) - ALLOWED - family.code.keys() - weights)
    for what, endings in REFUSED.items():
        refused = [name for name in others if name.lower().endswith(endings)]
        if refused:
            raise ValueError(
                f"{folder} holds {what}: {name_files(refused)}. Move them elsewhere, or save the model alone with "
                "`save_pretrained`."
            )
    if others:
        raise ValueError(
            f"{folder} holds files that are no part of a model: {name_files(others)}. Move them elsewhere."
        )
    renewed = _renewed_code(files, family)
    missing = [name for name in (*CONFIGS, *family.code) if name not in files.keys() | renewed.keys()]
    if missing:
        raise ValueError(
            f"{folder} lacks {name_files(missing)}. With `import ark_hf`, load the model and its image processor, and "
            "save both there with `save_pretrained`."
        )
    for path in files.values():
        if path.suffix == ".json":
            _check_text_file(path, path.read_text(encoding="utf-8", errors="replace"))
    renewed |= _renewed_auto_maps(folder, family)
    _check_weights(folder, weights, family)
    return {name: path for name, path in files.items() if name != CARD_FILE} | renewed


def _check_outcome(folder: Path) -> None:
    """Raises `ValueError` if it is the last teacher of a run, and clearly worse than the best."""
    origin = read_provenance(folder)
    outcome = read_outcome(origin)
    if origin is None or outcome is None or not outcome.is_clearly_worse or origin[outcome.turn] != outcome.last[0]:
        return
    best = folder.parent / "best"
    remedy = f"push {best}" if best.is_dir() else "push the best, the folder `best` of its run"
    raise ValueError(f"{folder}: {outcome} So {remedy}, or say --allow_worse.")


@cache
def _earlier_versions() -> dict[str, Any]:
    return yaml.safe_load(EARLIER_VERSIONS.read_text(encoding="utf-8"))


def _renewed_code(files: Mapping[str, Path], family: Family) -> dict[str, bytes]:
    """This version's code, in the place of an earlier one's; empty if the folder's is of this version."""
    ours = family.code
    others = {name: files[name].read_bytes() for name in ours if name in files}
    changed = {name: code for name, code in others.items() if code != ours[name]}
    for name, code in changed.items():
        if sha256(code).hexdigest() not in _earlier_versions()["code"].get(name, {}):
            raise ValueError(
                f"{files[name]} is not the code of this version of ark-hf, nor of an earlier one, and would run on "
                "its readers' machines. Load the model and save it again with `save_pretrained`."
            )
    return {name: code for name, code in ours.items() if others.get(name) != code} if changed else {}


def _renewed_auto_maps(folder: Path, family: Family) -> dict[str, bytes]:
    """
    The configs with the classes of this version's code, where they name an earlier one's.

    Raises:
        ValueError: The classes that readers would load are of neither.
    """
    current = dict(zip(CONFIGS, (family.auto_map, family.processor_map), strict=True))
    renewed = {}
    for name, classes in current.items():
        values = read_json(folder / name)
        if values.get("auto_map") == classes:
            continue
        if values.get("auto_map") not in _earlier_versions()["auto_map"][name]:
            raise ValueError(
                f"{folder / name} names other code than this package's under `auto_map`. With `import ark_hf`, load "
                "the model and its image processor, and save them again with `save_pretrained`."
            )
        renewed[name] = (json.dumps({**values, "auto_map": dict(classes)}, indent=2, sort_keys=True) + "\n").encode()
    return renewed


def _check_weights(folder: Path, names: set[str], family: Family) -> None:
    """Raises `ValueError` if the files are not safetensors, or do not hold this model and nothing else."""
    stored: set[str] = set()
    for name in sorted(names):
        try:
            with safe_open(folder / name, "pt") as weights:
                check_text(folder / name, json.dumps(weights.metadata() or {}))
                stored |= set(weights.keys())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{folder / name} is no safetensors file: {error}.") from None
    config = family.config_class.from_pretrained(folder)
    architectures = config.architectures or []
    model = family.load(str(folder), architectures)
    beside = sorted(stored - set(model.state_dict()))
    if beside:
        raise ValueError(
            f"{folder} holds tensors that are not the model's: {name_files(beside)}. Load the model and save it again."
        )
    kept = {task.name for task in model.config.tasks or [] if task.thresholds}
    stale = [task.name for task in config.tasks or [] if task.thresholds and task.name not in kept]
    if stale and not CLASSIFIERS.isdisjoint(architectures):
        raise ValueError(
            f"{folder}: nothing shows that the operating points of {name_files(stale)} were found on these weights. "
            "Load the model and save it again, which drops them, or calibrate it anew."
        )
    if (folder / STATISTICS_FILE).is_file():
        _check_statistics(folder / STATISTICS_FILE, model, family.processor_class.from_pretrained(folder))


def _check_statistics(path: Path, model: Any, processor: Any) -> None:
    """Raises `ValueError` if it holds something else than statistics of training images for this very model."""
    if not isinstance(model, ArkForImageClassification):
        raise ValueError(f"{path} is for classifiers of pictures, and this is none: take it out.")
    statistics = open_training_statistics(path, model.ark.embedding_dim)
    with safe_open(path, "numpy") as file:
        check_text(path, "\n".join(file.metadata().values()))
    if not statistics.fit(model, processor):
        raise ValueError(f"{path} was measured on other weights: delete it, or calibrate the model anew.")


def _check_text_file(name: Path | str, text: str) -> None:
    if str(name).endswith(".html"):  # the page says what the JSON says, in tags that look like paths
        check_secrets(name, text)
        return
    if not str(name).endswith(".json"):
        check_text(name, text)
        return
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({type(error).__name__}); take it out, or make it anew.") from None
    for key in _keys(values):
        if ABOUT_A_PATIENT.search(key):
            raise ValueError(f"{name} is about single patients or images ({key}): take it out.")
        check_text(name, key)
    for value in _texts(values):
        check_text(name, value)


def _keys(values: Any) -> Iterator[str]:
    """All keys in a JSON value, at any depth."""
    if isinstance(values, Mapping):
        yield from values
    for value in _inside(values):
        yield from _keys(value)


def _texts(values: Any) -> Iterator[str]:
    """All texts in a JSON value that are no keys, at any depth."""
    if isinstance(values, str):
        yield values
    for value in _inside(values):
        yield from _texts(value)


def _inside(values: Any) -> Iterable[Any]:
    if isinstance(values, Mapping):
        return values.values()
    return values if isinstance(values, list) else ()


def _is_ours(path: str) -> bool:
    return bool(path in ALLOWED | CODE_NAMES or WEIGHTS.fullmatch(path) or GENERATED.fullmatch(path))


def _holds(there: Repository, family: Family) -> bool:
    """Whether a model of this family is there."""
    if "config.json" not in there.files:
        return False
    values, _ = family.config_class.get_config_dict(there.id, revision=there.commit)
    return values.get("model_type") == family.config_class.model_type
