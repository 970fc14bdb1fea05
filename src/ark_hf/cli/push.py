"""The verb `push`: a model or a task dataset to the Hugging Face Hub."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..names import model_below, what_is_there
from .arguments import parse, quiet


@dataclass
class PushArguments:
    report: str | None = field(
        default=None,
        metadata={
            "help": "Of a model: folder that `ark-hf evaluate MODEL ... --out` wrote. Its results fill the card."
        },
    )
    public: bool = field(default=False, metadata={"help": "A public repository; a private one unless set."})
    license: str | None = field(
        default=None,
        metadata={
            "help": "Of a model: licence of its weights by its name on the Hub, such as cc-by-nc-4.0. Unless set, the "
            "card says that they may be bound to the terms of the training data."
        },
    )
    revision: str | None = field(
        default=None, metadata={"help": "Of a model: branch to push to; it is made if there is none."}
    )
    pull_request: bool = field(
        default=False, metadata={"help": "Of a model: propose the change to the repository's owner instead."}
    )
    card: str | None = field(
        default=None,
        metadata={
            "help": "Of a model: send nothing, but write its card and figures into this new folder, to be read."
        },
    )
    allow_patient_data: bool = field(
        default=False,
        metadata={
            "help": "Of a dataset whose card's licence does not let anybody pass the images on: says that the terms "
            "of the source, and whoever is responsible, allow the images and columns about patients to be on the Hub."
        },
    )
    allow_worse: bool = field(
        default=False,
        metadata={
            "help": "Of the last teacher of a run: push it although the run's best is clearly better, by validation."
        },
    )
    dry_run: bool = field(default=False, metadata={"help": "Only check the folder, and list what would be sent."})

    def __post_init__(self):
        if self.revision is not None and self.pull_request:
            raise ValueError("--pull_request makes a branch of its own: leave out --revision.")

    @property
    def of_models(self) -> list[str]:
        """The options given that only a model can have."""
        return [
            name
            for name in ("report", "license", "revision", "pull_request", "card", "allow_worse")
            if getattr(self, name)
        ]


def push(argv: list[str]) -> int:
    """Send a model or a task dataset to the Hugging Face Hub."""
    args, given = parse(
        PushArguments,
        "push",
        argv,
        "Sends a model or a task dataset to the Hugging Face Hub; what is there already is not sent again.",
        folder={"help": "Folder of a model (with config.json), or of a task dataset, from `ark-hf data build`."},
        repo={"help": "Repository on the Hub, such as someone/ark-cxr."},
    )
    folder = Path(given.folder)
    if not folder.is_dir():
        raise ValueError(f"{given.folder!r} is not a folder: {what_is_there(given.folder)}")
    quiet()
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(given.repo)
    if (folder / "config.json").is_file():
        return _push_model(args, folder, given.repo)
    if below := model_below(folder):
        raise ValueError(f"{folder} is a run, not a model.{below}")
    if args.of_models:
        raise ValueError(f"--{args.of_models[0]} is for models, and {folder} is none: it has no config.json.")
    return _push_dataset(args, folder, given.repo)


def _push_model(args: PushArguments, folder: Path, repo: str) -> int:
    from ..files import check_new_folder, replace_folder
    from ..hub.push_model import model_files, push_model

    if args.allow_patient_data:
        raise ValueError(
            f"--allow_patient_data is for datasets; {folder} is a model, which may hold no patient's data."
        )
    report = None if args.report is None else Path(args.report)
    if report is not None and report.is_file():
        raise ValueError(f"--report {report} is a file; name the folder that `ark-hf evaluate --out` wrote.")
    if args.card is not None:
        check_new_folder(Path(args.card))
    if args.card is not None or args.dry_run:
        files = model_files(folder, repo, report, args.license, args.allow_worse)
        if args.card is not None:
            replace_folder(Path(args.card), lambda new: _write(new, files.card))
            print(f"The card is in {Path(args.card, 'README.md')}.")
        if args.dry_run:
            _list(files.model | files.card, args, repo)
            _tell_of_the_model(files.renewed, files.stays)
        return 0
    pushed = push_model(
        folder, repo, report, args.public, args.license, args.revision, args.pull_request, args.allow_worse
    )
    print(f"{pushed.url}: {pushed.sent} files sent, {pushed.unchanged} were there, {pushed.removed} removed there.")
    _tell_of_the_model(pushed.renewed, pushed.stays)
    if report is None:
        print("The card has no test results: pass --report with what `ark-hf evaluate MODEL DATASETS --out` wrote.")
    return 0


def _push_dataset(args: PushArguments, folder: Path, repo: str) -> int:
    from ..hub.push_dataset import check_dataset_folder, push_dataset

    if args.dry_run:
        _list(check_dataset_folder(folder, args.allow_patient_data), args, repo)
        return 0
    pushed = push_dataset(folder, repo, args.public, args.allow_patient_data)
    print(f"{pushed.url}: {pushed.sent} files sent, {pushed.unchanged} were there, {pushed.removed} removed there.")
    return 0


def _list(files: Mapping[str, Path | bytes], args: PushArguments, repo: str) -> None:
    sizes = {
        name: len(content) if isinstance(content, bytes) else content.stat().st_size
        for name, content in sorted(files.items())
    }
    print("\n".join(f"{size:14,d}  {name}" for name, size in sizes.items()))
    kind = "public" if args.public else "private"
    where = f"a pull request to {repo}" if args.pull_request else f"the {kind} repository {repo}"
    print(f"{sum(sizes.values()):14,d}  bytes in all would go to {where}.")


def _tell_of_the_model(renewed: Sequence[str], stays: Sequence[str]) -> None:
    if renewed:
        print(
            f"An earlier version of ark-hf wrote this model. Renewed in what is sent, not in the folder: "
            f"{', '.join(renewed)}."
        )
    if stays:
        print(f"Not sent, since it only serves to go on with the training: {', '.join(stays)}.")


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
