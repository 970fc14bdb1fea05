"""Pushing task datasets: what may go to the Hub, what is sent, and what is said when something is wrong."""

import json
import shutil
from dataclasses import replace

import pyarrow as pa
import pytest
import yaml
from datasets import Image, List
from huggingface_hub import CommitOperationAdd, HfApi
from PIL import Image as PillowImage

from ark_hf.cli.main import main
from ark_hf.data import image_statistics
from ark_hf.data.build.build import build_dataset
from ark_hf.data.image_statistics import dataset_statistics
from ark_hf.data.open_dataset import open_dataset, open_images
from ark_hf.data.rows import Release
from ark_hf.data.task_dataset import load_task_dataset, read_task, split_names
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.hub.push_dataset import check_dataset_folder, push_dataset
from tests.conftest import COUNTS
from tests.data.build.generated import Noise, noise_rows
from tests.hub.conftest import SHARD, rewrite, sent_objects
from tests.hub_stand_in import OWNER, STRANGER

# What may be pushed --------------------------------------------------------------------------------------------------


def test_all_files_of_a_phantom_site_may_go(sites):
    files = check_dataset_folder(sites["phantom_city"])
    shards = [f"data/{split}-00000-of-00001.parquet" for split in sorted(COUNTS)]
    beside = ["README.md", "build_report.json", "image_hashes.parquet", "image_statistics.parquet"]
    assert sorted(files) == sorted([*beside, *shards])


def test_patients_are_refused_unless_allowed(patients):
    with pytest.raises(ValueError, match="add --allow_patient_data") as caught:
        check_dataset_folder(patients)
    assert "city (with patient_id, sex, age) are not under a licence" in str(caught.value)
    assert "(it is 'other')" in str(caught.value)
    assert check_dataset_folder(patients, allow_patient_data=True)


@pytest.mark.parametrize("licence", ["cc-by-4.0", "cc-by-nc-sa-4.0", "cc0-1.0"])
def test_what_anybody_may_pass_on_needs_no_word(patients, licence):
    card = patients / "README.md"
    card.write_text(card.read_text().replace("license: other", f"license: {licence}"))
    assert check_dataset_folder(patients)
    card.write_text(card.read_text().replace(f"license: {licence}", "license: cc-by-nc-nd-4.0"))
    with pytest.raises(ValueError, match="add --allow_patient_data"):
        check_dataset_folder(patients)


def spoil_with_pictures(folder):
    PillowImage.new("L", (8, 8)).save(folder / "scan.png")
    (folder / "data" / "raw").mkdir()
    PillowImage.new("L", (8, 8)).save(folder / "data" / "raw" / "scan.png")


def spoil_with_a_path_in_the_report(folder):
    report = json.loads((folder / "build_report.json").read_text())
    report["problems"] = [{"where": "labels.csv, line 3", "reason": "/home/me/scans/1.png is damaged"}]
    (folder / "build_report.json").write_text(json.dumps(report))


def spoil_with_a_column(folder):
    rewrite(folder, lambda table: table.append_column("name", table.column("patient_id")))


def spoil_with_ids(pattern):
    def spoil(folder):
        ids = pa.array([pattern.format(row) for row in range(COUNTS["train"])])
        rewrite(folder, lambda table: table.set_column(table.column_names.index("image_id"), "image_id", ids))

    return spoil


def spoil_with_a_missing_shard(folder):
    (folder / SHARD).unlink()


def spoil_by_cutting_a_shard(folder):
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-100])


def spoil_with_a_model(folder):
    (folder / "config.json").write_text('{"model_type": "ark"}')


def spoil_by_removing_the_data(folder):
    shutil.rmtree(folder / "data")


