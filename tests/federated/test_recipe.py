"""Recipes of federations, and what a site keeps to itself."""

import pytest
import yaml

from ark_hf import FederatedArguments, parse_sites, read_federated_recipe
from ark_hf.federated.recipe import read_site


def test_cycles_follow_from_rounds():
    assert FederatedArguments(output_dir="run", rounds=7, cycles_per_round=3).cycles == 21
    with pytest.raises(TypeError):
        FederatedArguments(output_dir="run", cycles=5)


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"cycles": 3}, "cycles is rounds x cycles_per_round"),
        ({"tasks": []}, "every site has its own tasks"),
        ({"round": 3}, "did you mean `rounds`"),
    ],
)
def test_keys_that_do_not_belong_are_explained(tmp_path, values, complaint):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"output_dir": "run", **values}))
    with pytest.raises(ValueError, match=complaint):
        read_federated_recipe(tmp_path / "recipe.yaml")


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"rounds": 0}, "rounds must be positive"),
        ({"min_sites": 0}, "min_sites must be positive"),
        ({"timeout": -1}, "timeout must be positive"),
        ({"weighting": "size"}, "weighting is 'size'"),
        ({"strategy": "concurrent"}, "strategy is not for federations"),
        ({"reproduce": ["bce_everywhere"]}, "reproduce is not for federations"),
        ({"log_with": "wandb"}, "log_with is not for federations"),
        ({"logging_steps": 5}, "logging_steps is not for federations"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
    ],
)
def test_settings_that_cannot_be_are_refused(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        FederatedArguments(output_dir="run", **values)


def test_nothing_of_the_server_or_of_a_site_is_sent():
    args = FederatedArguments(output_dir="/secret/run", data_root="/secret/data", init="/secret/ark-cxr")
    assert "secret" not in str(args.training())
    assert {"backbone", "learning_rate", "rounds", "weighting"} <= set(args.training())


@pytest.mark.parametrize(
    "entries, complaint",
    [
        (None, "at least two sites"),
        ([{"name": "north"}], "at least two sites"),
        ([{"name": "north"}, {"name": "north"}], "two sites are named 'north'"),
        ([{"name": "north"}, {"name": "../south"}], "small letters"),
        ([{"name": "north"}, {"name": 3}], "small letters"),
        ([{"name": "north"}, "south"], "site 2 must be a mapping"),
        ([{"name": "north"}, {"name": "south", "task": []}], "did you mean `tasks`"),
        ([{"name": "north"}, {"name": "south", "tasks": []}], "site 'south': `tasks` must list"),
    ],
)
def test_sites_that_cannot_be_are_refused(entries, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_sites(entries, "recipe.yaml")


def test_a_site_joins_a_server_by_paths_that_start_from_its_file(tmp_path):
    joined = "link: 'a:1', certificate: ca.crt, key: keys/north, trusted: /etc/trusted.yaml"
    (tmp_path / "site.yaml").write_text(f"{{name: north, output_dir: s, tasks: [{{dataset: d}}], {joined}}}")
    site, _ = read_site(tmp_path / "site.yaml")
    assert (site.link, site.certificate, site.key, site.trusted) == (
        "a:1",
        f"{tmp_path}/ca.crt",
        f"{tmp_path}/keys/north",
        "/etc/trusted.yaml",
    )


def test_sites_come_in_the_order_of_their_names():
    assert [site.name for site in parse_sites([{"name": "south"}, {"name": "north"}], "recipe.yaml")] == [
        "north",
        "south",
    ]


def test_paths_of_a_site_start_from_its_file(tmp_path):
    (tmp_path / "site.yaml").write_text("{name: north, output_dir: state, tasks: [{dataset: data/rsna}]}")
    site, tasks = read_site(tmp_path / "site.yaml")
    assert site.output_dir == str(tmp_path / "state") and site.data_root == str(tmp_path)
    assert not site.publish_heads and not site.share_metrics and tasks[0].dataset == "data/rsna"
    (tmp_path / "site.yaml").write_text("{name: north, tasks: [{dataset: data/rsna}]}")
    with pytest.raises(ValueError, match=r"site.yaml lacks `output_dir`"):
        read_site(tmp_path / "site.yaml")
