"""Task datasets on a Hub: loading them back in every way, what cannot be had, building, training and evaluation."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, Value
from datasets import Image as Picture
from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import get_session
from PIL import Image

from ark_hf.cli.main import main
from ark_hf.data.build.build import build_dataset
from ark_hf.data.rows import Problem
from ark_hf.data.sources.releases import read_release
from ark_hf.data.task_dataset import load_task_dataset, read_task, split_names
from ark_hf.hub.push_dataset import check_dataset_folder, push_dataset
from tests.conftest import COUNTS
from tests.data.sources.tiny_releases import RELEASES
from tests.hub.conftest import SHARD, assert_same_rows, rewrite
from tests.training.conftest import TINY

pytestmark = pytest.mark.usefixtures("no_figures")

# The stand-in --------------------------------------------------------------------------------------------------------


def test_the_hub_checks_what_it_is_sent(hub):
    repository = hub.create("datasets", "someone/checked")
    api, session, place = HfApi(), get_session(), f"{hub.storage}/storage/datasets/someone%2Fchecked/"
    assert session.put(place + "0" * 64, content=b"other").status_code == 400
    assert not repository.large_files
    commit = f"{hub.endpoint}/api/datasets/someone/checked/commit/main"
    headers = {"Authorization": f"Bearer {api.token or os.environ['HF_TOKEN']}"}

    def send(*lines, **header):
        content = "\n".join(
            json.dumps(line) for line in [{"key": "header", "value": {"summary": "x", **header}}, *lines]
        )
        return session.post(commit, content=content, headers=headers).status_code

    assert send({"key": "lfsFile", "value": {"path": "a.bin", "oid": "0" * 64, "size": 5}}) == 400
    assert send({"key": "deletedFile", "value": {"path": "a.bin"}}) == 404
    assert send({"key": "file", "value": {"path": "../a", "content": ""}}) == 400
    assert send({"key": "file", "value": {"path": "a", "content": ""}}, parentCommit="0" * 40) == 412
    assert session.post(commit, content="{}").status_code == 401
    assert len(repository.commits) == 1
    assert send({"key": "file", "value": {"path": "a", "content": "YWJjZGVm"}}) == 200
    read = f"{hub.endpoint}/datasets/someone/checked/resolve/main/a"
    answer = session.get(read, headers={"Range": "bytes=2-3"})
    assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, b"cd", "bytes 2-3/6")
    assert session.get(read, headers={"Range": "bytes=6-"}).status_code == 416


def test_nothing_but_the_hub_of_the_tests_can_be_reached(hub):
    assert HfApi().endpoint == hub.endpoint == os.environ["HF_ENDPOINT"]
    with pytest.raises(HTTPError, match="tests may not reach huggingface.co"):
        get_session().get("https://huggingface.co")


# Loading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize("split", list(COUNTS))
def test_rows_come_back_as_they_were(sites, pushed, split, streaming):
    local = load_task_dataset(sites["phantom_city"], split)
    remote = load_task_dataset(pushed, split, streaming=streaming)
    assert remote.features == local.features
    assert_same_rows(remote, local)


def test_the_card_tells_task_splits_and_lengths_without_any_data(hub, sites, pushed):
    with hub.recording() as requests:
        assert read_task(pushed) == read_task(sites["phantom_city"])
        assert split_names(pushed) == list(COUNTS)
        streamed = load_task_dataset(pushed, "train", streaming=True)
        assert {name: split.num_examples for name, split in streamed.info.splits.items()} == COUNTS
        shards = (sites["phantom_city"] / "data").iterdir()
        assert streamed.info.download_size == sum(path.stat().st_size for path in shards)
    assert not any("/storage/" in request.path for request in requests)


def test_a_revision_is_what_it_was(hub, city, request):
    name = "someone/revised"
    push_dataset(city, name)
    HfApi().create_tag(name, tag="v1", repo_type="dataset")
    old = load_task_dataset(city, "train")
    rewrite(city, lambda table: table.take(list(reversed(range(COUNTS["train"])))))
    push_dataset(city, name)
    new = load_task_dataset(city, "train")
    assert old["image_id"][:] == list(reversed(new["image_id"][:]))
    first = hub.dataset(name).tags["v1"]
    for revision in (f"{name}@v1", f"{name}@{first}"):
        assert read_task(revision).name == "phantom_city" and split_names(revision) == list(COUNTS)
        assert_same_rows(load_task_dataset(revision, "train"), old)
        assert_same_rows(load_task_dataset(revision, "train", streaming=True), old)
    assert_same_rows(load_task_dataset(name, "train"), new)
    for call in (read_task, split_names, lambda where: load_task_dataset(where, "train")):
        with pytest.raises(ValueError, match="someone/revised@v9") as caught:
            call(f"{name}@v9")
        assert "revision" in str(caught.value).lower()

    request.getfixturevalue("offline")
    for revision in (f"{name}@v1", f"{name}@{first}"):
        assert_same_rows(load_task_dataset(revision, "train"), old)
    assert_same_rows(load_task_dataset(name, "train"), new)


LOADERS = {
    "card": read_task,
    "splits": split_names,
    "loaded": lambda where: load_task_dataset(where, "train"),
    "streamed": lambda where: load_task_dataset(where, "train", streaming=True),
}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_what_cannot_be_had_is_said_in_one_line(hub, stranger, no_waiting, load):
    hub.create("datasets", "someone/secret", private=True)
    hub.create("datasets", "someone/gated", gated="manual")
    hub.create("datasets", "someone/empty")

    def reason(where):
        with pytest.raises(ValueError, match=where) as caught:
            load(where)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for name in ("someone/secret", "someone/absent"):
        assert "log in with `hf auth login`, or set HF_TOKEN" in reason(name)
    assert "access" in reason("someone/gated")
    reason("someone/empty")
    for status, said in [(500, "cannot be reached"), (429, "cannot be reached"), (0, "cannot be reached")]:
        with hub.failing(".", status):
            message = reason("someone/empty")
        assert said in message or "has failed" in message or "takes no more requests" in message


def test_a_token_that_is_wrong_is_said(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="the Hub does not know who you are"):
        read_task("someone/nowhere")


def test_a_short_outage_does_not_matter(hub, sites, no_waiting):
    name = "someone/shaky"
    push_dataset(sites["phantom_coast"], name)
    with hub.failing("GET /storage", 500, times=2), hub.failing("HEAD .*README", 500, times=1):
        streamed = list(load_task_dataset(name, "train", streaming=True))
    with hub.failing("GET /storage", 0, times=1, after=1000) as dropped:  # in the middle of a file
        loaded = load_task_dataset(name, "train")
    assert dropped.times == 0
    local = load_task_dataset(sites["phantom_coast"], "train")
    assert_same_rows(loaded, local)
    assert_same_rows(streamed, local)


def test_a_repository_that_lost_rows_is_refused(hub, city):
    name = "someone/lossy"
    push_dataset(city, name)
    rewrite(city, lambda table: table.slice(0, 7))
    operation = CommitOperationAdd(SHARD, city / SHARD)
    HfApi().create_commit(name, [operation], commit_message="x", repo_type="dataset")
    with pytest.raises(ValueError, match="Cannot load split 'train' of 'someone/lossy'"):
        load_task_dataset(name, "train")


def test_what_was_loaded_once_needs_no_network(hub, sites, pushed, request):
    local = load_task_dataset(sites["phantom_city"], "test")
    assert_same_rows(load_task_dataset(pushed, "test"), local)
    push_dataset(sites["phantom_hill"], "someone/never_loaded")
    request.getfixturevalue("offline")
    with hub.recording() as requests:
        assert read_task(pushed).name == "phantom_city" and split_names(pushed) == list(COUNTS)
        assert_same_rows(load_task_dataset(pushed, "test"), local)
        assert_same_rows(load_task_dataset(pushed, "test", streaming=True), local)
        for load in LOADERS.values():
            with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set, and it is not in the cache"):
                load("someone/never_loaded")
    assert not requests


# From end to end -----------------------------------------------------------------------------------------------------


@pytest.fixture
def release(tmp_path):
    """A folder of images with labels.csv, one image missing and one damaged."""
    folder = tmp_path / "release"
    folder.mkdir()
    splits = ["train", "train", "train", "val", "test", "test"]
    lines = [f"{number}.png,{split},{number % 2},patient {number}" for number, split in enumerate(splits)]
    (folder / "labels.csv").write_text(
        "\n".join(["image,split,sick,patient_id", *lines, "missing.png,test,1,p"]) + "\n"
    )
    for number in range(len(splits)):
        Image.fromarray(np.random.RandomState(number).randint(0, 255, (40, 40), np.uint8)).save(
            folder / f"{number}.png"
        )
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:200])
    return folder


def test_build_and_push_in_one_command(hub, release, tmp_path, capsys):
    out = str(tmp_path / "out")
    build = ["data", "build", "generic", "--raw", str(release), "--out", out, "--name", "tb", "--labels", "sick"]
    build += ["--skip_bad", "--push", "someone/tb"]
    with hub.recording() as requests:
        assert main(build) == 2
    assert "The images of tb are not under a licence" in capsys.readouterr().err
    assert not requests and not (tmp_path / "out").exists()

    assert main([*build, "--allow_patient_data"]) == 0
    assert f"Sent to {hub.endpoint}/datasets/someone/tb." in capsys.readouterr().out
    repository = hub.dataset("someone/tb")
    assert repository.private
    report = json.loads(repository.files["build_report.json"])
    assert [problem["where"] for problem in report["problems"]] == ["labels.csv, line 8", "labels.csv, line 4"]
    for name in ("README.md", "build_report.json"):
        assert str(tmp_path) not in repository.files[name].decode()
    assert load_task_dataset("someone/tb", "train")["labels"][:] == [[0.0], [1.0]]
    assert load_task_dataset("someone/tb", "test")["patient_id"][:] == ["patient 4", "patient 5"]


def draw(path):
    """A picture that its name decides."""
    plane = np.random.default_rng(list(path.name.encode())).integers(0, 255, (40, 36), np.uint8)
    Image.fromarray(plane).save(path)


def test_an_official_release_becomes_a_hub_dataset(hub, tmp_path, capsys):
    raw = RELEASES["chestxray14"].write(tmp_path / "raw", draw)
    build = ["data", "build", "chestxray14", "--raw", str(raw), "--out", str(tmp_path / "nih14")]
    assert main([*build, "--push", "someone/nih14", "--allow_patient_data"]) == 0
    task = read_task("someone/nih14")
    assert task.name == "chestxray14" and len(task.labels) == 14
    for split in COUNTS:
        local = load_task_dataset(tmp_path / "nih14", split)
        assert_same_rows(load_task_dataset("someone/nih14", split), local)
        assert_same_rows(load_task_dataset("someone/nih14", split, streaming=True), local)
    card = hub.dataset("someone/nih14").files["README.md"].decode()
    for said in ("license: other", "@inproceedings{wang2017chestxray8", "- Not what the release has: "):
        assert said in card, said


def read_drawn(row) -> np.ndarray:
    return np.random.default_rng(list(str(row.path).encode())).integers(0, 255, (1, 40, 36), np.uint8)


@pytest.mark.parametrize("name", RELEASES)
def test_every_known_dataset_can_be_pushed(name, tmp_path):
    tiny, out = RELEASES[name], tmp_path / "out"
    release = read_release(name, tiny.write(tmp_path / "raw"), options=tiny.options)
    release.problems.append(Problem("list, line 1", "image 'x.png' is missing"))
    built = replace(release, read_image=read_drawn)
    build_dataset(built, out, size=40, num_workers=1, skip_bad=True, allow_patient_overlap=True)
    assert check_dataset_folder(out, allow_patient_data=True)
    title = release.facts["title"]
    assert DatasetCard.load(out / "README.md").data.pretty_name == title


def test_somebody_elses_dataset_is_read_and_built_from_the_hub(hub, tmp_path, capsys):
    planes = np.random.default_rng(0).integers(0, 255, (8, 40, 36), np.uint8)
    people = [f"p{number // 2}" for number in range(8)]
    features = Features({"img": Picture(), "TB": Value("int64"), "person": Value("string")})
    rows = {"img": list(map(Image.fromarray, planes)), "TB": [0, 1] * 4, "person": people}
    Dataset.from_dict(rows, features).push_to_hub("someone/foreign", private=True)
    loaded = load_task_dataset("someone/foreign", "train", columns={"image": "img", "labels": ["TB"]})
    assert [row["labels"] for row in loaded] == [[0.0], [1.0]] * 4
    out = str(tmp_path / "tb")
    build = ["data", "build", "hub", "--raw", "someone/foreign", "--out", out, "--labels", "TB", "--name", "tb"]
    assert main([*build, "--image_column", "img", "--patient_column", "person"]) == 0
    splits = [load_task_dataset(out, split) for split in split_names(out)]
    assert sum(map(len, splits)) == 8 and {tuple(row["labels"]) for rows in splits for row in rows} == {(0.0,), (1.0,)}


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_training_and_evaluation_from_the_hub(hub, pushed, tmp_path, streaming):
    recipe = {**TINY, "cycles": 1, "output_dir": str(tmp_path / "run"), "tasks": [{"dataset": pushed}]}
    recipe["streaming"] = streaming
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["pretrain", str(tmp_path / "recipe.yaml")]) == 0
    model = str(tmp_path / "run" / "ark-cxr")
    assert main(["evaluate", model, pushed, "--out", str(tmp_path / "out"), "--bootstrap", "20"]) == 0
    (report,) = json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]
    assert report["task"] == "phantom_city" and report["num_images"] == COUNTS["test"]
