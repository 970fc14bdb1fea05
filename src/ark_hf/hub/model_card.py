"""The card of a model, filled from its own files and the report of its test, and what goes to the Hub beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import ModelCard, ModelCardData, eval_result_entries_to_yaml

from ..data.leaks import shared_lines
from ..evaluation.report.gallery import without_pictures
from ..evaluation.report.stored import read_report
from ..evaluation.report.tables import TextTable
from ..inference.task_labels import modalities_of
from ..models.ark.tasks_ark import DEFAULT_MODALITY
from ..outcome import read_outcome
from ..pages.formats import format_defined, format_interval, format_number
from ..plain_yaml import dump_yaml
from ..provenance import read_provenance, weights_sha256
from . import label_results, mask_results
from .card_parts import cell, read_prose, table_text
from .config_parts import answers, heads_by_modality, label_rows, modalities, operating_points, subject, untested, view
from .families import AUTO_CLASSES, SEGMENTERS, Family, family_of
from .push import CARD_FILE

EVAL_RESULTS_FILE = ".eval_results/ark-hf.yaml"
REPORT_PAGE = "report.html"
REPORT_FILES = ("report.json", "report.md", REPORT_PAGE)
TEMPLATES = Path(__file__).parent / "templates"
FEATURES = ("AutoModel", "AutoModelForPreTraining")  # classes of models that name and outline nothing
UNKNOWN = "unknown"  # where the weights come from
METHODS = {"peac": "PEAC", "genesis": "Models Genesis"}  # without labels, as they are called
ARK = "ark"  # the method of whatever names none


def model_card_files(
    folder: Path, place: str, report: Path | None = None, license_id: str | None = None
) -> dict[str, bytes]:
    """
    The card and what belongs to it, by path in the repository: `README.md`, `figures/`, the report, `.eval_results/`.

    Nothing in them is typed by hand: numbers come from `config.json` and `provenance.json` of the model's folder and
    from the report, what holds for every model from `templates/model_card.yaml`.

    Args:
        folder: Of the model.
        place: What `from_pretrained` is given: the repository's id, or the folder.
        report: Folder that `ark-hf evaluate --out` wrote for this model.
        license_id: The licence of the weights by its name on the Hub; unless given, the card says that it depends on
            the training data.

    Returns:
        The content of each file.

    Raises:
        ValueError: The report is of other weights, or a file cannot be read.
    """
    kind = _results(family_of(folder).config_class.from_pretrained(folder))
    facts, reports = ({}, []) if report is None else read_report(report, kind.REPORT_KIND)
    if report is not None:
        _check_same_weights(folder, facts, report)
    figures = kind.figures(reports)
    card = model_card(folder, place, figures, license_id, facts.get("crops", "whole"))
    files = {CARD_FILE: str(card).encode()}
    files |= {name: kind.picture(each) for name, each in figures.items()}
    if report is not None:
        files |= {f"report/{name}": (report / name).read_bytes() for name in REPORT_FILES if (report / name).is_file()}
        page = f"report/{REPORT_PAGE}"
        if page in files:  # pictures of patients stay here
            files[page] = without_pictures(files[page].decode()).encode()
    entries = [entry for each in reports for entry in kind.entries(each)]
    if entries:
        text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
        files[EVAL_RESULTS_FILE] = text.encode()
    return files


def model_card(
    folder: Path,
    place: str,
    reports: Mapping[str, Any] | None = None,
    license_id: str | None = None,
    crops: str = "whole",
) -> ModelCard:
    """
    The card alone; see [`model_card_files`].

    Args:
        reports: The test results, a [`TaskReport`] or of a segmenter a [`MaskReport`] each, by the path of its figure.
        crops: What of the images the reports are about, see [`with_crops`].
    """
    family, origin, reports = family_of(folder), read_provenance(folder), reports or {}
    config = family.config_class.from_pretrained(folder)
    prose, history, kind = read_prose(), _history(origin), _results(config)
    licence = prose["licences"][origin["kind"] if origin else UNKNOWN]
    auto_class = AUTO_CLASSES.get((config.architectures or [""])[0], "AutoModel")
    sees = subject(folder, family, config)
    has_heads, outlines = auto_class not in FEATURES, kind is mask_results
    labels = label_rows(config) if has_heads else []
    sections = [kind.section(figure, report) for figure, report in reports.items()]
    known: dict[str, Any] = {
        "place": place,
        "auto_class": auto_class,
        "config": config,
        "view": view(folder, family, config),
        "labels": labels,
        "sees": sees,
        "segmentation": config.segmentation if outlines else None,
        "modalities": modalities_of(config),
        "file": "picture.png" if sees == "pictures" else "chest.dcm",
    }
    return ModelCard.from_template(
        _header(
            place,
            config,
            auto_class,
            history,
            list(reports.values()),
            license_id or licence,
            _tags(sees, modalities(folder, family, config), history),
        ),
        template_path=str(TEMPLATES / "model_card.md"),
        **known,
        name=place.rpartition("/")[2],
        use=_use(family, known),
        images="volumes" if sees == "volumes" else "images",
        pixel="voxel" if sees == "volumes" else "pixel",
        answers=answers(config, outlines) if has_heads else "",
        heads=heads_by_modality(config) if has_heads else [],
        intended_use=prose["intended_use"][sees],
        not_for=prose["not_for"][sees],
        origin=_origin(prose, origin, sees) if origin else "",
        limits=prose[_limits(has_heads, outlines)][sees],
        operating_points=operating_points(config),
        untested=untested(config, list(reports.values())),
        reports=sections,
        leaks=[f"**{each['title']}**: {leak}" for each in sections for leak in each["leaks"]],
        overview=kind.overview(list(reports.values())),
        how_measured=kind.HOW,
        about_figures=kind.FIGURE,
        about_report=kind.WHOLE,
        crops=crops,
        history=[_training_section(each, family) for each in history],
        phantom=bool(history) and all(_is_of_phantoms(each) for each in history),
        licence_text=licence["text"] if license_id is None else f"The weights are under {license_id}.",
        citation=_citations(prose, history, config.model_type),
    )


def _method(origin: Mapping[str, Any]) -> str:
    return origin.get("method", ARK)


def _origin(prose: Mapping[str, Any], origin: Mapping[str, Any], sees: str) -> str:
    """How the weights came about, and of a method that is not Ark's what it is."""
    told = prose["origins"][origin["kind"]].format(sees=sees)
    return " ".join([told, *filter(None, [prose["methods"].get(_method(origin))])])


