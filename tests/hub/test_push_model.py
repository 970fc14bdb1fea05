"""Models on the Hub: what may be pushed, what is sent, and loading it back with and without our package."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    Trainer,
    TrainingArguments,
    pipeline,
)

import ark_hf
from ark_hf.cli.main import main
from ark_hf.hub.model_card import model_card
from ark_hf.hub.push_dataset import push_dataset
from ark_hf.hub.push_model import check_model_folder, model_files, push_model
from ark_hf.inference.load import load_ark
from ark_hf.inference.training_statistics import (
    TrainingStatistics,
    modality_statistics,
    model_hashes,
    write_training_statistics,
)
from ark_hf.provenance import STATISTICS_FILE, read_provenance
from ark_hf.training.peac.heads import HEADS_FILE
from tests.conftest import COUNTS
from tests.hub.conftest import sent_objects
from tests.hub.mask_reports import write_report_of
from tests.hub_stand_in import OWNER, STRANGER
from tests.inference.segmenters import ORGANS, save_segmenter
from tests.training.conftest import TINY

pytestmark = pytest.mark.usefixtures("no_figures")

CODE_FILES = {
    "configuration_ark.py",
    "heads_ark.py",
    "image_processing_ark.py",
    "masks_ark.py",
    "modeling_ark.py",
    "modeling_ark_segmentation.py",
    "swin_ark.py",
    "tasks_ark.py",
    "thresholds_ark.py",
}
MODEL_FILES = {"config.json", "preprocessor_config.json", "model.safetensors", "provenance.json", *CODE_FILES}
SITES = ("phantom_city", "phantom_hill")


@pytest.fixture(scope="module")
def run(sites, tmp_path_factory):
    """A run of one cycle on two sites, and its report."""
    folder = tmp_path_factory.mktemp("run")
    recipe = {**TINY, "cycles": 1, "output_dir": str(folder / "run"), "tasks": [{"dataset": name} for name in SITES]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["pretrain", str(folder / "recipe.yaml"), "--data_root", str(sites["phantom_city"].parent)]) == 0
    model, datasets = str(folder / "run" / "ark-cxr"), [str(sites[name]) for name in SITES]
    assert main(["evaluate", model, *datasets, "--bootstrap", "20", "--out", str(folder / "report")]) == 0
    return folder


@pytest.fixture(scope="module")
def pushed_model(hub, run):
    """Id of a private repository with the model and its report."""
    push_model(run / "run" / "ark-cxr", "someone/ark-cxr", run / "report")
    return "someone/ark-cxr"


@pytest.fixture
def ark_cxr(run, tmp_path):
    """A model of its own, to be spoiled."""
    shutil.copytree(run / "run" / "ark-cxr", tmp_path / "ark-cxr")
    return tmp_path / "ark-cxr"


# What may be pushed --------------------------------------------------------------------------------------------------


def test_all_files_of_a_trained_model_may_go(run):
    assert set(check_model_folder(run / "run" / "ark-cxr")) == MODEL_FILES


def test_what_tools_leave_in_a_folder_stays_there(ark_cxr):
    for name in (".gitattributes", ".git/HEAD", ".cache/huggingface/download/config.json.metadata"):
        (ark_cxr / name).parent.mkdir(parents=True, exist_ok=True)
        (ark_cxr / name).write_bytes(b"x")
    assert set(check_model_folder(ark_cxr)) == MODEL_FILES


def test_heads_of_peac_stay_there_and_the_push_says_so(ark_cxr, hub, capsys):
    save_file({"order.bias": torch.zeros(4)}, ark_cxr / HEADS_FILE)
    assert main(["push", str(ark_cxr), "someone/peac", "--dry_run"]) == 0
    listed, told = capsys.readouterr().out.split("bytes in all")
    assert HEADS_FILE not in listed and f"go on with the training: {HEADS_FILE}." in told
    assert push_model(ark_cxr, "someone/peac").stays == (HEADS_FILE,)
    assert "model.safetensors" in hub.model("someone/peac").files and HEADS_FILE not in hub.model("someone/peac").files


def test_statistics_of_training_images_go_if_they_are_of_these_weights(ark_cxr):
    model, processor = load_ark(str(ark_cxr))
    points = np.random.default_rng(0).normal(size=(600, model.base_model.embedding_dim))
    known = {"CR": modality_statistics(points, points, ["north"], 2)}
    write_training_statistics(ark_cxr, TrainingStatistics(model_hashes(model, processor), known))
    assert set(check_model_folder(ark_cxr)) == MODEL_FILES | {STATISTICS_FILE}
    known = {"CR": modality_statistics(points, points, ["/home/me/north"], 2)}
    write_training_statistics(ark_cxr, TrainingStatistics(model_hashes(model, processor), known))
    with pytest.raises(ValueError, match=f"{STATISTICS_FILE}.*path"):
        check_model_folder(ark_cxr)
    write_training_statistics(ark_cxr, TrainingStatistics({"float32": "0" * 64}, {}))
    with pytest.raises(ValueError, match=f"{STATISTICS_FILE} was measured on other weights"):
        check_model_folder(ark_cxr)
    (ark_cxr / STATISTICS_FILE).write_bytes(b"x")
    with pytest.raises(ValueError, match=f"{STATISTICS_FILE} is damaged"):
        check_model_folder(ark_cxr)


def test_a_pushed_model_doubts_by_its_statistics(ark_cxr, hub):
    model, processor = load_ark(str(ark_cxr))
    points = np.random.default_rng(0).normal(size=(600, model.base_model.embedding_dim))
    known = {"CR": replace(modality_statistics(points, points, ["north"], 2), threshold=0.0)}
    write_training_statistics(ark_cxr, TrainingStatistics(model_hashes(model, processor), known))
    push_model(ark_cxr, "someone/doubts")
    pipe = pipeline("chest-xray-classification", model="someone/doubts")
    assert any("unlike the training images of north" in each for each in pipe(np.eye(64))["warnings"])


def write(name, content):
    def spoil(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return spoil


def spoil_with_a_picture(folder):
    Image.new("L", (8, 8)).save(folder / "scan.png")


def spoil_json(name, **values):
    def spoil(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def spoil_the_code(folder):
    with open(folder / "modeling_ark.py", "a", encoding="utf-8") as file:
        file.write("import os\n")


def spoil_the_header(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"from": "/home/me/x.pth"})


def drop_a_head(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in weights.items() if not name.startswith("heads.phantom_hill")},
              folder / "model.safetensors", {"format": "pt"})  # fmt: skip


def add_tensors(name):
    def spoil(folder):
        weights = load_file(folder / "model.safetensors")
        kept = weights if name == "model.safetensors" else {}
        save_file({**kept, "scans": torch.zeros(3)}, folder / name, {"format": "pt"})

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_with_a_picture, r"holds images: scan.png. Move them elsewhere, or save the model alone"),
        (write("scans/a.dcm", b"x"), r"holds images: scans/a.dcm"),
        (write("training_args.bin", b"x"), "holds pickles, which run code when they are loaded: training_args.bin"),
        (
            write("patients.csv", b"patient_id,sex"),
            "holds tables or arrays, which may be about patients: patients.csv",
        ),
        (write("notes.txt", b"x"), "files that are no part of a model: notes.txt. Move them elsewhere"),
        (write(".env", b"x"), r"files that are no part of a model: .env"),
        (
            spoil_json("config.json", note="hf_" + "a" * 34),
            "config.json holds what looks like a token or a private key",
        ),
        (spoil_json("provenance.json", start="/home/me/ark6.pth"), "provenance.json names a path of this machine"),
        (
            spoil_json("provenance.json", data=[{"patient_id": ["p1"]}]),
            r"about single patients or images \(patient_id\)",
        ),
        (spoil_json("provenance.json", patient_id={"p1": {}}), r"about single patients or images \(patient_id\)"),
        (spoil_json("provenance.json", study_id=[]), r"about single patients or images \(study_id\)"),
        (spoil_json("provenance.json", **{"/home/me/x": {}}), "provenance.json names a path of this machine"),
        (spoil_json("provenance.json", PatientName="DOE^JANE"), r"about single patients or images \(PatientName\)"),
        (
            spoil_json("config.json", note="init:/home/me/x.pth"),
            "config.json names a path of this machine, '/home/me/x",
        ),
        (
            spoil_json("config.json", auto_map={"AutoModel": "evil/repo--modeling_ark.ArkModel"}),
            "names other code than",
        ),
        (spoil_json("preprocessor_config.json", auto_map={}), "preprocessor_config.json names other code than"),
        (write("onnx/model.onnx", b"x"), "files that are no part of a model: onnx/model.onnx"),
        (add_tensors("model.safetensors"), "holds tensors that are not the model's: scans"),
        (add_tensors("model-00007-of-00009.safetensors"), "holds tensors that are not the model's: scans"),
        (spoil_json("provenance.json", start="file:///srv/ark6.pth"), "provenance.json names a path of this machine"),
        (spoil_json("provenance.json", start=r"\\nas\ark6.pth"), "provenance.json names a path of this machine"),
        (spoil_the_code, "modeling_ark.py is not the code of this version of ark-hf, nor of an earlier"),
        (spoil_the_header, "model.safetensors names a path of this machine, '/home/me/x.pth'"),
        (write("model.safetensors", b"\x80\x04K\x01."), "model.safetensors is no safetensors file"),
        (drop_a_head, "lacks 2 of the model's tensors, such as heads.phantom_hill"),
        (lambda folder: (folder / "modeling_ark.py").unlink(), "lacks modeling_ark.py. With `import ark_hf`, load"),
        (write("config.json", b"{"), "config.json is not JSON"),
        (spoil_json("config.json", model_type="vit"), "of model type 'vit', not 'ark' or 'genesis'"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_folders_that_are_no_clean_model_are_refused(hub, ark_cxr, spoil, message):
    spoil(ark_cxr)
    with hub.recording() as requests, pytest.raises(ValueError, match=message) as caught:
        push_model(ark_cxr, "someone/spoiled")
    assert not requests and "\n" not in str(caught.value)


def test_a_report_of_other_weights_is_refused(run, ark_cxr):
    weights = load_file(ark_cxr / "model.safetensors")
    name = next(iter(weights))
    save_file({**weights, name: weights[name] + 1}, ark_cxr / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="it is of other weights. Run `ark-hf evaluate .*` again"):
        model_files(ark_cxr, "someone/x", run / "report")
    with pytest.raises(ValueError, match="report.json does not exist; `ark-hf evaluate ... --out FOLDER` writes it"):
        model_files(ark_cxr, "someone/x", run)
    (ark_cxr.parent / "report.json").write_text('{"tasks": [{"task": "x"}]}')
    with pytest.raises(ValueError, match="is not a report of this version"):
        model_files(ark_cxr, "someone/x", ark_cxr.parent)


def test_a_last_teacher_that_is_clearly_worse_than_the_best_asks_for_a_word(hub, run, ark_cxr, capsys):
    notes = json.loads((ark_cxr / "provenance.json").read_text())
    assert notes["best"] == {"cycle": 1, "mean_auroc": notes["validation"]["mean_auroc"]}
    for task in notes["validation"]["tasks"].values():  # as many images as show the difference
        task["samples"], task["positives"] = 6000, dict.fromkeys(task["positives"], 2000)
    notes |= {"cycle": 2, "best": {"cycle": 1, "mean_auroc": 0.95}}
    (ark_cxr / "provenance.json").write_text(json.dumps(notes))
    told = "of the best, of cycle 1: 0.9500; difference -0.* clearly worse"
    with hub.recording() as requests:
        with pytest.raises(
            ValueError, match=f"{told}. So push the best, the folder `best` of its run, or say --allow"
        ):
            push_model(ark_cxr, "someone/worse")
        shutil.copytree(run / "run" / "best", ark_cxr.parent / "best")
        assert main(["push", str(ark_cxr), "someone/worse", "--dry_run"]) == 2
        assert f"So push {ark_cxr.parent / 'best'}, or say --allow_worse." in capsys.readouterr().err
        assert main(["push", str(ark_cxr.parent / "best"), "someone/worse", "--dry_run"]) == 0
        assert main(["push", str(ark_cxr), "someone/worse", "--dry_run", "--allow_worse"]) == 0
    assert not requests
    card = model_files(ark_cxr, "someone/worse", allow_worse=True).card["README.md"].decode()
    assert "Weights of the end of cycle 2." in card and "0.9500; difference -0." in card


def test_the_report_says_how_the_training_ended(run):
    notes = read_provenance(run / "run" / "ark-cxr")
    told = f"The last teacher, of cycle 1, is the best: mean validation AUROC {notes['best']['mean_auroc']:.4f}."
    assert json.loads((run / "report" / "report.json").read_text())["training"] == told
    assert told in (run / "report" / "report.md").read_text() and told in (run / "report" / "report.html").read_text()


# Pushing -------------------------------------------------------------------------------------------------------------


def test_a_push_is_private_whole_and_free_of_this_machine(hub, run, pushed_model):
    repository = hub.model(pushed_model)
    assert repository.private and len(repository.commits) == 2
    figures = {f"figures/auroc-{number}-{name}.png" for number, name in enumerate(SITES, start=1)}
    reports = {f"report/report.{ending}" for ending in ("json", "md", "html")}
    assert set(repository.files) - {".gitattributes"} == {*MODEL_FILES, "README.md", *figures, *reports}
    for name, content in repository.files.items():
        if not name.endswith((".png", ".safetensors")):
            assert str(run.parent) not in content.decode()
    model = run / "run" / "ark-cxr"
    assert all(repository.files[name] == (model / name).read_bytes() for name in MODEL_FILES)


def test_a_second_push_sends_and_changes_nothing(hub, run, pushed_model):
    before = hub.model(pushed_model).refs["main"]
    with hub.recording() as requests:
        pushed = push_model(run / "run" / "ark-cxr", pushed_model, run / "report")
    assert pushed.url == f"{hub.endpoint}/{pushed_model}" and not sent_objects(requests)
    assert hub.model(pushed_model).refs["main"] == before


def test_an_interrupted_push_is_not_seen_and_resumes(hub, run, no_waiting):
    model, report = run / "run" / "ark-cxr", run / "report"
    with hub.recording() as first, hub.failing("PUT /storage", 500, skip=1):
        with pytest.raises(ValueError, match="Cannot push .* to someone/resumed: the Hub has failed"):
            push_model(model, "someone/resumed", report)
    assert len(sent_objects(first)) == 1 and set(hub.model("someone/resumed").files) == {".gitattributes"}
    with hub.recording() as second:
        push_model(model, "someone/resumed", report)
    assert len(sent_objects(second)) == 2 and not set(sent_objects(first)) & set(sent_objects(second))


def test_what_an_earlier_push_made_goes_with_it_and_the_rest_stays(hub, run, pushed_model):
    push_model(run / "run" / "ark-cxr", "someone/again", run / "report")
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.md", repo_id="someone/again")
    assert push_model(run / "run" / "ark-cxr", "someone/again").removed == 5
    files = hub.model("someone/again").files
    assert set(files) - {".gitattributes"} == {*MODEL_FILES, "README.md", "NOTES.md"}
    assert "**How good it is on test images was not measured**" in files["README.md"].decode()


def test_what_is_said_of_other_weights_is_removed(hub, run, ark_cxr):
    (ark_cxr / "calibration.json").write_text("[]")
    push_model(ark_cxr, "someone/recalibrated")
    (ark_cxr / "calibration.json").unlink()
    (ark_cxr / "provenance.json").unlink()
    assert push_model(ark_cxr, "someone/recalibrated").removed == 2
    files = hub.model("someone/recalibrated").files
    assert not {"calibration.json", "provenance.json"} & set(files)
    assert "neither data nor settings are known" in files["README.md"].decode()


def test_weights_in_several_files_and_their_report(hub, run, sites, tmp_path):
    model, processor = load_ark(str(run / "run" / "ark-cxr"))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "parts", **({"max_shard_size": "50KB"} if part is model else {}))
    arguments = [str(tmp_path / "parts"), str(sites["phantom_city"]), "--bootstrap", "0"]
    assert main(["evaluate", *arguments, "--out", str(tmp_path / "report")]) == 0
    push_model(tmp_path / "parts", "someone/parts", tmp_path / "report")
    files = hub.model("someone/parts").files
    assert sum(name.endswith(".safetensors") for name in files) > 1 and "model.safetensors" not in files
    assert "## Results" in files["README.md"].decode()


def test_repositories_of_something_else_are_left_alone(hub, run):
    hub.create("models", "someone/notes", private=True)
    HfApi().upload_file(path_or_fileobj=b"mine", path_in_repo="notes.txt", repo_id="someone/notes")
    with pytest.raises(ValueError, match="it holds something else; choose another name"):
        push_model(run / "run" / "ark-cxr", "someone/notes")
    hub.create("models", "someone/public")
    with pytest.raises(ValueError, match="it is public; .* add --public"):
        push_model(run / "run" / "ark-cxr", "someone/public")


def test_a_branch_and_its_revision(hub, run, pushed_model):
    before = hub.model(pushed_model).refs["main"]
    pushed = push_model(run / "run" / "student", pushed_model, revision="student")
    assert pushed.url.endswith("/someone/ark-cxr/tree/student") and hub.model(pushed_model).refs["main"] == before
    loaded = AutoModel.from_pretrained(pushed_model, revision="student")
    own = AutoModel.from_pretrained(run / "run" / "student")
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in loaded.state_dict().items())


def test_a_pull_request_to_somebody_else(hub, run, monkeypatch):
    push_model(run / "run" / "ark-cxr", "someone/open", public=True)
    before = hub.model("someone/open").refs["main"]
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(ValueError, match="this account may not do that"):
        push_model(run / "run" / "student", "someone/open", public=True)
    with pytest.raises(ValueError, match="it is public; .* add --public"):
        push_model(run / "run" / "student", "someone/open", pull_request=True)
    pushed = push_model(run / "run" / "student", "someone/open", public=True, pull_request=True)
    assert pushed.url.endswith("someone/open/discussions/1") and hub.model("someone/open").refs["main"] == before
    loaded = AutoModel.from_pretrained("someone/open", revision="refs/pr/1")
    own = AutoModel.from_pretrained(run / "run" / "student")
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in loaded.state_dict().items())


# Loading -------------------------------------------------------------------------------------------------------------

WITHOUT_US = """
import json, sys
import importlib.abc

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ark_hf":
            raise ImportError("ark_hf is not installed here")