def spoil_the_card(folder):
    (folder / "README.md").write_text("# Chests")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_with_pictures, r"no part of a task dataset: data/raw/scan.png, scan.png. Move them elsewhere"),
        (spoil_with_a_path_in_the_report, r"build_report.json names a path of this machine, '/home/me/scans/1.png'"),
        (spoil_with_a_column, r"has the columns \['name'\]; a task dataset has no others than"),
        *(
            (spoil_with_ids(pattern), r"train-00000-of-00001.parquet: images are named by paths of this machine, or")
            for pattern in ("/home/me/scans/{}.png", "../me/{}.png", "a/../../{}.png", r"..\me\{}.png", r"C:\{}.png")
        ),
        (spoil_with_a_missing_shard, r"split 'train' should have 20 images as README.md says, but its files hold 0"),
        (spoil_by_cutting_a_shard, r"train-00000-of-00001.parquet: "),
        (spoil_with_a_model, "no part of a task dataset: config.json. Move them elsewhere"),
        (spoil_by_removing_the_data, r"has no data/\*.parquet"),
        (spoil_the_card, "has no `ark_task` entry"),
        (shutil.rmtree, "is not a folder"),
    ],
)
def test_folders_that_are_no_clean_task_dataset_are_refused(hub, city, spoil, message):
    spoil(city)
    with hub.recording() as requests, pytest.raises(ValueError, match=message) as caught:
        push_dataset(city, "someone/spoiled", allow_patient_data=True)
    assert not requests and "\n" not in str(caught.value)


# Pushing -------------------------------------------------------------------------------------------------------------


def test_a_push_is_private_and_whole(hub, sites, pushed):
    folder, repository = sites["phantom_city"], hub.dataset(pushed)
    assert repository.private and len(repository.commits) == 2
    files = {name: path.read_bytes() for name, path in check_dataset_folder(folder).items()}
    assert f'load_task_dataset("{pushed}", "train")' in repository.files["README.md"].decode()
    files["README.md"] = files["README.md"].replace(b"path/to/this/dataset", pushed.encode())
    assert {name: content for name, content in repository.files.items() if name != ".gitattributes"} == files


def test_images_without_labels_go_and_come_back(hub, tmp_path):
    rows, facts = noise_rows(train=4, test=2), {"license": "cc-by-4.0"}
    for name in ("chests", "others"):
        release = Release(Unlabelled(name), [replace(row, labels=[]) for row in rows], facts=facts, read_image=Noise())
        build_dataset(release, tmp_path / name, num_workers=1)
    push_dataset(tmp_path / "chests", "someone/chests")
    assert push_dataset(tmp_path / "chests", "someone/chests").unchanged == 4
    with pytest.raises(ValueError, match="it holds something else; choose another name"):
        push_dataset(tmp_path / "others", "someone/chests")
    data = open_images("someone/chests")
    assert data.task == Unlabelled("chests") and data.columns("test") == ["image", "image_id", "patient_id", "age"]
    assert 'open_images("someone/chests")' in hub.dataset("someone/chests").files["README.md"].decode()


def stored(data, column):
    """The cells of a column of files as they are stored."""
    rows = data.splits["train"]
    features = rows.features.copy()
    kind = features[column]
    features[column] = List(Image(decode=False)) if isinstance(kind, List) else type(kind)(decode=False)
    return [row[column] for row in rows.cast(features)]


def test_masks_and_label_maps_go_and_come_back(hub, phantom_masks, phantom_volumes):
    for column, folder in {
        "masks": phantom_masks["phantom_findings"],
        "mask": phantom_volumes["phantom_ct_structures"],
        "volume": phantom_volumes["phantom_ct_nodule"],
    }.items():
        push_dataset(folder, f"someone/{column}")
        here, there = open_dataset(folder), open_dataset(f"someone/{column}")
        assert here.task == there.task and stored(here, column) == stored(there, column)


@pytest.mark.parametrize("column", ["masks", "mask"])
def test_masks_are_not_named_by_paths_of_this_machine(column, phantom_masks, phantom_volumes, tmp_path):
    folder = {"masks": phantom_masks["phantom_organs"], "mask": phantom_volumes["phantom_ct_structures"]}[column]
    shutil.copytree(folder, tmp_path / "named")

    def name_one(table):
        cells = table[column].to_pylist()
        for cell in cells[-1] if column == "masks" else [cells[-1]]:
            cell["path"] = "/home/me/jane.png"
        return table.set_column(
            table.column_names.index(column), column, pa.array(cells, type=table.schema.field(column).type)
        )

    rewrite(tmp_path / "named", name_one)
    with pytest.raises(ValueError, match="images are named by paths of this machine"):
        check_dataset_folder(tmp_path / "named")


def test_a_second_push_sends_and_changes_nothing(hub, sites, pushed):
    before = hub.dataset(pushed).refs["main"]
    with hub.recording() as requests:
        assert push_dataset(sites["phantom_city"], pushed).url == f"{hub.endpoint}/datasets/{pushed}"
    assert not sent_objects(requests) and hub.dataset(pushed).refs["main"] == before


