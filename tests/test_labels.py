"""The synonym table: what it knows, what it must not confuse, and how a wrong one is refused."""

import configparser
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ark_hf.labels import SYNONYMS_FILE, Synonyms, normalise, read_synonyms
from tests.conftest import REPOSITORY

TABLE = read_synonyms()
CHEXPERT = (
    "No Finding, Enlarged Cardiomediastinum, Cardiomegaly, Lung Opacity, Lung Lesion, Edema, Consolidation, "
    "Pneumonia, Atelectasis, Pneumothorax, Pleural Effusion, Pleural Other, Fracture, Support Devices"
)
VOCABULARIES = {
    "mimic_cxr": CHEXPERT,
    "chexpert": CHEXPERT,
    "chestxray14": "Atelectasis, Cardiomegaly, Effusion, Infiltration, Mass, Nodule, Pneumonia, Pneumothorax, "
    "Consolidation, Edema, Emphysema, Fibrosis, Pleural_Thickening, Hernia, No Finding",
    "rsna": "Normal, No Lung Opacity/Not Normal, Lung Opacity",
    "vindr_cxr": "Aortic enlargement, Atelectasis, Cardiomegaly, Calcification, Clavicle fracture, Consolidation, "
    "Edema, Emphysema, Enlarged PA, Interstitial lung disease (ILD), ILD, Infiltration, Lung cavity, Lung cyst, "
    "Lung opacity, Mediastinal shift, Nodule/Mass, Pulmonary fibrosis, Pneumothorax, Pleural thickening, "
    "Pleural effusion, Rib fracture, Other lesion, PE, Lung tumor, Pneumonia, Tuberculosis, Other diseases, COPD, "
    "No finding",
    "shenzhen": "TB",
    "covidx": "normal, pneumonia, COVID-19",
    "tbx11k": "healthy, sick, sick_but_non-tb, active_tb, latent_tb, tb, ActiveTuberculosis, "
    "ObsoletePulmonaryTuberculosis",
    "siim_acr": "Pneumothorax",
    "node21": "Nodule",
    "kermany": "NORMAL, PNEUMONIA, bacteria, virus, bacterial, viral, Bacterial pneumonia, Viral pneumonia",
    "rsna_opacity": "Lung Opacity",
    "padchest": "normal, pleural effusion, pneumonia, nodule, multiple nodules, pulmonary mass, cardiomegaly, "
    "pulmonary edema, atelectasis, laminar atelectasis, consolidation, infiltrates, alveolar pattern, "
    "interstitial pattern, pneumothorax, hydropneumothorax, pulmonary fibrosis, emphysema, subcutaneous emphysema, "
    "COPD signs, pleural thickening, apical pleural thickening, costophrenic angle blunting, hiatal hernia, "
    "tuberculosis, tuberculosis sequelae, aortic elongation, mediastinal enlargement, hilar enlargement, cavitation, "
    "granuloma, rib fracture, vertebral fracture, pacemaker, NSG tube, endotracheal tube, heart insufficiency",
    "chestdr": "pleural_effusion, fracture_old, aortic_calcification, tortuous_aorta, thickened_pleura, TB, "
    "pulmonary_edema, increased_lung_markings, elevated_diaphragm",
}
VOCABULARIES = {task: labels.split(", ") for task, labels in VOCABULARIES.items()}


@pytest.mark.parametrize("task", VOCABULARIES)
def test_the_table_knows_the_vocabularies_of_the_datasets(task):
    findings = set(TABLE.names.values())
    assert [label for label in VOCABULARIES[task] if TABLE.finding(label, task) not in findings] == []
    own = [TABLE.finding(label, task) for label in VOCABULARIES[task]]
    written_twice = {"vindr_cxr": 2, "tbx11k": 3, "kermany": 4}  # some have two spellings of a finding above
    assert len(own) - len(set(own)) == written_twice.get(task, 0), "two labels of one dataset are one finding"


@pytest.mark.parametrize(
    "names",
    [
        ("TB", "tuberculosis", "Tuberculosis", "Pulmonary tuberculosis"),
        ("Effusion", "Pleural Effusion", "pleural_effusion"),
        ("Pleural_Thickening", "pleural thickening"),
        ("No Finding", "Normal", "normal", "healthy"),
        ("Cardiomegaly", "Enlarged heart"),
        ("COVID-19", "covid19", "COVID 19"),
        ("Nodule/Mass", "nodule_mass"),
        ("Fibrosis", "Pulmonary fibrosis"),
    ],
)
def test_names_of_one_finding(names):
    assert len({TABLE.finding(name) for name in names}) == 1