sys.meta_path.insert(0, Block())
import numpy as np
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

repo, trust = sys.argv[1], {"trust_remote_code": True}
pixels = np.load(sys.argv[2])
model = AutoModelForImageClassification.from_pretrained(repo, **trust)
inputs = AutoImageProcessor.from_pretrained(repo, **trust)(pixels, return_tensors="pt")
classify = pipeline("image-classification", model=repo, **trust)
features = pipeline("image-feature-extraction", model=repo, pool=True, return_tensors=True, **trust)
print(json.dumps({
    "class": type(model).__name__,
    "logits": model(**inputs).logits[0].tolist(),
    "encoder": type(AutoModel.from_pretrained(repo, **trust)).__name__,
    "scores": {each["label"]: each["score"] for each in classify(pixels, top_k=99)},
    "pooled": features(Image.fromarray(pixels[0]))[0].tolist(),
}))
"""


def load_without_us(repo, work, offline=False):
    """Loads it in a new process that cannot import our package, from the Hub or its cache in `work`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {
        "HF_ENDPOINT": os.environ["HF_ENDPOINT"], "HF_HOME": str(work / "cache"), "HF_TOKEN": OWNER,
        "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1" if offline else "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", WITHOUT_US, repo, str(work / "image.npy")]
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow_ci
def test_it_loads_by_its_id_with_and_without_our_package_and_from_the_cache_without_network(
    hub, run, sites, pushed_model, tmp_path
):
    picture = ark_hf.load_task_dataset(sites["phantom_city"], "test")[0]["image"]
    pixels = np.asarray(picture)[None]
    np.save(tmp_path / "image.npy", pixels)
    model = AutoModelForImageClassification.from_pretrained(pushed_model)
    assert isinstance(model, ark_hf.ArkForImageClassification)
    inputs = AutoImageProcessor.from_pretrained(pushed_model)(pixels, return_tensors="pt")
    with torch.no_grad():
        ours, pooled = model(**inputs).logits[0], model.ark(**inputs).pooler_output
    scores = {
        each["label"]: each["score"] for each in pipeline("image-classification", model=pushed_model)(pixels, top_k=99)
    }

    with hub.recording() as first:
        fresh = load_without_us(pushed_model, tmp_path)
    assert any(request.path.endswith("modeling_ark.py") for request in first)
    with hub.recording() as second:
        again = load_without_us(pushed_model, tmp_path, offline=True)
    assert not second and fresh == again
    assert fresh["class"] == "ArkForImageClassification" and fresh["encoder"] == "ArkModel"
    torch.testing.assert_close(torch.tensor(fresh["logits"]), ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(fresh["pooled"]).reshape(1, -1), pooled, rtol=0, atol=1e-5)
    assert fresh["scores"] == pytest.approx(scores, abs=1e-6)


