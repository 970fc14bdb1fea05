"""
What is known of patients stays where the user put it: every verb is walked with planted names, numbers and words, and
nothing that it prints, logs, writes or sends says them, but where the user asked for it by name.

A verb that is added to the command makes the first test fail until it is walked.
"""

import io
import logging
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from pydicom import dcmread

from ark_hf import ArkForImageClassification, ChestXrayClassificationPipeline, load_ark
from ark_hf.cli.main import main, verbs
from ark_hf.federated.simulation import LocalSites
from tests.data.images.test_dicom import make_dicom, save
from tests.data.volumes.made import ct, series
from tests.inference.genesis_models import genesis_segmenter, save_genesis
from tests.serving.test_page import free_port, send_to
from tests.training.conftest import TINY

pytestmark = [pytest.mark.slow_ci, pytest.mark.usefixtures("no_figures")]

# What is planted, by where it stands
TAG, PRIVATE, COLUMN, TEXT = "Zaphodtag", "Zaphodprivate", "Zaphodcolumn", "Zaphodreport"  # never asked for
PATIENT, FILE = "Zaphodpatient", "Zaphodfile"  # asked for: the patients' column, and the files themselves
PLANTED = (TAG, PRIVATE, COLUMN, TEXT, PATIENT, FILE)
TAGS = """
    PatientName PatientID OtherPatientIDs PatientAddress PatientComments AccessionNumber InstitutionName StudyID
    ReferringPhysicianName OperatorsName StudyDescription SeriesDescription ProtocolName RequestAttributesSequence
""".split()[:-1]


def with_planted_tags(dataset, number: int):
    for name in TAGS:
        setattr(dataset, name, f"{TAG}{number}"[:16])
    dataset.BurnedInAnnotation = "YES"
    dataset.private_block(0x0029, PRIVATE, create=True).add_new(0x01, "LO", f"{PRIVATE}{number}")
    return dataset


