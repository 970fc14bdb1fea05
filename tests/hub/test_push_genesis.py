"""Genesis on the Hub: its cards, what may be pushed, and loading it back."""

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForPreTraining

from ark_hf import (
    ArkConfig,
    ArkImageProcessor,
    ArkModel,
    ArkTask,
    GenesisConfig,
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisImageProcessor,
    GenesisModel,
    SegmentationTask,
)
from ark_hf.cli.main import main
from ark_hf.hub.model_card import model_card
from ark_hf.hub.push_model import check_model_folder, push_model
from ark_hf.models.genesis.code_genesis import CODE_FILES
from ark_hf.provenance import write_provenance
from tests.hub.conftest import sent_objects

SPLIT = {"rows": 7, "patients": 5, "labels": {"nodule": {"positive": 3, "negative": 4, "uncertain": 0, "unknown": 0}}}
SCANS = {"task": "scans", "dataset": "someone/scans", "uncertain": "ignore", "splits": {"train": SPLIT}}
TUNED = {"head": "fresh", "train_images": 7, "steps": 5, "best_step": 4, "seed": 1, "data": [SCANS]}
LEARNED = {"method": "genesis", "epoch": 9, "settings": {"method": "genesis"}, "data": [SCANS], "start": "none"}


def save(folder, kind=GenesisForPreTraining, **settings):
    torch.manual_seed(0)
    config = GenesisConfig(width=2, depth=2, cube_size=[8, 8, 8], **settings)
    kind(config).save_pretrained(folder)
    GenesisImageProcessor.from_config(config).save_pretrained(folder)
    return folder


def text_of(folder):
    card = model_card(folder, "someone/genesis")
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert "radiograph" not in card.text and "{" not in card.text.split("## Licence")[0]
    return card.text


def test_a_pretrained_one_says_what_it_learned_and_sees(tmp_path):
    folder = save(tmp_path / "genesis", spacing=[2.0, 1.5, 1.5], batch_statistics=True)
    write_provenance(folder, "self-supervision", {**LEARNED, "validation": {"loss": 0.0123}})
    card = model_card(folder, "someone/genesis")
    assert card.data.pipeline_tag == "image-feature-extraction" and "models-genesis" in card.data.tags
    assert card.data.datasets == ["someone/scans"]
    text = text_of(folder)
    for said in (
        "Pretrained on volumes alone, without a look at labels. It is the 3D U-Net of Models Genesis",
        "(batch, 1, z, y, x), float in [0, 1]: -1000 to 1000 Hounsfield units. It was trained on cubes of 8 x 8 x 8 "
        "voxels of 2 x 1.5 x 1.5 mm; sides must be multiples of 2.",
        "depends on\nthe others in its batch",
        'AutoModelForPreTraining.from_pretrained("someone/genesis", trust_remote_code=True)',
        "Weights of the end of epoch 9 of Models Genesis, without labels. Validation losses: loss 0.0123.",
        "| train volumes | patients | validation volumes |",
        "zhou2021models",
    ):
        assert said in text
    assert "ma2023foundation" not in text and "## Labels" not in text


def test_of_mr_there_is_no_window_and_nothing_of_batches(tmp_path):
    text = text_of(save(tmp_path / "genesis", GenesisModel, hu_window=None))
    assert "float in [0, 1]. It was trained on cubes of 8 x 8 x 8 voxels as scanned;" in text
    assert "Hounsfield" not in text.split("## Intended use")[0] and "its batch" not in text
    assert "pooler_output  # features" in text and "neither data nor settings are known" in text


@pytest.mark.parametrize(
    ("kind", "settings", "tag", "said"),
    [
        (
            GenesisForSemanticSegmentation,
            {"segmentation": SegmentationTask("organs", ["lungs", "nodule"], modality="CT")},
            "image-segmentation",
            [
                "| `organs` | masks that exclude each other, modality CT | lungs, nodule |",
                "A voxel belongs to the most probable",
            ],
        ),
        (
            GenesisForImageClassification,
            {"tasks": [ArkTask("clinic", ["nodule"], modality="CT")]},
            "image-classification",
            [
                "| `clinic` | several labels per image, modality CT | nodule |",
                "the cube that the image processor cuts",
            ],
        ),
    ],
)
def test_fine_tuned_ones_say_what_they_tell_and_what_they_started_from(tmp_path, kind, settings, tag, said):
    folder = save(tmp_path / "tuned", kind, **settings)
    started = {"kind": "self-supervision", **LEARNED}
    write_provenance(folder, "fine-tuning", {**TUNED, "start": "someone/start", "start_provenance": started})
    card = model_card(folder, "someone/genesis")
    assert card.data.pipeline_tag == tag and card.data.base_model == "someone/start"
    text = text_of(folder)
    for each in [*said, "Trained on 7 volumes for 5 steps", "zhou2021models", "ark-hf predict someone/genesis scans/"]:
        assert each in text


def test_a_push_sends_model_code_and_card_and_it_loads_back(hub, tmp_path):
    folder = save(tmp_path / "genesis")
    files = {"config.json", "preprocessor_config.json", "model.safetensors", *CODE_FILES}
    assert set(check_model_folder(folder)) == files
    push_model(folder, "someone/genesis")
    assert set(hub.model("someone/genesis").files) - {".gitattributes"} == {*files, "README.md"}
    loaded, own = (AutoModelForPreTraining.from_pretrained(name).state_dict() for name in ("someone/genesis", folder))
    assert loaded.keys() == own.keys() and all(torch.equal(value, own[key]) for key, value in loaded.items())
    assert AutoImageProcessor.from_pretrained("someone/genesis").cube_size == [8, 8, 8]
    with hub.recording() as requests:
        push_model(folder, "someone/genesis")
    assert not sent_objects(requests)


def test_neither_family_is_pushed_over_the_other(hub, tmp_path):
    push_model(save(tmp_path / "genesis"), "someone/taken")
    ArkModel(ArkConfig(backbone="test_resnet", image_size=32, projector_dim=None)).save_pretrained(tmp_path / "ark")
    ArkImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "ark")
    with pytest.raises(ValueError, match="it holds something else; choose another name"):
        push_model(tmp_path / "ark", "someone/taken")


def spoil_the_code(folder):
    with open(folder / "modeling_genesis.py", "a", encoding="utf-8") as file:
        file.write("import os\n")


def add_a_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "scans": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_the_code, "modeling_genesis.py is not the code of this version of ark-hf"),
        (add_a_tensor, "holds tensors that are not the model's: scans"),
        (lambda folder: (folder / "scan.nii.gz").write_bytes(b"x"), "holds images: scan.nii.gz"),
        (lambda folder: (folder / "modeling_ark.py").write_bytes(b"x"), "no part of a model: modeling_ark.py"),
        (lambda folder: (folder / "heads_ark.py").unlink(), "lacks heads_ark.py"),
    ],
)
def test_folders_that_are_no_clean_genesis_are_refused(tmp_path, spoil, message):
    spoil(save(tmp_path / "genesis"))
    with pytest.raises(ValueError, match=message):
        check_model_folder(tmp_path / "genesis")


def test_a_run_is_not_the_model(tmp_path, capsys):
    save(tmp_path / "run" / "genesis")
    assert main(["push", str(tmp_path / "run"), "someone/x", "--dry_run"]) == 2
    assert f"Did you mean {tmp_path / 'run' / 'genesis'}?" in capsys.readouterr().err
