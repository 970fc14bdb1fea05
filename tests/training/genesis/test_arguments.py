"""Settings of Models Genesis: what they share with Ark's, and that every slip is named before any time is spent."""

from dataclasses import fields

import pytest
import yaml

from ark_hf.cli.main import main
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.genesis.arguments import QUIRKS, GenesisArguments
from ark_hf.training.recipe import read_recipe


def test_what_means_the_same_has_the_type_of_arks():
    ark = {each.name: each.type for each in fields(PretrainingArguments)} | {"method": None}
    for each in fields(GenesisArguments):
        assert ark.get(each.name) in (None, each.type), each.name
        assert each.metadata["help"]


def test_the_optimiser_is_that_of_the_release():
    args = GenesisArguments("runs/genesis")
    assert (args.optim, args.learning_rate, args.batch_size, args.patience) == ("momentum", 1.0, 6, 50)
    assert set(GenesisArguments("runs/genesis", reproduce=[*QUIRKS]).reproduce) == set(QUIRKS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"cubes_per_volume": 0}, "cubes_per_volume must be positive"),
        ({"border": [1, 2]}, "border must be three numbers of voxels, one an axis"),
        ({"border": [1, -2, 3]}, "border must be three numbers of voxels, one an axis"),
        ({"most_tissue": 15}, r"most_tissue must lie in \(0, 1\], got 15"),
        ({"cube_size": 32}, r"cube_size must be a list: write `cube_size: \[32\]`"),
        ({"init": "imagenet"}, "ImageNet has no volumes"),
        ({"reproduce": ["batch_statistic"]}, "did you mean `batch_statistics`"),
        ({"reproduce": ["batch_statistics", "batch_statistics"]}, "names 'batch_statistics' twice"),
        ({"reproduce": ["lr_halved_by_epoch"], "lr_scheduler_type": "constant"}, "makes the learning rate itself"),
        ({"method": "peac"}, "method is 'peac'; use one of"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GenesisArguments("runs/genesis", **settings)


def written(tmp_path, **values):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "run"), "tasks": [{"dataset": "cts"}], **values}))
    return path


def test_a_recipe_is_read_as_its_method(tmp_path):
    assert read_recipe(written(tmp_path, method="genesis", cube_size=[32, 32, 32]))["cube_size"] == [32, 32, 32]
    with pytest.raises(ValueError, match="unknown key `cube_size` of method: peac; it is one of method: genesis"):
        read_recipe(written(tmp_path, method="peac", cube_size=[32, 32, 32]))
    with pytest.raises(ValueError, match="unknown key `streaming` of method: genesis; it is one of method: ark, peac"):
        read_recipe(written(tmp_path, method="genesis", streaming=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image_size", "32"], "unknown option `--image_size` of method: genesis; it is one of method: ark, peac"),
        (["--init", "nowhere.pt"], "init: 'nowhere.pt' is not a folder with a Genesis, a file of the originals or"),
        (["--patience", "null", "--hu_window", "0", "soft"], "hu_window must be float, got 'soft'"),
        (["--patience", "null", "--hu_window", "0", "1500"], "cts"),
    ],
)
def test_the_verb_reads_options_of_the_method(tmp_path, capsys, words, message):
    assert main(["pretrain", str(written(tmp_path, method="genesis")), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_help_is_that_of_the_method(capsys):
    with pytest.raises(SystemExit):
        main(["pretrain", "--method", "genesis", "--help"])
    help = capsys.readouterr().out
    assert "--cubes_per_volume" in help and "lr_halved_by_epoch" in help and "--ema_mode" not in help
