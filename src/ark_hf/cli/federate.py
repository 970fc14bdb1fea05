"""The verb `federate`: federated pretraining, simulated on one machine from a recipe."""

from pathlib import Path

from ..federated.recipe import FederatedArguments, check_simulation, parse_sites, read_federated_recipe
from ..training.settings import check_init
from .arguments import build, quiet, read_options


def federate(argv: list[str]) -> int:
    """Federated pretraining: every site its own heads and teacher, one encoder."""
    given, words = read_options(
        FederatedArguments,
        "federate",
        argv,
        "Federated pretraining, simulated on this machine. Options given here replace the recipe's.",
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
