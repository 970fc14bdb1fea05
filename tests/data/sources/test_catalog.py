"""The catalog of datasets: complete, in the label order of the released heads, and light enough for `--help`."""

import re
import subprocess
import sys

import pytest
import yaml

from ark_hf.data.sources.catalog import CATALOG_FILE, read_catalog
from ark_hf.data.sources.masked_releases import MASKED_RELEASES
from ark_hf.data.sources.modality_readers import MODALITY_READERS
from ark_hf.data.sources.release_readers import READERS
from ark_hf.data.sources.releases import released_task
from ark_hf.data.sources.volume_releases import VOLUME_RELEASES
from ark_hf.labels import read_synonyms
from ark_hf.models.ark.configuration_ark import ArkTask
from ark_hf.models.ark.convert_ark_checkpoint import RELEASED_TASKS

CATALOG = read_catalog()
ENTRIES = pytest.mark.parametrize("entry", CATALOG.values(), ids=CATALOG)


def test_all_datasets_of_the_papers_are_there():
    assert list(CATALOG) == [
        *("chestxray14", "chexpert", "mimic_cxr", "vindr_cxr", "vindr_cxr_all", "vinbigdata", "rsna", "rsna_opacity"),
        *("shenzhen", "montgomery", "covidx", "chestdr", "tbx11k", "siim_acr", "node21", "kermany"),
        *("kermany_pneumonia", "padchest"),
        *("jsrt", "montgomery_lungs", "vindr_ribcxr", "siim_acr_masks"),
        "luna16",
        *("aptos2019", "idrid", "idrid_referable", "messidor2", "messidor2_referable"),
        *("vindr_mammo", "vindr_mammo_density"),
    ]


@pytest.mark.parametrize("task", RELEASED_TASKS, ids=lambda task: task.name)
def test_labels_are_those_of_the_released_heads_in_their_order(task):
    entry = CATALOG[task.name]
    assert ArkTask(entry.name, entry.labels, entry.problem_type, entry.eval_labels) == task


@ENTRIES
def test_entry_is_complete(entry):
    assert released_task(entry).labels == entry.labels
    labelled = READERS if entry.modality == "CR" else MODALITY_READERS
    pictures = labelled if entry.masks is None else MASKED_RELEASES
    assert entry.reader in (VOLUME_RELEASES if entry.volumes else pictures)
    assert entry.modality in (("CT", "MR") if entry.volumes else ("CR", "OP", "MG"))
    assert entry.masks in (None, "exclusive", "overlapping")
    assert set(entry.shares) <= {"validation", "test"} and sum(entry.shares.values()) < 0.5
    assert re.fullmatch(r"(@\w+\{\w+,\n(.|\n)*\n\}\n)+", entry.citation) and entry.citation.count("{") == (
        entry.citation.count("}")
    )
    for text in ("title", "license", "access", "layout", "splits", "semantics"):
        assert getattr(entry, text).strip()
    assert entry.homepage.startswith("https://")
    for choice in entry.options.values():
        assert choice.help and len(choice.values) > 1 and set(choice.expected) <= set(choice.values[1:])


@ENTRIES
def test_expected_counts_have_a_source_and_known_names(entry):
    assert set(entry.expected) <= {"source", "images", "patients", "positives"} and entry.expected["source"]
    assert entry.expected["images"]["all"] > 0
    for split, counts in entry.expected.get("positives", {}).items():
        assert split in ("all", "train", "validation", "test")
        assert set(counts) == set(entry.labels), "each label has its count"
        if entry.problem_type == "single_label_classification":
            unknown = 4 * (entry.name == "messidor2")  # which could not be graded
            assert sum(counts.values()) + unknown == entry.expected["images"][split]


def test_variants_of_a_release_get_the_same_splits():
    variants = {"vindr_cxr_all": "vindr_cxr", "rsna_opacity": "rsna", "kermany_pneumonia": "kermany"}
    variants |= {"montgomery_lungs": "montgomery", "siim_acr_masks": "siim_acr", "idrid_referable": "idrid"}
    variants |= {"messidor2_referable": "messidor2", "vindr_mammo_density": "vindr_mammo"}
    for name, other in variants.items():
        assert (CATALOG[name].seed, CATALOG[name].shares) == (CATALOG[other].seed, CATALOG[other].shares)
    others = [entry.seed for name, entry in CATALOG.items() if name not in variants]
    assert len(set(others)) == len(others), "datasets of their own have seeds of their own"


@pytest.mark.parametrize(
    ("name", "label", "finding"),
    [
        ("tbx11k", "Tuberculosis", "Tuberculosis"),
        ("siim_acr", "Pneumothorax", "Pneumothorax"),
        ("kermany_pneumonia", "Pneumonia", "Pneumonia"),
        ("node21", "Nodule", "Nodule"),
        ("vindr_cxr", "PE", "Pleural Effusion"),
        ("shenzhen", "TB", "Tuberculosis"),
    ],
)
def test_labels_of_the_published_transfers_are_known_to_the_synonym_table(name, label, finding):
    assert label in CATALOG[name].labels
    assert read_synonyms().finding(label, name) == finding


def test_an_entry_like_another_says_only_what_differs(tmp_path):
    path = tmp_path / "catalog.yaml"
    written = yaml.safe_load(CATALOG_FILE.read_text())
    entries = {"siim_acr": written["siim_acr"], "mine": {"like": "siim_acr", "title": "Mine"}}
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    base, mine = read_catalog(path).values()
    assert (mine.name, mine.title, mine.seed, mine.labels) == ("mine", "Mine", "siim_acr", base.labels)


def test_misspelled_key_is_named(tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG_FILE.read_text().replace("  homepage:", "  homepge:", 1))
    with pytest.raises(ValueError, match="chestxray14: .* the keys .*'homepage'.*; this one has .*'homepge'"):
        read_catalog(path)


def test_entry_like_none_is_refused(tmp_path):
    path = tmp_path / "catalog.yaml"
    path.write_text("mine: {like: siim_acr}\n")
    with pytest.raises(ValueError, match="mine: there is no entry 'siim_acr' further up"):
        read_catalog(path)


def test_reading_the_catalog_loads_no_torch():
    code = (
        "import sys; sys.argv = ['ark-hf']; from ark_hf.data.sources.catalog import read_catalog; read_catalog();"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
