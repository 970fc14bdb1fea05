"""What a run starts from: nothing, a Genesis, or a file of the originals."""

import pytest
import torch

from ark_hf import GenesisConfig, GenesisForPreTraining, GenesisImageProcessor
from ark_hf.training.genesis.arguments import GenesisArguments
from ark_hf.training.genesis.start import build_start, read_start, write_start
from tests.models.genesis.original_files import genesis_state_dict, training_checkpoint


def build(modality="CT", **settings):
    return build_start(GenesisArguments("runs/genesis", **settings), modality)


@pytest.fixture(scope="module")
def genesis(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start") / "genesis"
    torch.manual_seed(0)
    config = GenesisConfig(width=2, depth=2, cube_size=[16, 16, 16], spacing=[2, 1, 1], hu_window=[-200, 300])
    GenesisForPreTraining(config).save_pretrained(folder)
    GenesisImageProcessor.from_config(config).save_pretrained(folder)
    return folder


def test_a_new_network_is_the_published_one_for_its_seed():
    start = build(seed=3, width=2)
    config = start.model.config
    assert (config.width, config.depth, config.axes, config.cube_size) == (2, 4, "zyx", [32, 64, 64])
    assert config.hu_window == [-1000, 1000] and config.spacing is None and not config.batch_statistics
    assert start.processor.cube_size == [32, 64, 64] and start.facts == {"start": "none"}
    one, same, other = (build(width=2, seed=seed).model.restoration_head.weight for seed in (3, 3, 4))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert build(width=2, reproduce=["batch_statistics"]).model.config.batch_statistics


def test_it_goes_on_from_a_genesis_with_what_it_sees(genesis):
    start = build(init=str(genesis))
    saved = GenesisForPreTraining.from_pretrained(genesis).state_dict()
    assert all(torch.equal(saved[key], value) for key, value in start.model.state_dict().items())
    assert start.model.config.spacing == start.processor.spacing == [2, 1, 1]
    assert start.facts["start"] == "genesis"
    other = build(init=str(genesis), cube_size=[32, 16, 16], hu_window=[0, 100], depth=2)
    assert other.processor.cube_size == [32, 16, 16] and other.processor.hu_window == [0, 100]
    assert other.model.config.spacing == [2, 1, 1]


def test_it_goes_on_from_a_file_of_the_originals(tmp_path):
    weights = genesis_state_dict()
    torch.save(training_checkpoint(weights), tmp_path / "Genesis_Chest_CT.pt")
    start = build(init=str(tmp_path / "Genesis_Chest_CT.pt"))
    assert start.model.config.axes == start.processor.axes == "xyz" and start.model.config.width == 2
    assert torch.equal(start.model.restoration_head.weight, weights["out_tr.final_conv.weight"])
    assert not start.model.config.batch_statistics and start.facts == {"start": "Genesis_Chest_CT.pt"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cube_size": [32, 32, 30]}, r"multiples of 8 for a network of 4 levels, got \[32, 32, 30\]"),
        ({"cube_size": [32, 32]}, "cube_size must be three positive integers"),
        ({"cube_size": [32, 32, 8]}, "leaves no room to deform cubes: 14 voxels at least"),
        ({"cube_size": [16, 16, 16], "depth": 5}, "is a single voxel at the bottom of a network of 5 levels"),
        ({"spacing": [1, 1]}, "spacing must be three positive numbers"),
        ({"hu_window": [100, -100]}, "hu_window must be two numbers"),
        ({"init": "GENESIS", "width": 8}, "has width 2, not 8, and keeps it: leave width out"),
        ({"init": "GENESIS", "axes": "xyz"}, "has axes 'zyx', not 'xyz', and keeps it"),
        ({"init": "GENESIS/.."}, "Did you mean .*genesis"),
        ({"init": "FILE"}, "is not a checkpoint of Models Genesis|not a weights file|cannot be read"),
        ({"init": "CLASSIFIER"}, "lacks .* of the model's tensors"),
    ],
)
def test_what_does_not_suit_is_refused(genesis, tmp_path, settings, message):
    (tmp_path / "words.pt").write_text("no weights")
    if settings.get("init") == "CLASSIFIER":
        from ark_hf import GenesisForImageClassification

        config = GenesisConfig(width=2, depth=2, cube_size=[16, 16, 16], num_labels=2)
        GenesisForImageClassification(config).save_pretrained(tmp_path / "classifier")
        GenesisImageProcessor.from_config(config).save_pretrained(tmp_path / "classifier")
    places = {"GENESIS": genesis, "GENESIS/..": genesis.parent, "FILE": tmp_path / "words.pt"}
    places["CLASSIFIER"] = tmp_path / "classifier"
    settings = {"width": 2} | settings if "init" not in settings else settings
    settings = {key: str(places.get(value, value)) if key == "init" else value for key, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_values_of_another_modality_need_a_window(genesis):
    for init in ("none", str(genesis)):
        with pytest.raises(ValueError, match="The volumes are of modality MR.*is one of CT: set hu_window"):
            build("MR", init=init)
    assert build("MR", width=2, hu_window=[0, 1500]).processor.modality == "MR"


def test_a_checkpoint_holds_what_the_run_is_set_up_by(tmp_path):
    start = build("MR", width=2, depth=3, hu_window=[0, 1500], axes="xyz")
    write_start(tmp_path, start)
    again = read_start(tmp_path)
    assert again.model.config.to_dict() == start.model.config.to_dict()
    assert again.processor.to_dict() == start.processor.to_dict() and again.facts == start.facts
