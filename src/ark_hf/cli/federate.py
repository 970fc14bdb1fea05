"""The verb `federate`: federated pretraining, simulated on one machine, or with sites that are processes elsewhere."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..federated.recipe import (
    FederatedArguments,
    SiteSpec,
    check_server,
    check_simulation,
    parse_sites,
    read_federated_recipe,
    read_site,
)
from ..training.settings import check_init
from .arguments import build, parse, quiet, read_options

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass
class ServerArguments(FederatedArguments):
    """The settings of a federation, and how its server is reached."""

    credentials: str = field(kw_only=True, metadata={"help": "Folder that `ark-hf federate keys` made."})
    host: str = field(
        default="127.0.0.1",
        metadata={"help": "Address to listen at. Whoever reaches it controls the run: let a proxy pass /v1/fleet/."},
    )
    port: int = field(default=8443, metadata={"help": "Port to listen at."})


@dataclass
class KeysArguments:
    host: list[str] = field(
        default_factory=list,
        metadata={"help": "Names and addresses by which sites reach the server, beside this machine's own."},
    )


@dataclass
class KeyArguments:
    out: str = field(default=".", metadata={"help": "Folder for it."})


@dataclass
class NoArguments:
    """All that a site decides is in its file."""


def federate(argv: list[str]) -> int:
    """Federated pretraining: every site its own heads and teacher, one encoder."""
    if argv and argv[0] in ACTIONS:
        return ACTIONS[argv[0]](argv[1:])
    given, words = read_options(
        FederatedArguments,
        "federate",
        argv,
        "Federated pretraining, simulated on this machine. Options given here replace the recipe's. With sites "
        "elsewhere: `ark-hf federate keys` (for the server), `key` (for a site), `server` and `site`.",
        recipe={"help": "YAML or JSON file of the options below and a list `sites`."},
    )
    values = read_federated_recipe(words.recipe) | given
    sites = parse_sites(values.pop("sites", None), words.recipe)
    check_simulation(sites, words.recipe)
    args = build(FederatedArguments, values, words.recipe)
    if not Path(args.output_dir).exists():
        check_init(args.init)
    for site in sites:
        for task in site.tasks:
            task.location(args.data_root)
    quiet()
    from ..federated.simulation import federate as run

    print(f"The federation's model is in {run(args, sites)}.")
    return 0


def keys(argv: list[str]) -> int:
    args, words = parse(
        KeysArguments,
        "federate keys",
        argv,
        "Makes what a server needs: certificates for TLS, and the key by which it signs what runs at the sites. Each "
        "site gets ca.crt and trusted.yaml; all else stays.",
        folder={"help": "Folder for them."},
    )
    _check_flower()
    from ..federated.credentials import CA, TRUSTED, make_server_credentials

    make_server_credentials(Path(words.folder), args.host)
    print(f"Give each site {Path(words.folder, CA)} and {Path(words.folder, TRUSTED)}; the other files stay here.")
    return 0


def key(argv: list[str]) -> int:
    args, words = parse(
        KeyArguments,
        "federate key",
        argv,
        "Makes the key by which a server knows a site.",
        name={"help": "The site's name, as in the server's recipe."},
    )
    _check_flower()
    from ..federated.credentials import make_site_key

    public = make_site_key(Path(args.out), words.name)
    print(f"Give the server {public}; {public.with_suffix('')} stays here.")
    return 0


def server(argv: list[str]) -> int:
    given, words = read_options(
        ServerArguments,
        "federate server",
        argv,
        "Runs the federation of a recipe with sites that come over the network, each by its `key`. Options given here "
        "replace the recipe's; the same command goes on from the newest master.",
        recipe={"help": "YAML or JSON file of the options below and a list `sites` of names and keys."},
    )
    credentials, host, port = given.pop("credentials", None), given.pop("host", "127.0.0.1"), given.pop("port", 8443)
    values = read_federated_recipe(words.recipe) | given
    sites = parse_sites(values.pop("sites", None), words.recipe)
    args = build(FederatedArguments, values, words.recipe)
    check_server(args, sites, words.recipe)
    if credentials is None:
        raise ValueError("--credentials is missing: the folder that `ark-hf federate keys` made.")
    if not Path(args.output_dir).exists():
        check_init(args.init)
    _check_flower()
    from ..federated.credentials import check_public_key
    from ..federated.deployment import serve

    sites = [_with_key(site, words.recipe) for site in sites]
    for site in sites:
        check_public_key(Path(str(site.key)), site.name)
    if host not in LOOPBACK:
        print(
            f"Warning: whoever reaches port {port} of {host} can stop this run and run programs on this machine. "
            "Listen at 127.0.0.1, and let a proxy pass on the path /v1/fleet/ alone.",
            file=sys.stderr,
        )
    print(f"The federation's model is in {serve(args, sites, Path(credentials), host, port)}.")
    return 0


def site(argv: list[str]) -> int:
    _, words = parse(
        NoArguments,
        "federate site",
        argv,
        "Takes part in a federation, until it is ended. It only dials out, and runs only what a key that it trusts "
        "has signed; audit.jsonl in its folder lists what has left.",
        file={"help": "YAML file of what this site decides and keeps."},
    )
    args, tasks = read_site(words.file)
    _check_flower()
    from ..federated.node import check_link, run_site

    check_link(args, words.file)
    for task in tasks:
        task.location(args.data_root)
    run_site(args, Path(words.file))
    return 0


def _check_flower() -> None:
    from ..federated.processes import check_flower

    check_flower()


def _with_key(site: SiteSpec, recipe: str) -> SiteSpec:
    return replace(site, key=str(Path(recipe).resolve().parent / str(site.key)))


ACTIONS = {"keys": keys, "key": key, "server": server, "site": site}