def test_a_gated_model_says_how_to_get_in(hub, run, monkeypatch):
    push_model(run / "run" / "ark-cxr", "someone/gated", public=True)
    hub.model("someone/gated").gated = "manual"
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(
        ValueError,
        match="'someone/gated': it is no folder here, and on the Hub access is given on request: ask for it on its",
    ) as caught:
        load_ark("someone/gated")
    assert "\n" not in str(caught.value)
    hub.model("someone/gated").readers.add("stranger")
    assert load_ark("someone/gated")[0].config.tasks[0].name == "phantom_city"


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (
            STRANGER,
            "someone/ark-cxr",
            "it is no folder here, and on the Hub there is no such repository that this account may see",
        ),
        (
            OWNER,
            "someone/nothing",
            "it is no folder here, and on the Hub there is no such repository that this account may see",
        ),
    ],
)
def test_what_is_not_there_or_not_ours_is_said_in_one_line(hub, pushed_model, monkeypatch, token, repo, message):
    monkeypatch.setenv("HF_TOKEN", token)
    shutil.rmtree(os.path.join(os.environ["HF_HOME"], "hub"), ignore_errors=True)
    with pytest.raises(ValueError) as caught:
        load_ark(repo)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# What Trainer and `push_to_hub` of transformers send -----------------------------------------------------------------