@pytest.fixture(scope="module")
def hospital(tmp_path_factory) -> Path:
    """A folder of DICOM files and a table, with identifiers wherever there is room for one."""
    folder = tmp_path_factory.mktemp("hospital") / "raw"
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = ["image,patient,sex,age,effusion,nodule,name,report,split"]
    for number in range(36):
        label = number % 2
        pixels = (random.random((40, 40)) * 2000 + 2000 * label).astype(np.uint16)
        name = f"{FILE}_{number}.dcm"
        save(with_planted_tags(make_dicom(pixels, 12), number), folder / name)
        split = ("train", "train", "train", "validation", "validation", "test", "test", "train", "train")[number // 4]
        lines.append(
            f"{name},{PATIENT}_{number // 4}_{split},F,50,{label},{number // 2 % 2},{COLUMN} {number},"
            f"{TEXT} {number},{split}"
        )
    (folder / f"{FILE}_cut.dcm").write_bytes((folder / f"{FILE}_0.dcm").read_bytes()[:900])
    lines.append(f"{FILE}_cut.dcm,{PATIENT}_cut,F,50,1,1,{COLUMN} cut,{TEXT} cut,train")
    lines.append(f"{FILE}_absent.dcm,{PATIENT}_absent,F,50,1,1,{COLUMN} absent,{TEXT} absent,train")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    mixed = [lines[0], *(line.replace("_train", "").replace("_test", "") for line in lines[1:20])]
    (folder / "mixed.csv").write_text("\n".join(mixed).replace("_4", "_0").replace("validation", "test") + "\n")
    scan = folder.parent / "cts" / FILE
    for number, path in enumerate(series(scan, ct())):
        save(with_planted_tags(dcmread(path), number), path)
    return folder


def texts_of(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what is packed in it."""
    content = path.read_bytes()
    yield content
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield str(table.schema).encode()
        yield repr(table.to_pydict()).encode()
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def said(*texts: bytes | str) -> set[str]:
    """What of the planted words stands in texts."""
    joined = b"".join(each.encode() if isinstance(each, str) else each for each in texts).lower()
    return {word for word in PLANTED if word.lower().encode() in joined}


def ark(*words: object, code: int = 0) -> None:
    assert main([str(word) for word in words]) == code


def walk_data(raw: Path) -> None:
    columns = ["--labels", "effusion", "nodule", "--patient_column", "patient", "--name", "chests", "--num_workers", 1]
    build = ["data", "build", "generic", "--raw", raw]
    ark(*build, "--out", "refused", *columns, code=2)
    ark(*build, "--out", "mixed", *columns, "--csv", raw / "mixed.csv", code=2)
    ark(*build, "--out", "chests", *columns, "--skip_bad", "--dicom_metadata", "age", "sex", "view")
    ark(
        "data",
        "build",
        "generic_volume",
        "--raw",
        raw.parent / "cts",
        "--out",
        "cts",
        "--unlabelled",
        "--num_workers",
        1,
    )
    ark("data", "build", "hub", "--raw", "chests", "--out", "again", "--num_workers", 1, "--labels", "labels", code=2)
    ark("data", "report", "chests", "--out", "data_report")


def walk_pretrain(raw: Path) -> None:
    recipe = {**TINY, "cycles": 1, "output_dir": "run", "tasks": [{"dataset": "chests"}]}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    ark("pretrain", "recipe.yaml")


def walk_finetune(raw: Path) -> None:
    ark(
        "finetune",
        "run/ark-cxr",
        "chests",
        "--output_dir",
        "tuned",
        "--epochs",
        1,
        "--batch_size",
        8,
        "--bootstrap",
        9,
    )


def walk_evaluate(raw: Path) -> None:
    ark("evaluate", "run/ark-cxr", "chests", "--out", "report", "--calibrate", "calibrated", "--bootstrap", 9)


def walk_predict(raw: Path) -> None:
    ark("predict", "run/ark-cxr", raw, "--out", "predictions.csv", "--heatmaps", "heat")
    ark("predict", save_genesis(Path("genesis"), genesis_segmenter()), raw.parent / "cts" / FILE, "--out", "found.csv")
    model, processor = load_ark("run/ark-cxr")
    pipe = ChestXrayClassificationPipeline(model=model, image_processor=processor)
    print(pipe([str(path) for path in raw.glob("*.dcm")]))


def walk_embed(raw: Path) -> None:
    ark("embed", "run/ark-cxr", "chests", "--store", "store", "--out", "embeddings.parquet")


def walk_probe(raw: Path) -> None:
    ark("probe", "run/ark-cxr", "chests", "--out", "probed", "--store", "store", "--bootstrap", 9)


def walk_export(raw: Path) -> None:
    ark("export", "calibrated", "--out", "onnx")


def walk_convert(raw: Path) -> None:
    state, weights = ArkForImageClassification.from_pretrained("run/ark-cxr").state_dict(), raw.parent / "weights.pth"
    torch.save({"teacher": state, "args": TAG, TEXT: [COLUMN], "train_list": PATIENT}, weights)
    ark("convert", weights, "--out", "converted", code=2)  # ours is no original's
    ark("convert", raw / "labels.csv", "--out", "converted", code=2)


def walk_push(raw: Path) -> None:
    ark("push", "calibrated", "someone/model", "--report", "report")
    ark("push", "chests", "someone/chests", code=2)


def walk_serve(raw: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        servers: list[Any] = []
        patch.setattr("ark_hf.serving.server.PageServer.wait", lambda server: servers.append(server))
        ark("serve", "run/ark-cxr", "--port", free_port())
    for file in sorted(raw.glob("*.dcm"))[:3] + [raw / "labels.csv"]:
        print(send_to(servers[0].port, file.name, file.read_bytes()))
    servers[0].close()


def walk_federate(raw: Path) -> None:
    sites = [{"name": name, "tasks": [{"dataset": "chests", "name": name}]} for name in ("north", "south")]
    settings = {name: value for name, value in TINY.items() if name != "cycles"}
    recipe = {**settings, "rounds": 1, "output_dir": "federated", "sites": sites, "sites_at_once": 1}
    Path("federation.yaml").write_text(yaml.safe_dump(recipe | {"publish_heads": True, "share_metrics": True}))
    sent: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        usual = LocalSites.__call__

        def recorded(self, request):
            for given in usual(self, request):
                sent.extend([request, given])
                yield given

        patch.setattr(LocalSites, "__call__", recorded)
        ark("federate", "federation.yaml")
    assert len(sent) >= 12 and not said(repr([(each.values, each.vector and each.vector.table) for each in sent]))
    assert not said(*(each.vector.values.tobytes() for each in sent if each.vector is not None))


WALK = {name.removeprefix("walk_"): walk for name, walk in list(globals().items()) if name.startswith("walk_")}


# Where the user has asked for what is said: a dataset is made of files and patients, and tables are by file
ASKED = {
    "chests/data/*": {PATIENT, FILE},
    "cts/data/*": {FILE},
    "*/build_report.json": {FILE},
    "*/image_statistics.parquet": {FILE},
    "*.problems.json": {FILE},
    "predictions*.csv": {FILE},
    "report/predictions-*.csv": {PATIENT, FILE},
    "embeddings.parquet": {FILE},
    "found*": {FILE},
    "heat/*": {FILE},
}
# On the screen too, files are named: those that were given, and of which something must be told
PRINTED = {"data": {FILE}, "predict": {FILE}, "serve": {FILE}}
OF_NO_PATIENT = {"demo", "doctor", "completion"}  # they take no data


def test_every_verb_is_walked():
    assert set(WALK) | OF_NO_PATIENT == set(verbs())


def test_nothing_known_of_patients_gets_out(hospital, hub, tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    for verb, walk in WALK.items():
        walk(hospital)
        told = capfd.readouterr()
        assert said(told.out, told.err, caplog.text) <= PRINTED.get(verb, set()), verb
        caplog.clear()
    written = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(tmp_path)): path for path in written}
    asked = {
        name: set().union(*(words for pattern, words in ASKED.items() if fnmatch(name, pattern))) for name in names
    }
    found = {name: said(name, *texts_of(path)) - asked[name] for name, path in names.items()}
    assert not {name: words for name, words in found.items() if words}
    model = hub.model("someone/model")
    assert ("datasets", "someone/chests") not in hub.repositories  # or only with --allow_patient_data
    sent = [file for commit in model.commits.values() for file in commit.files.items()]
    assert not said(*(name for name, _ in sent), *(file.content for _, file in sent))
    # And it would have been seen
    assert {path.name for path in written} >= {
        "predictions.csv",
        "model.onnx",
        "report.html",
        "README.md",
        "model.safetensors",
    }
    assert PATIENT in said(*texts_of(next(Path("chests/data").iterdir())))
    assert {name for name, _ in sent} >= {"README.md", "model.safetensors", "config.json"}