@pytest.mark.parametrize("status", [0, 500, 403])
def test_an_interrupted_push_is_not_seen_and_resumes(hub, sites, no_waiting, status):
    name, folder = f"someone/resumed_{status}", sites["phantom_lake"]
    with hub.recording() as first, hub.failing("PUT /storage", status, skip=2):
        with pytest.raises(ValueError, match=f"Cannot push .* to {name}: "):
            push_dataset(folder, name)
    assert len(sent_objects(first)) == 2 and set(hub.dataset(name).files) == {".gitattributes"}
    with hub.recording() as second:
        push_dataset(folder, name)
    assert len(sent_objects(second)) == 3 and not set(sent_objects(first)) & set(sent_objects(second))
    assert len(hub.dataset(name).files) == 8


def test_statistics_are_read_from_the_hub_and_never_outlive_their_pictures(hub, city, monkeypatch):
    push_dataset(city, "someone/measured")
    with monkeypatch.context() as blind:
        blind.setattr(image_statistics, "image_statistics", None)
        found = dataset_statistics(open_dataset("someone/measured"), "train")
    assert found.tolist() == dataset_statistics(open_dataset(city), "train").tolist()
    for name in ("image_statistics.parquet", "image_hashes.parquet"):  # of a dataset that an earlier version built
        (city / name).unlink()
    assert push_dataset(city, "someone/measured").removed == 2
    assert {"image_statistics.parquet", "image_hashes.parquet"}.isdisjoint(hub.dataset("someone/measured").files)
    again = open_dataset("someone/measured")
    assert dataset_statistics(again, "train").tolist() == found.tolist()


def test_files_that_are_gone_are_removed_and_only_new_ones_sent(hub, city):
    push_dataset(city, "someone/shrinking")
    card = city / "README.md"
    values = yaml.safe_load(card.read_text().split("---\n")[1])
    values["configs"][0]["data_files"] = [
        files for files in values["configs"][0]["data_files"] if files["split"] != "test"
    ]
    values["dataset_info"]["splits"] = [split for split in values["dataset_info"]["splits"] if split["name"] != "test"]
    card.write_text(f"---\n{yaml.safe_dump(values)}---\n# Smaller\n")
    (city / "data/test-00000-of-00001.parquet").unlink()
    with hub.recording() as requests:
        pushed = push_dataset(city, "someone/shrinking")
    assert (pushed.unchanged, pushed.removed) == (4, 1)
    assert not sent_objects(requests)
    assert "data/test-00000-of-00001.parquet" not in hub.dataset("someone/shrinking").files
    assert split_names("someone/shrinking") == ["train", "validation"]


def test_a_public_push_of_patients_is_gated(hub, patients, monkeypatch):
    push_dataset(patients, "someone/patients", public=True, allow_patient_data=True)
    repository = hub.dataset("someone/patients")
    assert not repository.private and repository.gated == "manual"
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(ValueError, match="access is given on request"):
        read_task("someone/patients")
    repository.readers.add("stranger")
    assert read_task("someone/patients").name == "phantom_city"
    # Whoever opens the gate later is not overruled
    monkeypatch.setenv("HF_TOKEN", OWNER)
    repository.gated = False
    push_dataset(patients, "someone/patients", public=True, allow_patient_data=True)
    assert not repository.gated


def test_the_gate_closes_when_open_data_become_patients(hub, sites, patients):
    push_dataset(sites["phantom_city"], "someone/changing", public=True)
    repository = hub.dataset("someone/changing")
    assert not repository.gated
    push_dataset(patients, "someone/changing", public=True, allow_patient_data=True)
    assert repository.gated == "manual"


def test_a_public_push_of_phantoms_is_open(hub, sites, monkeypatch):
    push_dataset(sites["phantom_city"], "someone/open", public=True)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    assert len(load_task_dataset("someone/open", "train")) == COUNTS["train"]


def test_visibility_is_never_changed_silently(hub, sites):
    folder = sites["phantom_city"]
    for private in (True, False):
        hub.create("datasets", "someone/visible", private=private)
        message = "it is private; .* leave out --public" if private else "it is public; .* add --public"
        with pytest.raises(ValueError, match=message):
            push_dataset(folder, "someone/visible", public=private)
        assert set(hub.dataset("someone/visible").files) == {".gitattributes"}