def test_push_to_hub_of_trainer_sends_a_model_that_loads(hub, run, tmp_path):
    model, processor = load_ark(str(run / "run" / "ark-cxr"))
    args = TrainingArguments(tmp_path / "trainer", hub_model_id="someone/trained", hub_private_repo=True,
                             push_to_hub=True, report_to="none", use_cpu=True)  # fmt: skip
    trainer = Trainer(model, args, processing_class=processor)
    trainer.push_to_hub()
    assert {"config.json", "preprocessor_config.json", "model.safetensors", *CODE_FILES} <= set(
        hub.model("someone/trained").files
    )
    loaded, _ = load_ark("someone/trained")
    assert all(torch.equal(value.cpu(), loaded.state_dict()[key]) for key, value in model.cpu().state_dict().items())


# The card ------------------------------------------------------------------------------------------------------------


def test_the_card_is_valid_and_its_numbers_are_the_run_s(hub, run, pushed_model):
    files = hub.model(pushed_model).files
    card, report = ModelCard(files["README.md"].decode()), json.loads((run / "report" / "report.json").read_text())
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-classification"
    assert card.data.license == "other" and card.data.model_name == "ark-cxr"
    index = eval_results_to_model_index("ark-cxr", card.data.eval_results)
    assert model_index_to_eval_results(index) == ("ark-cxr", card.data.eval_results)
    stated = {(each.task_name, each.metric_name): each.metric_value for each in card.data.eval_results}
    for task in report["tasks"]:
        assert stated[task["task"], "mean AUROC"] == round(task["mean"]["auroc"], 4)
        for label in task["labels"]:
            if label["auroc"] is not None:
                assert stated[task["task"], f"AUROC, {label['label']}"] == round(label["auroc"], 4)
                assert f"| {label['label']} | {label['num_positive']}/{label['num_known']} " in card.text
        assert f"figures/auroc-{report['tasks'].index(task) + 1}-{task['task']}.png" in card.text
    assert "Trained on drawn phantoms alone".lower() in card.text.lower()
    assert f'model="{pushed_model}"' in card.text and "backbone: convnext_atto" in card.text
    assert "| `phantom_city` |" in card.text and f"drawn phantoms | {COUNTS['train']} |" in card.text


