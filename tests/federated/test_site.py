"""What a site does with a request, what it keeps, and what leaves it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

from ark_hf import ArkForImageClassification, CyclicPretrainer
from ark_hf.federated.master import Master, begin
from ark_hf.federated.messages import Answer, Failure, Request
from ark_hf.federated.site import answer
from ark_hf.federated.vector import Vector, pack, shared_tensors, unpack
from ark_hf.training.run import Run


def request_of(args, master: Master, kind: str = "train", number: int = 1) -> Request:
    values = {
        "round": number,
        "recipe": args.training(),
        "model": master.model,
        "processor": master.processor,
        "facts": master.facts,
    }
    return Request(kind, values, master.vector)


@pytest.fixture
def args(arguments):
    return arguments()


@pytest.fixture
def master(args) -> Master:
    return begin(args)


def test_a_round_changes_the_shared_weights_and_keeps_the_rest_at_the_site(places, args, master):
    site, tasks = places["north"]
    given = answer(site, tasks, request_of(args, master))
    assert isinstance(given, Answer) and given.site == "north"
    assert given.vector.table == master.vector.table and not np.array_equal(given.vector.values, master.vector.values)
    student = ArkForImageClassification.from_pretrained(Path(site.output_dir) / "student")
    assert pack(shared_tensors(student.ark)).sha256() == given.vector.sha256()
    teacher = AutoModelForImageClassification.from_pretrained(Path(site.output_dir) / "ark-cxr")
    assert list(teacher.heads) == ["phantom_hill"] and not any("heads" in name for name in unpack(given.vector))
    assert given.values["samples"] == 20 and set(given.values["auroc"]) == {"student", "teacher", "master"}


def test_the_same_request_again_is_answered_without_training(places, args, master, monkeypatch):
    site, tasks = places["north"]
    request = request_of(args, master)
    first = answer(site, tasks, request)
    monkeypatch.setattr("ark_hf.CyclicPretrainer.run_cycle", lambda self: pytest.fail("it trains again"))
    again = answer(site, tasks, request)
    assert again.values == first.values and again.vector.sha256() == first.vector.sha256()


class Killed(BaseException):
    pass


def killed_late(usual):
    def kill_in_the_second_cycle(self, *args):
        if self.state.cycle == 2:
            raise Killed
        return usual(self, *args)

    return kill_in_the_second_cycle


def test_a_site_that_is_killed_in_a_round_goes_on_to_the_same_weights(places, arguments, tmp_path, monkeypatch):
    args = arguments(cycles_per_round=2, rounds=1)
    master = begin(args)
    whole, tasks = places["north"]
    expected = answer(whole, tasks, request_of(args, master))
    for owner, method in ((Run, "save_checkpoint"), (CyclicPretrainer, "validate")):
        killed = replace(whole, output_dir=str(tmp_path / method))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(owner, method, killed_late(getattr(owner, method)))
            answer(killed, tasks, request_of(args, master))
        found = answer(killed, tasks, request_of(args, master))
        assert found.vector.sha256() == expected.vector.sha256() and found.values == expected.values
        for name in ("ark-cxr", "student"):
            ours, theirs = (Path(site.output_dir, name, "model.safetensors").read_bytes() for site in (killed, whole))
            assert ours == theirs


def test_a_new_master_is_the_next_student_and_schedules_go_on(places, args, master):
    site, tasks = places["north"]
    first = answer(site, tasks, request_of(args, master))
    other = replace(master, vector=Vector(first.vector.values * np.float32(0.5), master.vector.table))
    second = answer(site, tasks, request_of(args, other, number=2))
    history = json.loads(Path(site.output_dir, "metrics.json").read_text())["history"]
    assert [entry["cycle"] for entry in history] == [1, 2] and [entry["step"] for entry in history] == [2, 4]
    assert [entry["round"] for entry in history] == [1, 2]
    assert second.vector.sha256() not in (first.vector.sha256(), other.vector.sha256())


def test_a_master_that_diverged_is_told_at_the_site(places, args, master, capsys):
    site, tasks = places["north"]
    shared = unpack(answer(site, tasks, request_of(args, master)).vector)
    grown = {name: value * 1e3 if name.startswith("projector") else value for name, value in shared.items()}
    answer(site, tasks, request_of(args, replace(master, vector=pack(grown)), number=2))
    lines = [json.loads(each) for each in Path(site.output_dir, "troubles.jsonl").read_text().splitlines()]
    assert ("loss exploded", "task 'phantom_hill'", 2) in [
        (each["kind"], each["what"], each["cycle"]) for each in lines
    ]
    assert "Lower learning_rate or consistency" in capsys.readouterr().out


def test_the_teacher_begins_as_the_master_and_is_not_replaced_later(places, arguments):
    args = arguments(ema_momentum=0.999, ema_mode="epoch")
    master = begin(args)
    site, tasks = places["north"]
    answer(site, tasks, request_of(args, master))
    teacher = pack(shared_tensors(ArkForImageClassification.from_pretrained(Path(site.output_dir, "ark-cxr")).ark))
    assert np.abs(teacher.values - master.vector.values).max() < 0.05
    zeros = replace(master, vector=Vector(np.zeros_like(master.vector.values), master.vector.table))
    answer(site, tasks, request_of(args, zeros, number=2))
    teacher = pack(shared_tensors(ArkForImageClassification.from_pretrained(Path(site.output_dir, "ark-cxr")).ark))
    assert np.abs(teacher.values - master.vector.values).max() < 0.05


def test_the_last_master_is_kept_with_the_sites_own_heads(places, args, master, capsys):
    site, tasks = places["north"]
    answer(site, tasks, request_of(args, master))
    capsys.readouterr()
    given = answer(site, tasks, request_of(args, master, "finish"))
    told = f"The federation is over for north: its own model is {Path(site.output_dir, 'ark-cxr')}"
    assert told in "".join(capsys.readouterr())
    kept = ArkForImageClassification.from_pretrained(Path(site.output_dir, "master"))
    student = ArkForImageClassification.from_pretrained(Path(site.output_dir, "student"))
    assert pack(shared_tensors(kept.ark)).sha256() == master.vector.sha256()
    heads = unpack(given.vector)
    assert set(heads) == {"phantom_hill.weight", "phantom_hill.bias"}
    for name, value in heads.items():
        assert torch.equal(value, student.heads.state_dict()[name])
        assert torch.equal(value, kept.heads.state_dict()[name])
    assert [task["name"] for task in given.values["tasks"]] == ["phantom_hill"]


@pytest.mark.parametrize("asked, agreed", [(False, True), (True, False)])
def test_heads_and_aurocs_leave_only_if_asked_for_and_agreed_to(places, arguments, asked, agreed):
    args = arguments(publish_heads=asked, share_metrics=asked)
    site, tasks = places["north"]
    site = replace(site, publish_heads=agreed, share_metrics=agreed)
    master = begin(args)
    introduced = answer(site, tasks, Request("introduce", {"publish_heads": asked}))
    trained, finished = (answer(site, tasks, request_of(args, master, kind)) for kind in ("train", "finish"))
    assert introduced.values == {"heads": []} and introduced.vector is None
    assert set(trained.values) == {"task_loss", "consistency_loss", "samples"}
    assert finished.values == {} and finished.vector is None


def test_samples_leave_only_if_they_weigh(places, arguments):
    args = arguments(weighting="equal", share_metrics=False)
    given = answer(*places["north"], request_of(args, begin(args)))
    assert set(given.values) == {"task_loss", "consistency_loss"}


def test_the_audit_file_lists_all_that_leaves(places, args, master):
    site, tasks = places["north"]
    requests = [
        Request("introduce", {"publish_heads": True}),
        request_of(args, master),
        request_of(args, master, "finish"),
    ]
    given = [answer(site, tasks, request) for request in requests]
    lines = [json.loads(line) for line in Path(site.output_dir, "audit.jsonl").read_text().splitlines()]
    assert [line["request"] for line in lines] == ["introduce", "train", "finish"]
    for line, each in zip(lines, given, strict=True):
        assert line["values"] == each.values
        assert ("weights" in line) == (each.vector is not None)
    assert lines[1]["weights"]["sha256"] == given[1].vector.sha256()
    assert lines[2]["weights"]["tensors"] == ["phantom_hill.weight", "phantom_hill.bias"]


PLANTED = "Jane Doe 1961"


@pytest.mark.parametrize("kind", ["introduce", "train", "finish"])
def test_of_a_fault_its_kind_alone_leaves(places, args, master, monkeypatch, kind):
    site, tasks = places["north"]

    def fail(*args, **kwargs):
        raise ValueError(f"{PLANTED} in {site.output_dir}")

    monkeypatch.setattr("ark_hf.federated.site.load_tasks", fail)
    given = answer(site, tasks, request_of(args, master, kind))
    assert given == Failure("north", "ValueError")
    assert PLANTED in Path(site.output_dir, "errors.log").read_text()
    assert not Path(site.output_dir, "audit.jsonl").exists()


def test_no_name_or_path_of_a_site_is_in_what_leaves(places, arguments, sites, tmp_path):
    args = arguments(publish_heads=False, share_metrics=False)
    site, tasks = places["north"]
    given = answer(site, tasks, request_of(args, begin(args)))
    leaving = json.dumps(given.values) + given.vector.table
    for secret in (str(tmp_path), str(sites["phantom_hill"]), "phantom_hill", "Effusion", "phantom"):
        assert secret not in leaving


@pytest.mark.parametrize(
    "change, kind",
    [
        ({"vector": None}, "ValueError"),
        ({"vector": Vector(np.zeros(3, np.float32), '[["a", [3]]]')}, "ValueError"),
        ({"recipe": {"learning_rate": "fast"}}, "ValueError"),
        ({"recipe": {"output_dir": "/elsewhere"}}, "TypeError"),
        ({"recipe": {"allow_shared_images": True}}, "TypeError"),
        ({"recipe": {"colour": 1}}, "TypeError"),
        ({"model": {"backbone": "local-dir:/etc"}}, "ValueError"),
        ({"model": {"tasks": []}}, "TypeError"),
        ({"model": {"backbone_kwargs": {"checkpoint_path": "/etc/passwd"}}}, "ValueError"),
    ],
)
def test_a_server_cannot_ask_for_anything_else(places, args, master, change, kind):
    request = request_of(args, master)
    if "vector" in change:
        request = replace(request, vector=change["vector"])
    else:
        ((name, values),) = change.items()
        request = replace(request, values={**request.values, name: {**request.values[name], **values}})
    site, tasks = places["north"]
    assert answer(site, tasks, request) == Failure("north", kind)


def test_batch_statistics_stay_at_the_site_if_they_are_kept(places, arguments):
    args = arguments(keep_batch_norm=True)
    master = begin(args)
    site, tasks = places["north"]
    first = answer(site, tasks, request_of(args, master))
    assert not any("running" in name for name in unpack(first.vector))
    answer(site, tasks, request_of(args, master, "finish"))
    kept = ArkForImageClassification.from_pretrained(Path(site.output_dir, "master")).ark.state_dict()
    student = ArkForImageClassification.from_pretrained(Path(site.output_dir, "student")).ark.state_dict()
    statistics = [name for name in kept if "running" in name]
    assert statistics and all(torch.equal(kept[name], student[name]) for name in statistics)


def test_settings_of_another_federation_are_refused(places, args, arguments, master):
    site, tasks = places["north"]
    answer(site, tasks, request_of(args, master))
    other = arguments(learning_rate=0.1)
    assert answer(site, tasks, request_of(other, master, number=2)) == Failure("north", "ValueError")
    assert "learning_rate was 0.002, now 0.1" in Path(site.output_dir, "errors.log").read_text()