@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("Nodule", ["Mass", "Nodule/Mass", "Lung tumor", "Lung Lesion"]),
        ("Pneumonia", ["Lung Opacity", "Consolidation", "Infiltration", "Bacterial pneumonia"]),
        ("Emphysema", ["Subcutaneous emphysema", "COPD"]),
        ("Hernia", ["Hiatal hernia"]),
        ("Cardiomegaly", ["Enlarged Cardiomediastinum"]),
        ("Pleural Effusion", ["PE", "Costophrenic angle blunting"]),
        ("Fracture", ["Rib fracture", "Clavicle fracture"]),
        ("Tuberculosis", ["Latent TB", "sick but non-TB"]),
        ("Lung Opacity", ["No Lung Opacity/Not Normal"]),
        ("No Finding", ["No Lung Opacity/Not Normal"]),
        ("Atelectasis", ["Lung collapse", "Collapsed lung"]),
        ("Pneumothorax", ["Lung collapse", "Collapsed lung"]),
    ],
)
def test_kindred_is_not_the_same(name, others):
    assert TABLE.finding(name) not in [TABLE.finding(other) for other in others]


def test_what_a_name_means_in_one_dataset():
    assert TABLE.finding("PE", "vindr_cxr") == TABLE.finding("Effusion")
    assert TABLE.relation("PE", "Effusion") is None  # pulmonary embolism, for all that is known
    assert TABLE.finding("PE") == "pe"
    assert TABLE.relation("Pneumonia", "pneumonia", task="covidx") is None  # there, what is not COVID-19
    assert TABLE.relation("Other diseases", "Other diseases", "padchest", "vindr_cxr") is None
    assert TABLE.relation("Other disease", "Other diseases", "vindr_cxr", "vindr_cxr") is not None
    assert TABLE.relation("Pleural Other", "Pleural Other", "chexpert", "mimic_cxr") == "same name"
    assert TABLE.relation("Pleural Other", "Pleural Other", "mine", "mimic_cxr") is None
    assert TABLE.finding("virus", "kermany") == TABLE.finding("Viral pneumonia")
    assert TABLE.relation("viral", "Viral pneumonia", "swabs", related=True) is None
    assert TABLE.relation("viral", "Viral", "phantom_coast", "phantom_coast") == "same name"


@pytest.mark.parametrize("task", ["rsna", "rsna_opacity"])
def test_an_opacity_of_rsna_is_one_that_may_be_pneumonia(task):
    assert TABLE.relation("Lung Opacity", "Lung Opacity", "chexpert", task) is None
    assert TABLE.relation("Lung Opacity", "Lung Opacity", "rsna", task) == "same name"
    for target in ("Lung Opacity", "Pneumonia"):
        assert TABLE.relation(target, "Lung Opacity", "chexpert", task, related=True).startswith("related: ")


def test_why_two_labels_match():
    assert TABLE.relation("pleural_effusion", "Pleural Effusion") == "same name"
    assert TABLE.relation("TB", "tb") == "same name"
    assert TABLE.relation("TB", "Tuberculosis") == "synonym: TB = Tuberculosis"
    assert TABLE.relation("Effusion", "PE", task="vindr_cxr") == "synonym: Effusion = PE = Pleural Effusion"
    assert TABLE.relation("nodule", "Lung tumour") is None
    assert TABLE.relation("nodule", "Lung tumour", related=True) == "related: Nodule ~ Lung tumor"
    assert TABLE.relation("Weird sign", "weird_sign") == "same name"
    assert TABLE.relation("Weird sign", "odd sign", related=True) is None


@given(st.text(st.characters(codec="ascii"), max_size=30), st.sampled_from([" ", "_", "-", "/", " - ", "(", "__"]))
def test_case_and_separators_do_not_matter(text, separator):
    name = normalise(text)
    assert normalise(name) == name
    assert normalise(text.upper()) == normalise(text.lower()) == name
    assert normalise(separator + name.replace(" ", separator) + separator) == name


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


@given(st.sampled_from(sorted(TABLE.names)), st.sampled_from(sorted(TABLE.names)), st.booleans())
def test_matching_is_mutual(one, other, related):
    forth, back = TABLE.relation(one, other, related=related), TABLE.relation(other, one, related=related)
    assert (forth is None) == (back is None)
    if TABLE.relation(one, other) is not None:  # what matches without related findings matches with them
        assert forth == TABLE.relation(one, other)


