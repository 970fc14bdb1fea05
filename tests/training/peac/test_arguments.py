"""Settings of PEAC: what they share with Ark's, and that every slip is named before any training time is spent."""

from dataclasses import fields

import pytest
import yaml

from ark_hf.cli.main import main
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.peac.arguments import PeacArguments
from ark_hf.training.recipe import read_recipe


def test_what_means_the_same_has_the_type_of_arks():
    ark = {each.name: each.type for each in fields(PretrainingArguments)} | {"method": None, "optim": None}
    for each in fields(PeacArguments):
        assert ark.get(each.name) in (None, each.type), each.name
        assert each.metadata["help"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"global_projector_dims": [8, 8]}, "global_projector_dims must be three positive widths"),
        ({"local_projector_dims": [8, 0, 8]}, "local_projector_dims must be three positive widths"),
        ({"local_weight": -1}, "local_weight must not be negative"),
        ({f"{term}_weight": 0 for term in ("order", "restoration", "global", "local")}, "are all 0"),
        ({"reproduce": ["transposed_masks"]}, "did you mean `transposed_matches`"),
        ({"reproduce": ["lr_by_epoch", "lr_by_epoch"]}, "names 'lr_by_epoch' twice"),
        ({"reproduce": ["lr_by_epoch"], "lr_scheduler_type": "constant"}, "makes the learning rate itself"),
        ({"method": "ark"}, "method is 'ark'; use one of"),
        ({"ema_momentum": 1}, "ema_momentum must lie in"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PeacArguments("runs/peac", **settings)


def written(tmp_path, **values):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(tmp_path / "run"), "tasks": [{"dataset": "xrays"}], **values}))
    return path


def test_a_recipe_is_read_as_its_method(tmp_path):
    assert read_recipe(written(tmp_path, method="peac", epochs=3))["epochs"] == 3
    with pytest.raises(ValueError, match="unknown key `epochs` of method: ark; it is one of method: peac"):
        read_recipe(written(tmp_path, epochs=3))
    with pytest.raises(ValueError, match="unknown key `cycles` of method: peac; it is one of method: ark"):
        read_recipe(written(tmp_path, method="peac", cycles=3))
    with pytest.raises(ValueError, match="method is 'pac'; did you mean `peac`?"):
        read_recipe(written(tmp_path, method="pac"))
    with pytest.raises(ValueError, match=r"recipe.yaml: method is \['peac'\]; did you mean `peac`?"):
        read_recipe(written(tmp_path, method=["peac"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epochs", "0"], "epochs must be positive"),
        (["--cycles", "3"], "unknown option `--cycles` of method: peac; it is one of method: ark"),
        (["--method", "ark"], "unknown key `epochs` of method: ark; it is one of method: peac"),
        (["--method", "peac", "--method", "ark"], "unknown key `epochs` of method: ark"),
        (["--method", "ark", "--meth=peac"], "xrays"),
        (["--method", "pac"], "error: --method is 'pac'; did you mean `peac`?"),
        (["--method"], "error: --method is ''; allowed are"),
        (["--init", "nowhere.pth"], "init: 'nowhere.pth' is not a weights file"),
        ([], "xrays"),
    ],
)
def test_the_verb_reads_options_of_the_recipes_method(tmp_path, capsys, words, message):
    assert main(["pretrain", str(written(tmp_path, method="peac", epochs=3)), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("before", [["--streaming"], ["--gradient-check"], ["--seed=3"], ["--init", "none"]])
def test_the_recipe_may_follow_options(tmp_path, capsys, before):
    assert main(["pretrain", *before, str(written(tmp_path, method="peac")), "--epochs", "0"]) == 2
    assert "epochs must be positive" in capsys.readouterr().err


def test_a_recipes_method_is_named_with_its_file(tmp_path, capsys):
    assert main(["pretrain", str(written(tmp_path, method="pac"))]) == 2
    assert "recipe.yaml: method is 'pac'; did you mean `peac`?" in capsys.readouterr().err


def test_help_is_that_of_the_method(capsys):
    of_peac = "--restoration_weight"
    for words, option in {(): "--cycles", ("--method", "peac"): of_peac, ("--meth", "peac"): of_peac}.items():
        with pytest.raises(SystemExit):
            main(["pretrain", *words, "--help"])
        assert option in capsys.readouterr().out