def test_results_on_datasets_of_the_hub_go_to_their_leaderboards(hub, run, sites, tmp_path):
    push_dataset(sites["phantom_city"], "someone/phantom_city")
    model = run / "run" / "ark-cxr"
    report = str(tmp_path / "report")
    assert main(["evaluate", str(model), "someone/phantom_city", "--bootstrap", "20", "--out", report]) == 0
    assert main(["push", str(model), "someone/leading", "--report", report, "--license", "cc-by-nc-4.0"]) == 0
    files = hub.model("someone/leading").files
    entry = parse_eval_result_entries(yaml.safe_load(files[".eval_results/ark-hf.yaml"]))[0]
    auroc = json.loads((tmp_path / "report" / "report.json").read_text())["tasks"][0]["mean"]["auroc"]
    assert (entry.dataset_id, entry.task_id, entry.value) == ("someone/phantom_city", "phantom_city", round(auroc, 4))
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "cc-by-nc-4.0" and "The weights are under cc-by-nc-4.0." in card.text


def test_a_calibrated_model_of_the_hub_and_one_trained_on_keep_what_is_known(hub, run, sites, pushed_model, tmp_path):
    city = str(sites["phantom_city"])
    options = ["--bootstrap", "0", "--calibrate", str(tmp_path / "calibrated")]
    assert main(["evaluate", pushed_model, city, *options]) == 0
    calibrated, trained = (read_provenance(folder) for folder in (tmp_path / "calibrated", run / "run" / "ark-cxr"))
    assert calibrated == trained and (tmp_path / "calibrated" / "README.md").is_file()
    recipe = {"output_dir": str(tmp_path / "grown"), "init": pushed_model, "cycles": 1, "batch_size": 8}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "tasks": [{"dataset": city}]}))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) == 0
    grown = read_provenance(tmp_path / "grown" / "ark-cxr")
    assert grown["start"] == pushed_model and grown["start_provenance"] == trained
    assert grown["compute"]["seconds"] > 0 and grown["cycle"] == 1
    card = model_card(tmp_path / "grown" / "ark-cxr", "someone/grown")
    assert card.data.base_model == pushed_model and "<summary>Before that" in card.text