def _use(family: Family, known: Mapping[str, Any]) -> str:
    """How to use the model, in code."""
    template = (TEMPLATES / f"use_{family.sees}.md").read_text(encoding="utf-8")
    return jinja2.Template(template, undefined=jinja2.StrictUndefined).render(known).strip()


def _limits(has_heads: bool, outlines: bool) -> str:
    if not has_heads:
        return "limits_of_features"
    return "limits_of_masks" if outlines else "limits"


def _results(config: Any) -> Any:
    """The module that knows the results of such a model."""
    return label_results if SEGMENTERS.isdisjoint(config.architectures or []) else mask_results


def _check_same_weights(folder: Path, facts: Mapping[str, Any], report: Path) -> None:
    noted, ours = facts.get("weights_sha256"), weights_sha256(str(folder))
    if noted is None or noted != ours:
        raise ValueError(
            f"{report} is not the report of the weights in {folder}: "
            f"{'it does not say whose it is' if noted is None else 'it is of other weights'}. "
            f"Run `ark-hf evaluate {folder} DATASETS --out {report}` again."
        )


def _history(origin: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The provenance of a model, then of what it started from, and so on."""
    return [] if origin is None else [origin, *_history(origin.get("start_provenance"))]


def _header(
    place: str,
    config: Any,
    auto_class: str,
    history: Sequence[Mapping[str, Any]],
    reports: Sequence[Any],
    licence: str | Mapping[str, str],
    tags: list[str],
) -> ModelCardData:
    trained_on = [
        data["dataset"].partition("@")[0] for each in history for data in each.get("data", []) if _is_trained_on(data)
    ]
    start, kind = history[0].get("start", "") if history else "", _results(config)
    header = ModelCardData(
        license=licence if isinstance(licence, str) else licence["license"],
        library_name="transformers",
        pipeline_tag="image-feature-extraction" if auto_class in FEATURES else kind.TAG,
        tags=tags,
        base_model=start if start.count("/") == 1 else None,
        datasets=[each for each in dict.fromkeys(trained_on) if each.count("/") == 1] or None,
        metrics=[kind.METRIC] if reports else None,
        model_name=place.rpartition("/")[2],
        eval_results=[result for report in reports for result in kind.results(report)] or None,
    )
    if not isinstance(licence, str):
        header["license_name"] = licence["license_name"]
    return header


def _tags(sees: str, taken: Sequence[str], history: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of what the model looks at, radiographs among others too, and of the methods that it learned by."""
    prose, methods = read_prose(), dict.fromkeys(map(_method, history))
    beside = [] if sees == "volumes" or DEFAULT_MODALITY not in taken else prose["tags"]["radiographs"]
    of_methods = (tag for method in methods for tag in prose["tags_of_methods"].get(method, []))
    return list(dict.fromkeys([*beside, *prose["tags"][sees], *of_methods]))


def _is_trained_on(data: Mapping[str, Any]) -> bool:
    return "train" in data.get("splits", {})


def _is_of_phantoms(origin: Mapping[str, Any]) -> bool:
    """Whether the weights, if they started from nothing else, know phantoms alone."""
    scratch = "start_provenance" in origin or origin.get("start", "none") == "none"
    return scratch and bool(origin.get("data")) and all(data.get("phantom") for data in origin["data"])


def _training_section(origin: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """What the template tells of one training or conversion; empty where nothing is known."""
    settings = {name: value for name, value in origin.get("settings", {}).items() if value not in (None, [], {})}
    data = [each for each in origin.get("data", []) if "splits" in each]
    looks_at_labels = origin["kind"] != "self-supervision"
    return {
        "start": _start(origin.get("start")),
        "training": _training(origin, family),
        "trained_on": _trained_on([each for each in data if _is_trained_on(each)], family),
        "data": [_data_row(each) for each in data],
        "looks_at_labels": looks_at_labels,
        "shared": [cell(line) for line in shared_lines(origin)],
        "label_counts": [
            [f"`{each['task']}`", cell(label), *(f"{count:,}" for count in counts.values())]
            for each in data
            if looks_at_labels and _is_trained_on(each)
            for label, counts in each["splits"]["train"]["labels"].items()
        ],
        "recipe": dump_yaml(settings).strip() if settings else "",
        "summary": origin.get("summary", ""),
        "compute": _compute(origin.get("compute")),
        "versions": ", ".join(f"{name} {number}" for name, number in origin.get("versions", {}).items()),
        "seeds": _seeds(origin.get("seeds")),
    }


def _trained_on(data: Sequence[Mapping[str, Any]], family: Family) -> str:
    """Datasets and their sizes, in a sentence; empty where none is known."""
    if not data:
        return ""
    rows, what = sum(each["splits"]["train"]["rows"] for each in data), _images(family)
    if len(data) == 1:
        return f"Training data: {_linked_title(data[0])}, {rows:,} {what}."
    return f"Training data: {len(data)} datasets, {rows:,} {what} in all."


def _images(family: Family) -> str:
    return "images" if family.sees == "radiographs" else family.sees


def _linked_title(data: Mapping[str, Any]) -> str:
    title, link = cell(data.get("title") or data["dataset"]), data.get("homepage")
    return f"[{title}]({link})" if link else title


def _start(name: str | None) -> str:
    if name is None:
        return ""
    return {"none": "random weights", "imagenet": "ImageNet weights of timm"}.get(name, f"`{name}`")


def _training(origin: Mapping[str, Any], family: Family) -> str:
    validation = origin.get("validation") or {}
    means = {"AUROC": validation.get("mean_auroc"), "Dice": validation.get("mean_dice")}
    validated = "".join(
        f" Mean validation {name}: {format_number(mean)}." for name, mean in means.items() if mean is not None
    )
    outcome = read_outcome(origin if "kind" in origin else None)
    ended = "" if outcome is None else f" {outcome}"
    if origin.get("kind") == "pretraining":
        return f"Weights of the end of cycle {origin['cycle']}.{validated}{ended}"
    if origin.get("kind") == "self-supervision":
        losses = ", ".join(f"{name} {loss:.3g}" for name, loss in validation.items() if loss is not None)
        told = f" Validation losses: {losses}." if losses else ""
        method = METHODS[origin["method"]]
        return f"Weights of the end of epoch {origin['epoch']} of {method}, without labels.{told}{ended}"
    if origin.get("kind") == "federated":
        return f"Average of the students of {len(origin['sites'])} sites after {origin['rounds']} rounds.{validated}"
    if origin.get("kind") == "fine-tuning":
        images = _images(family)
        head = "Its head for this task went on." if origin["head"] == "continued" else "Its head was fresh."
        return (
            f"{head} Trained on {origin['train_images']:,} {images} for {origin['steps']:,} steps, seed "
            f"{origin['seed']}; weights of step {origin['best_step']:,}.{validated}"
        )
    return ""


def _data_row(data: Mapping[str, Any]) -> dict[str, str]:
    train, validation = (data["splits"].get(split) for split in ("train", "validation"))
    patients = train and train["patients"]
    licence = "see below" if data.get("license") == "other" and data.get("access") else data.get("license")
    return {
        "task": data["task"],
        "title": _linked_title(data),
        "license": "drawn phantoms" if data.get("phantom") else cell(licence or "not stated"),
        "access": cell(data.get("access", "")),
        "train": f"{train['rows']:,}" if train else "not trained on",
        "patients": "unknown" if patients is None else f"{patients:,}",
        "validation": f"{validation['rows']:,}" if validation else "none",
        "uncertain": data.get("uncertain", ""),
    }


def _compute(compute: Mapping[str, Any] | None) -> str:
    if not compute:
        return ""
    precision = {"no": "float32"}.get(compute["precision"], compute["precision"])
    return f"{_duration(compute['seconds'])} on {compute['num_processes']} x {compute['device']}, {precision}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "a time not counted, as it was resumed,"
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(seconds / 60, 1):.0f} minutes"


def _seeds(seeds: Mapping[str, Any] | None) -> str:
    if not seeds or len(seeds["runs"]) < 2:
        return ""
    rows = [
        [str(run["seed"]), format_defined(run["validation"]), format_number(run["test"]) or "not scored"]
        for run in seeds["runs"]
    ]
    means = [seeds[split] for split in ("validation", "test")]
    cells = [
        f"{format_number(mean['mean'])} ({format_interval(mean['ci_low'], mean['ci_high'])})"
        if mean and mean["mean"] is not None
        else ""
        for mean in means
    ]
    rows.append(["mean (t interval over seeds)", *cells])
    table = TextTable("", ["seed", "validation mean AUROC", "test mean AUROC"], rows)
    return table_text(table)


def _citations(prose: Mapping[str, Any], history: Sequence[Mapping[str, Any]], model_type: str) -> str:
    """The papers of the methods of pretraining, the model's own where none is known, then those of the data."""
    methods = [_method(each) for each in history if each["kind"] != "fine-tuning"] or [model_type]
    of_methods = [prose["citations"][method].strip() for method in methods]
    of_data = [data["citation"].strip() for each in history for data in each.get("data", []) if data.get("citation")]
    return "\n".join(dict.fromkeys([*of_methods, *of_data]))
