"""What a model's folder says of its weights."""

import json
from importlib.metadata import Distribution, PackageNotFoundError, version

import pytest
import torch
from safetensors.torch import save_file

from ark_hf.data.sources.phantom_sites import build_phantom_sites
from ark_hf.provenance import (
    PROVENANCE_FILE,
    compute_facts,
    copy_notes,
    package_version,
    read_provenance,
    shown_name,
    weights_sha256,
    write_provenance,
)


def test_what_was_written_is_read_with_the_versions(tmp_path):
    write_provenance(tmp_path, "conversion", {"source": "ark.pth", "summary": "weights: teacher"})
    origin = read_provenance(tmp_path)
    assert origin["source"] == "ark.pth" and {"ark-hf", "torch", "transformers", "timm"} == set(origin["versions"])


def test_a_source_tree_that_is_not_installed_works_and_says_so(tmp_path, monkeypatch):
    find = Distribution.from_name

    def find_others(name):
        if name == "ark-hf":
            raise PackageNotFoundError(name)
        return find(name)

    assert package_version() == version("ark-hf")
    monkeypatch.setattr(Distribution, "from_name", find_others)
    assert package_version() == "0+unknown"
    write_provenance(tmp_path, "conversion", {"source": "ark.pth", "summary": "weights: teacher"})
    assert read_provenance(tmp_path)["versions"]["ark-hf"] == "0+unknown"
    sites = build_phantom_sites(tmp_path / "sites", {"train": 2}, size=32)
    assert "of ark-hf 0+unknown, " in (next(iter(sites.values())) / "README.md").read_text()


def test_a_model_without_a_file_and_one_that_was_never_saved_say_nothing(tmp_path):
    assert read_provenance(tmp_path) is None and read_provenance("") is None
    assert weights_sha256(tmp_path) is None and weights_sha256("") is None
    copy_notes(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not what ark-hf wrote"),
        ("[]", "is not what ark-hf wrote"),
        ('{"kind": "dreamt"}', "is not what ark-hf wrote"),
        ('{"seeds": {}}', "is not what ark-hf wrote"),
        ("[" * 100_000, "is not what ark-hf wrote"),
        ('{"kind": []}', "is not what ark-hf wrote"),
        ('{"kind": "fine-tuning", "head": "fresh"}', r"lacks \['best_step', 'seed', 'steps', 'train_images'\]"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / PROVENANCE_FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{PROVENANCE_FILE} {message}.*: save the model again"):
        read_provenance(tmp_path)


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"weight_map": 3}', '{"weight_map": {}}', '{"weight_map": {"a": [1]}}']
)
def test_a_damaged_list_of_weights_is_named(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match="model.safetensors.index.json is no list of the files of weights"):
        weights_sha256(tmp_path)


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/hostname", "inside/weights.safetensors"])
def test_a_list_of_weights_leads_to_no_other_folder(tmp_path, name):
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ValueError, match="no list of the files of weights beside it"):
        weights_sha256(tmp_path / "model")


def test_names_tell_nothing_of_the_machine(tmp_path, monkeypatch):
    (tmp_path / "ark-cxr").mkdir()
    assert shown_name(tmp_path / "ark-cxr") == "ark-cxr"
    assert shown_name("/nowhere/private/ark-cxr") == shown_name("some/private/ark-cxr") == "ark-cxr"
    assert shown_name("someone/ark-cxr@v1") == "someone/ark-cxr@v1" and shown_name("imagenet") == "imagenet"
    monkeypatch.chdir(tmp_path / "ark-cxr")
    assert shown_name(".") == "ark-cxr"


def test_the_sum_is_of_all_weights_in_order(tmp_path):
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    whole = weights_sha256(tmp_path)
    save_file({"a": torch.ones(3)}, tmp_path / "model.safetensors")
    assert len(whole) == 64 and weights_sha256(tmp_path) != whole
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        save_file({name: torch.full((3,), float(number))}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {name: name for name in names}}))
    parts = weights_sha256(tmp_path)
    save_file({names[1]: torch.zeros(3)}, tmp_path / names[1])
    assert weights_sha256(tmp_path) != parts != whole


def test_compute_facts_are_of_the_device():
    facts = compute_facts(torch.device("cpu"), 61.26, 2, "bf16")
    assert facts["device"].startswith("CPU, ") and (facts["seconds"], facts["num_processes"]) == (61.3, 2)
    assert compute_facts(torch.device("mps"), None)["device"] == "MPS"
