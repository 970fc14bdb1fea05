"""The verb `federate`: federated pretraining, simulated on one machine, or with sites that are processes elsewhere."""

import difflib
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
from ..training.settings import check_init, nearest
from .arguments import build, parse, quiet, read_options

LINK_OPTIONS = ("credentials", "host", "port")
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
    """A file or folder says all."""


def federate(argv: list[str]) -> int:
    """Federated pretraining: every site its own heads and teacher, one encoder."""
    if argv and argv[0] in ACTIONS:
        return ACTIONS[argv[0]](argv[1:])
    if argv and not Path(argv[0]).exists() and difflib.get_close_matches(argv[0], ACTIONS):
        raise ValueError(f"no recipe {argv[0]!r} is here; {nearest(argv[0], ACTIONS)}")
    given, words = read_options(
        FederatedArguments,
        "federate",
        argv,
        "Federated pretraining, simulated on this machine. Options given here replace the recipe's. With sites "
        "elsewhere: `ark-hf federate keys` (for the server), `sign`, `key` (for a site), `server` and `site`.",
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

    print(_result(args, run(args, sites)))
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
    from ..federated.credentials import CA, PUBLISHER, TRUSTED, make_server_credentials, sign_app
    from ..federated.deployment import build_app

    folder = Path(words.folder)
    make_server_credentials(folder, args.host)
    sign_app(build_app(), folder)
    print(
        f"Give each site {folder / CA} and {folder / TRUSTED}. Take {folder / PUBLISHER} off this machine: the server "
        "does not need it, and who has it can run programs at the sites. The other files stay here."
    )
    return 0


def sign(argv: list[str]) -> int:
    _, words = parse(
        NoArguments,
        "federate sign",
        argv,
        "Signs the app anew, after another version of ark-hf was installed, by the publisher's key. The server gets "
        "signature.json.",
        folder={"help": "Folder with the publisher's key."},
    )
    _check_flower()
    from ..federated.credentials import SIGNATURE, sign_app
    from ..federated.deployment import build_app

    sign_app(build_app(), Path(words.folder))
    print(f"Give the server {Path(words.folder, SIGNATURE)}.")
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
    credentials, host, port = (given.pop(name, getattr(ServerArguments, name, None)) for name in LINK_OPTIONS)
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
    print(_result(args, serve(args, sites, Path(credentials), host, port)))
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


def _result(args: FederatedArguments, folder: Path) -> str:
    if args.keep_batch_norm:
        return (
            f"The federation's report is in {folder}. No model is published: batch norm's statistics are at the "
            "sites, where the folder of each holds its own model, `master`."
        )
    return f"The federation's model is in {folder}."


def _check_flower() -> None:
    from ..federated.processes import check_flower

    check_flower()


def _with_key(site: SiteSpec, recipe: str) -> SiteSpec:
    return replace(site, key=str(Path(recipe).resolve().parent / str(site.key)))


ACTIONS = {"keys": keys, "key": key, "sign": sign, "server": server, "site": site}