def test_repositories_of_something_else_are_left_alone(hub, sites):
    push_dataset(sites["phantom_city"], "someone/taken")
    with pytest.raises(ValueError, match="it holds something else; choose another name"):
        push_dataset(sites["phantom_lake"], "someone/taken")
    hub.create("datasets", "someone/notes", private=True)
    HfApi().create_commit(
        "someone/notes", [CommitOperationAdd("notes.txt", b"mine")], commit_message="x", repo_type="dataset"
    )
    with pytest.raises(ValueError, match="it holds something else; choose another name"):
        push_dataset(sites["phantom_lake"], "someone/notes")
    assert hub.dataset("someone/notes").files["notes.txt"] == b"mine"


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(hub, sites, monkeypatch):
    send = HfApi.preupload_lfs_files

    def send_late(*args, **kwargs):
        send(*args, **kwargs)
        repository = hub.dataset("someone/shared")
        repository.commit(repository.resolve("main").files, "somebody else's")

    monkeypatch.setattr(HfApi, "preupload_lfs_files", send_late)
    with pytest.raises(ValueError, match="it was changed by somebody else meanwhile: try again"):
        push_dataset(sites["phantom_lake"], "someone/shared")
    assert set(hub.dataset("someone/shared").files) == {".gitattributes"}


@pytest.mark.parametrize(
    ("token", "failure", "message"),
    [
        ("", None, "the Hub does not know who you are: log in with `hf auth login`, or set HF_TOKEN."),
        ("hf_wrong", None, "the Hub does not know who you are: log in with `hf auth login`, or set HF_TOKEN."),
        (STRANGER, None, "this account may not do that (You don't have the rights to create a dataset under"),
        (OWNER, {"pattern": "POST .*/commit/", "status": 412}, "it was changed by somebody else meanwhile"),
        (OWNER, {"pattern": "POST .*/preupload", "status": 429}, "the Hub takes no more requests for now"),
        (
            OWNER,
            {"pattern": "POST .*/commit/", "status": 500},
            "the Hub has failed (status 500): try again later.",
        ),
        (OWNER, {"pattern": ".", "status": 0}, "the Hub cannot be reached (RemoteProtocolError)"),
        (OWNER, {"pattern": "POST .*/validate-yaml", "status": 400}, "on demand"),
    ],
    ids=["no token", "wrong token", "no right", "conflict", "limit", "outage", "dropped", "refused"],
)
def test_what_goes_wrong_is_said_in_one_line(hub, sites, no_waiting, monkeypatch, token, failure, message):
    monkeypatch.setenv("HF_TOKEN", token)
    name = f"someone/wrong_{len(hub.repositories)}"
    with pytest.raises(ValueError) as caught:
        if failure is None:
            push_dataset(sites["phantom_hill"], name)
        else:
            with hub.failing(**failure):
                push_dataset(sites["phantom_hill"], name)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"Cannot push {sites['phantom_hill']} to {name}: ")


def test_a_push_without_network_says_so(hub, sites, offline):
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE is set"):
        push_dataset(sites["phantom_city"], "someone/offline")


def test_an_id_that_is_none_is_refused_in_one_line(hub, sites):
    with pytest.raises(ValueError, match="Cannot push .* to a/b/c: ") as caught:
        push_dataset(sites["phantom_city"], "a/b/c")
    assert "\n" not in str(caught.value)


def test_push_from_the_command_line(hub, sites, capsys):
    folder = str(sites["phantom_coast"])
    with hub.recording() as requests:
        assert main(["push", folder, "someone/coast", "--dry_run"]) == 0
    assert not requests
    printed = capsys.readouterr().out
    total = sum(path.stat().st_size for path in sites["phantom_coast"].rglob("*") if path.is_file())
    assert SHARD in printed and f"{total:,}  bytes in all would go to the private repository someone/coast." in printed
    assert main(["push", folder, "someone/coast"]) == 0
    assert "/datasets/someone/coast: 7 files sent, 0 were there, 0 removed there." in capsys.readouterr().out
    assert main(["push", folder, "stranger/coast"]) == 2
    assert (
        capsys.readouterr().err.splitlines()[-1].startswith(f"ark-hf push: error: Cannot push {folder} to stranger/")
    )
