"""Conversion of Models Genesis' checkpoint: every layout, nothing silently left out, and its folder."""

import json
import pickle

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

import ark_hf
from ark_hf.cli.main import main
from ark_hf.models.genesis.convert_genesis_checkpoint import convert_genesis_checkpoint

from .original_files import genesis_state_dict, training_checkpoint

FIRST = "down_tr64.ops.0.conv1.weight"


def saved(tmp_path, value, name="Genesis_Chest_CT.pt"):
    torch.save(value, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_every_layout_gives_the_same_model(tmp_path, prefix):
    weights = genesis_state_dict()
    flat = convert_genesis_checkpoint(saved(tmp_path, weights, "flat.pt"))
    conversion = convert_genesis_checkpoint(saved(tmp_path, training_checkpoint(weights, prefix)))
    assert (flat.section, conversion.section) == ("the only model", "epoch 7")
    assert (flat.ignored, conversion.ignored) == ((), ("the optimiser's state",))
    assert conversion.num_used == flat.num_used == len(weights)
    theirs = conversion.model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in flat.model.state_dict().items())
    assert sorted(map(float, (each.sum() for each in weights.values()))) == pytest.approx(
        sorted(map(float, (each.sum() for each in theirs.values())))
    )


def test_the_config_says_what_the_original_does(tmp_path):
    conversion = convert_genesis_checkpoint(saved(tmp_path, genesis_state_dict(width=3, inputs=2)))
    config, processor = conversion.model.config, conversion.processor
    assert (config.width, config.depth, config.num_channels, config.activation) == (3, 4, 2, "relu")
    assert (config.axes, config.cube_size, config.spacing) == ("xyz", [64, 64, 32], None)
    assert config.hu_window == [-1000, 1000] and config.batch_statistics is True
    assert (processor.axes, processor.cube_size, processor.hu_window) == ("xyz", [64, 64, 32], [-1000, 1000])
    assert "by its name Genesis Chest CT" in conversion.summary()
    assert not conversion.model.training


@pytest.mark.parametrize("slopes", [0, 1], ids=["one a unit", "one a channel"])
def test_prelu_is_known_by_its_slopes(tmp_path, slopes):
    weights = genesis_state_dict(slopes=slopes)
    model = convert_genesis_checkpoint(saved(tmp_path, weights)).model
    assert model.config.activation == "prelu"
    slope = model.genesis.encoder.levels[0][1].activation.weight
    assert torch.equal(slope, weights["down_tr64.ops.1.activation.weight"].expand(4))


def test_elu_is_told(tmp_path):
    path = saved(tmp_path, genesis_state_dict())
    cubes = torch.rand(2, 1, 16, 16, 8)
    relu, elu = (convert_genesis_checkpoint(path, activation=each).model for each in ("relu", "elu"))
    assert elu.config.activation == "elu"
    assert not torch.allclose(relu(cubes).reconstruction, elu(cubes).reconstruction)


def changed(change):
    def apply(weights):
        change(weights)
        return training_checkpoint(weights)

    return apply


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda weights: {"epoch": 1, "model": weights}, "is not a checkpoint of Models Genesis in PyTorch"),
        (lambda weights: {"epoch": 1}, "has no tensor 'down_tr64.ops.0.conv1.weight', but keys such as"),
        (changed(lambda w: w.pop("up_tr64.ops.1.bn1.bias")), r"missing \(1\).*decoder.levels.2.1.normalization.bias"),
        (changed(lambda w: w.update({"out_tr.bias": torch.zeros(1)})), "left over .* 1, such as .'out_tr.bias'"),
        (changed(lambda w: w.update({"up_tr64.ops.bias": torch.zeros(1)})), "left over .*'up_tr64.ops.bias'"),
        (changed(lambda w: w.update({FIRST: torch.zeros(2, 1, 3, 3)})), "not that of a 3D convolution"),
        (changed(lambda w: w.update({FIRST: torch.zeros(0, 1, 3, 3, 3)})), "not that of a 3D convolution"),
        (changed(lambda w: w.update({FIRST: torch.zeros(8, 1, 3, 3, 3)})), "of another shape"),
        (changed(lambda w: w.update({FIRST: w[FIRST].long()})), "hold no floating-point numbers"),
        (changed(lambda w: w[FIRST].fill_(torch.nan)), "holds NaN or infinite values"),
        (lambda w: {**training_checkpoint(w, ""), "state_dict": {**w, f"module.{FIRST}": w[FIRST]}}, "tensors twice"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error(tmp_path, make, message):
    with pytest.raises(ValueError, match=message) as error:
        convert_genesis_checkpoint(saved(tmp_path, make(genesis_state_dict())))
    assert "Genesis_Chest_CT.pt" in str(error.value)


def test_a_segmenter_of_the_originals_has_other_classes_than_channels(tmp_path):
    weights = genesis_state_dict()
    weights["out_tr.final_conv.weight"] = torch.zeros(3, 4, 1, 1, 1)
    with pytest.raises(ValueError, match="restoration_head.weight .* instead of"):
        convert_genesis_checkpoint(saved(tmp_path, weights))


class RunsCode:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_no_code_of_a_file_runs(tmp_path, capsys):
    path = saved(tmp_path, {**training_checkpoint(genesis_state_dict()), "notes": RunsCode()})
    with pytest.raises(ValueError, match="asks for builtins.print|asks for __builtin__.print"):
        convert_genesis_checkpoint(path)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(RunsCode()))
    with pytest.raises(ValueError, match="bare pickle"):
        convert_genesis_checkpoint(tmp_path / "bare.pt")
    assert "ran" not in capsys.readouterr().out


def test_the_verb_knows_the_file_by_its_tensors(tmp_path, capsys):
    path = saved(tmp_path, training_checkpoint(genesis_state_dict()), "mine.pt")
    assert main(["convert", str(path), "--out", str(tmp_path / "genesis")]) == 0
    assert "3D U-Net of Models Genesis, 4 levels, width 2, relu" in capsys.readouterr().out
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "genesis").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "genesis")
    cubes = torch.rand(2, 1, 16, 16, 8)
    original = convert_genesis_checkpoint(path).model
    assert torch.equal(model(cubes).reconstruction, original(cubes).reconstruction)
    assert type(AutoModel.from_pretrained(tmp_path / "genesis")) is ark_hf.GenesisModel
    assert processor.axes == "xyz"
    provenance = json.loads((tmp_path / "genesis" / "provenance.json").read_text())
    assert (provenance["kind"], provenance["method"], provenance["source"]) == ("conversion", "genesis", "mine.pt")
    card = (tmp_path / "genesis" / "README.md").read_text()
    for said in (
        "Not a medical device",
        "(batch, 1, x, y, z)",
        "zhou2021models",
        "non-commercial",
        "epoch 7 of mine",
    ):
        assert said in card


@pytest.mark.parametrize("option", [["--key", "teacher"], ["--image_size", "384"]])
def test_options_of_ark_are_refused(tmp_path, capsys, option):
    path = saved(tmp_path, training_checkpoint(genesis_state_dict()))
    assert main(["convert", str(path), "--out", str(tmp_path / "genesis"), *option]) == 2
    assert f"is a checkpoint of Models Genesis; leave out {option[0][2:]}." in capsys.readouterr().err
    assert not (tmp_path / "genesis").exists()