# The command line ----------------------------------------------------------------------------------------------------


def test_push_from_the_command_line(hub, run, tmp_path, capsys):
    model, report = str(run / "run" / "ark-cxr"), str(run / "report")
    with hub.recording() as requests:
        arguments = ["push", model, "someone/listed", "--report", report]
        assert main([*arguments, "--dry_run"]) == 0
        assert main([*arguments, "--card", str(tmp_path / "card")]) == 0
    assert not requests
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*MODEL_FILES, "README.md", "report/report.html"))
    assert "bytes in all would go to the private repository someone/listed." in printed
    card = (tmp_path / "card" / "README.md").read_text()
    assert "someone/listed" in card and (tmp_path / "card" / "figures" / "auroc-1-phantom_city.png").is_file()
    assert main(["push", model, "someone/listed", "--report", report]) == 0
    assert hub.model("someone/listed").files["README.md"].decode() == card
    assert "/someone/listed: 19 files sent, 0 were there, 0 removed there." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow_patient_data"], "--allow_patient_data is for datasets"),
        (["--revision", "x", "--pull_request"], "leave out --revision"),
        (["--report", "nowhere"], "nowhere does not exist; `ark-hf evaluate"),
    ],
)
def test_wrong_options(run, capsys, options, message):
    assert main(["push", str(run / "run" / "ark-cxr"), "someone/x", *options]) == 2
    assert message in capsys.readouterr().err