def test_a_table_of_ones_own_replaces_the_packages(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("findings: {Shadow: [No, '007'], Light: []}\nrelated: {Shadow: [Light]}\n")
    table = read_synonyms(file)
    assert table.relation("no", "SHADOW") == "synonym: no = Shadow"
    assert table.finding("007") == "Shadow"  # neither false nor seven
    assert table.relation("Light", "no") is None
    assert table.relation("Light", "no", related=True) == "related: Light ~ Shadow"
    assert table.relation("TB", "Tuberculosis") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- Nodule", "must be a mapping"),
        ("", "must be a mapping"),
        ("findings: [Nodule]", "findings: must be a mapping"),
        ("related: {}", "must have the section `findings`"),
        ("findings: {}\nsynonyms: {}", "it has ['findings', 'synonyms']"),
        ("findings: {Nodule: Lung nodule}", "findings, 'Nodule': must be a list of names, [] for none"),
        ("findings: {Nodule: }", "findings, 'Nodule': must be a list of names"),
        ("findings: {Nodule: [Lung nodule, [Spot]]}", "findings, 'Nodule': must be a list of names"),
        ("findings: {Nodule: [Spot], Mass: [SPOT]}", "findings, 'Mass': 'SPOT' stands under 'Nodule' too"),
        ("findings: {Nodule: [Mass], Mass: []}", "findings, 'Mass': 'Mass' stands under 'Nodule' too"),
        ("findings: {Nodule: [Spot], Nodule: []}", "'Nodule' stands twice"),
        ("findings: {Nodule: ['--']}", "findings, 'Nodule': the name '--' has no letters or digits"),
        ("findings: {Nodule: []}\nrelated: {Nodule: [Mass]}", "related, 'Nodule': 'Mass' is not among the findings"),
        ("findings: {Nodule: []}\nrelated: {Nodul: []}", "related, 'Nodul': 'Nodul' is not among the findings"),
        ("findings: {Nodule: []}\nrelated: {Nodule: [Nodles]}", "did you mean 'Nodule'?"),
        ("findings: {Nodule: []}\nrelated: [Nodule]", "related: must be a mapping"),
        ("findings: {Nodule: []}\ntasks: {mine: [x]}", "tasks, 'mine': must be a mapping"),
        ("findings: {Nodule: []}\ntasks: {mine: {x: Mass}}", "tasks, 'mine', 'x': 'Mass' is not among the findings"),
        ("findings: {Nodule: []}\ntasks: {mine: {x: [Mass]}}", "tasks, 'mine', 'x': ['Mass'] is not among"),
        ("findings: {Nodule: [", "is not valid YAML"),
        ("findings: {[a]: []}", "is not valid YAML"),
        ("findings: &a [*a]", "anchors and aliases (&a, *a) are refused"),
        ("findings: {Nodule: &a [], Mass: *a}", "anchors and aliases (&a, *a) are refused"),
        ("[" * 5000, "is not valid YAML"),
        (b"\xff\xfe\xfd", "is not valid YAML"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError) as error:
        read_synonyms(file)
    assert message in str(error.value) and str(file) in str(error.value)


def test_a_small_file_cannot_be_a_long_message(tmp_path):
    """Nine levels of nine aliases each are 9^9 names; a long value is cut."""
    file = tmp_path / "laughs.yaml"
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    file.write_text("\n".join(["a0: &a0 [x]", *levels, "findings: *a9"]))
    with pytest.raises(ValueError, match="anchors and aliases") as caught:
        read_synonyms(file)
    assert len(str(caught.value)) < 500
    name = "x" * 100_000
    for text in (
        f"findings: {name}",
        f"findings: {{a: {name}}}",
        f"{name}: {{}}",
        f"findings: {{a: []}}\nrelated: {{a: [{name}]}}",
    ):
        file.write_text(text)
        with pytest.raises(ValueError) as caught:
            read_synonyms(file)
        assert len(str(caught.value)) < 500


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(ValueError, match="Cannot read the synonym table .*none.yaml: No such file"):
        read_synonyms(tmp_path / "none.yaml")


def test_unlisted_names_stand_for_themselves_alone():
    empty = Synonyms({}, {}, frozenset())
    assert empty.relation("Nodule", "nodule") == "same name" and empty.relation("Nodule", "Mass", related=True) is None


def test_the_table_is_part_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    assert SYNONYMS_FILE.name in setup["options.package_data"]["ark_hf"].replace(",", " ").split()


def test_labels_load_no_torch():
    code = (
        "import sys; sys.argv = ['ark-hf']\nimport ark_hf.labels\nark_hf.labels.read_synonyms()\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
