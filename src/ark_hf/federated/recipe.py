"""The recipe of a federation, and what a site keeps to itself: YAML files; no torch is loaded."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ..training.ark.recipe import PretrainingArguments, TaskSpec, parse_tasks
from ..training.settings import ALLOW_SHARED_HELP, coerce, coerce_fields, read_settings, reject_unknown_keys

SERVER_FIELDS = ("min_sites", "timeout", "sites_at_once")  # of a recipe: the server's alone
CONSENT_FIELDS = ("publish_heads", "share_metrics")  # what a server asks for, and a site agrees to
LINK_FIELDS = ("link", "certificate", "key", "trusted")  # of a site: what joins it to a server
NOT_FOR_FEDERATIONS = {
    "strategy": "each site trains its tasks in cycles",
    "reproduce": "the releases have no federated training",
    "log_with": "nothing of a site goes to a tracker",
    "logging_steps": "nothing of a site goes to a tracker",
    "save_steps": "a site saves its state after each cycle",
}
SITE_NAME = r"[a-z][a-z0-9_-]{0,62}"


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class FederatedArguments(PretrainingArguments):
    """
    Settings of a federation: those of pretraining, which every site trains by, and how sites are put together.

    `cycles` follows from rounds and cycles_per_round: all schedules run over the whole federation.
    """

    cycles: int = field(init=False, default=0, metadata=_help("rounds x cycles_per_round."))
    rounds: int = field(default=20, metadata=_help("Rounds; in each the sites train and their weights are averaged."))
    cycles_per_round: int = field(default=10, metadata=_help("Cycles that a site trains in a round."))
    weighting: Literal["samples", "equal"] = field(
        default="samples",
        metadata=_help("samples (a site weighs as it has training images, and tells how many) or equal."),
    )
    min_sites: int | None = field(
        default=None, metadata=_help("Sites without whose answers a round is not counted; all of them unless set.")
    )
    timeout: float = field(
        default=86400.0, metadata=_help("Seconds that a round waits for a site, with sites of their own processes.")
    )
    keep_batch_norm: bool = field(
        default=False,
        metadata=_help(
            "Leave running means and variances of batch norm at the sites. The master is then no model by itself."
        ),
    )
    publish_heads: bool = field(
        default=False, metadata=_help("Ask sites for their heads at the end, for the ark-cxr that is published.")
    )
    share_metrics: bool = field(default=False, metadata=_help("Ask sites for AUROCs, for the report."))
    sites_at_once: int | None = field(
        default=None, metadata=_help("Sites that train at once in a simulation; as many as cores or GPUs unless set.")
    )

    def __post_init__(self):
        self.cycles = 1  # until the numbers that it follows from are checked
        super().__post_init__()
        for name in ("rounds", "cycles_per_round", "min_sites", "timeout", "sites_at_once"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        self.cycles = self.rounds * self.cycles_per_round
        usual = PretrainingArguments(output_dir=self.output_dir)
        for name, why in NOT_FOR_FEDERATIONS.items():
            if getattr(self, name) != getattr(usual, name):
                raise ValueError(f"{name} is not for federations: {why}; leave it out.")

    def training(self) -> dict[str, Any]:
        """The fields that sites train by: what is sent to them."""
        kept = {*SERVER_FIELDS, *SITE_FIELDS, *NOT_FOR_FEDERATIONS, "cycles", "init"}
        return {name: value for name, value in self.to_dict().items() if name not in kept}


@dataclass(frozen=True)
class SiteSpec:
    """An entry of `sites`: the name of a site; in a simulation its tasks, for a server the path of its public key."""

    name: str
    tasks: list[TaskSpec] = field(default_factory=list)
    key: str | None = None


@dataclass
class SiteArguments:
    """What a site decides and keeps: the fields of `site.yaml`, beside its `tasks`."""

    name: str = field(metadata=_help("The site's name, as in the server's recipe."))
    output_dir: str = field(metadata=_help("The site's folder: its heads, teacher, optimiser and audit file."))
    data_root: str = field(default=".", metadata=_help("Folder that relative dataset paths start from."))
    publish_heads: bool = field(default=False, metadata=_help("Whether the heads leave, when the server asks."))
    share_metrics: bool = field(default=False, metadata=_help("Whether AUROCs leave, when the server asks."))
    streaming: bool = field(default=False, metadata=_help("Read datasets as training goes, without a copy on disk."))
    allow_shared_images: bool = field(default=False, metadata=_help(ALLOW_SHARED_HELP))
    dataloader_num_workers: int | None = field(default=None, metadata=_help("Processes that load data."))
    eval_batch_size: int | None = field(default=None, metadata=_help("Images a batch in validation."))
    gradient_accumulation_steps: int = field(default=1, metadata=_help("Micro-batches that a step is cut into."))
    gradient_checkpointing: bool = field(default=False, metadata=_help("Recompute activations to save memory."))
    attn_implementation: Literal["sdpa", "eager"] | None = field(
        default=None, metadata=_help("sdpa fuses attention; unset, timm decides.")
    )
    torch_compile: bool = field(default=False, metadata=_help("Compile the encoder's blocks."))
    link: str | None = field(default=None, metadata=_help("host:port of the server."))
    certificate: str | None = field(default=None, metadata=_help("The server's ca.crt."))
    key: str | None = field(default=None, metadata=_help("The site's private key."))
    trusted: str | None = field(
        default=None, metadata=_help("The server's trusted.yaml: who may sign what runs here.")
    )

    def __post_init__(self):
        coerce_fields(self)
        check_site_name(self.name)


# Fields of a recipe of which every site has its own
SITE_FIELDS = tuple(
    each.name
    for each in fields(SiteArguments)
    if each.name in {other.name for other in fields(FederatedArguments)} - {*CONSENT_FIELDS}
)


def read_federated_recipe(path: str | Path) -> dict[str, Any]:
    """
    The fields of a YAML or JSON recipe, `sites` among them.

    Raises:
        ValueError: As [`read_recipe`] does, or there are `cycles` or `tasks`.
    """
    allowed = [each.name for each in fields(FederatedArguments)] + ["sites", "tasks"]
    values = read_settings(path, allowed)
    if "cycles" in values:
        raise ValueError(f"{path}: cycles is rounds x cycles_per_round in a federation; set those and leave it out.")
    if "tasks" in values:
        raise ValueError(f"{path}: every site has its own tasks: `sites: [{{name: ..., tasks: [...]}}]`.")
    return values


def parse_sites(entries: Any, where: str) -> list[SiteSpec]:
    """
    Checks and builds the `sites` of a recipe; they come in the order of their names.

    Raises:
        ValueError: There are not two, a name is none or stands twice, or an entry has an unknown key.
    """
    if not isinstance(entries, list) or len(entries) < 2:
        raise ValueError(f"{where}: `sites` must list at least two sites, such as `- {{name: north, tasks: [...]}}`.")
    sites: list[SiteSpec] = []
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping) or "name" not in entry:
            raise ValueError(f"{where}: site {number} must be a mapping with the key `name`, got {entry!r}.")
        reject_unknown_keys(entry, ["name", "tasks", "key"], f"{where}, site {number}")
        name = check_site_name(entry["name"])
        if name in [site.name for site in sites]:
            raise ValueError(f"{where}: two sites are named {name!r}.")
        tasks = parse_tasks(entry["tasks"], f"{where}, site {name!r}") if "tasks" in entry else []
        key = coerce(f"{where}, site {name!r}: key", str, entry["key"]) if "key" in entry else None
        sites.append(SiteSpec(name, tasks, key))
    return sorted(sites, key=lambda site: site.name)


def check_simulation(sites: Sequence[SiteSpec], where: str) -> None:
    """Raises `ValueError` if a site of a simulation has no tasks, or a key, which it cannot have a use for."""
    for site in sites:
        if not site.tasks:
            raise ValueError(f"{where}: site {site.name!r} has no `tasks`, which a simulation trains on.")
        if site.key is not None:
            raise ValueError(
                f"{where}: site {site.name!r} has a `key`, which is for `ark-hf federate server`; leave it out."
            )


def check_server(args: FederatedArguments, sites: Sequence[SiteSpec], where: str) -> None:
    """Raises `ValueError` if a site of a server has no key, or the recipe says what only a site can."""
    for site in sites:
        if site.tasks:
            raise ValueError(
                f"{where}: the `tasks` of site {site.name!r} belong into its own site.yaml: paths of a site stay "
                "there. `ark-hf federate RECIPE` simulates sites with tasks."
            )
        if site.key is None:
            raise ValueError(f"{where}: site {site.name!r} has no `key`, the path of its public key.")
    for each in fields(args):
        only_at_sites = each.name in SITE_FIELDS and each.name != "output_dir"
        if (only_at_sites or each.name == "sites_at_once") and getattr(args, each.name) != each.default:
            raise ValueError(f"{where}: {each.name} is decided at each site, not by a server; leave it out.")


def check_site_name(name: Any) -> str:
    if not isinstance(name, str) or not re.fullmatch(SITE_NAME, name):
        raise ValueError(f"a site's name is of small letters, digits, - and _, from a letter on, got {name!r}.")
    return name


def read_site(path: str | Path) -> tuple[SiteArguments, list[TaskSpec]]:
    """
    A site's own file. Its relative paths start from where it stands.

    Raises:
        ValueError: It cannot be read, a field is missing or wrong, or there are no tasks.
    """
    values = read_settings(path, [each.name for each in fields(SiteArguments)] + ["tasks"])
    tasks = parse_tasks(values.pop("tasks", None), str(path))
    for name in ("name", "output_dir"):
        if name not in values:
            raise ValueError(f"{path} lacks `{name}`.")
    args = SiteArguments(**values)
    folder = Path(path).resolve().parent
    for name in ("output_dir", "data_root", "certificate", "key", "trusted"):
        if getattr(args, name) is not None:
            setattr(args, name, str(folder / getattr(args, name)))
    return args, tasks