def test_wrong_folders(run, sites, capsys):
    report = str(run / "report" / "report.json")
    assert main(["push", str(run / "run" / "ark-cxr"), "someone/x", "--report", report, "--dry_run"]) == 2
    assert "report.json is a file; name the folder" in capsys.readouterr().err
    assert main(["push", str(run / "run" / "ark-cxr"), "some one/ark cxr", "--dry_run"]) == 2
    assert "some one/ark cxr" in capsys.readouterr().err
    assert main(["push", str(run / "run"), "someone/x"]) == 2
    assert f"Did you mean {run / 'run' / 'ark-cxr'}?" in capsys.readouterr().err
    assert main(["push", str(sites["phantom_city"]), "someone/x", "--report", "x"]) == 2
    assert "--report is for models" in capsys.readouterr().err


@pytest.mark.slow_ci
def test_a_segmenter_goes_with_its_card_and_report(hub, tmp_path):
    save_segmenter(tmp_path / "organs", ORGANS)
    write_report_of(tmp_path / "organs", tmp_path / "report", ORGANS)
    push_model(tmp_path / "organs", "someone/organs", tmp_path / "report")
    there = {name for name in HfApi().list_repo_files("someone/organs") if name not in MODEL_FILES}
    reported = {f"report/report.{ending}" for ending in ("json", "md", "html")}
    assert there == {".gitattributes", "README.md", "figures/dice-1-organs.png", *reported}
    assert ModelCard.load("someone/organs").data.pipeline_tag == "image-segmentation"
    pipe = pipeline("chest-xray-segmentation", model="someone/organs")
    assert list(pipe(np.zeros((40, 50), np.uint8))["masks"]) == ORGANS.labels
