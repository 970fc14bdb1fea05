"""The server's rounds, with sites that answer at once, well or not."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from ark_hf import ArkForImageClassification, ArkTask, FederatedArguments
from ark_hf.federated.messages import Answer, Failure, Request
from ark_hf.federated.server import Federation
from ark_hf.federated.vector import Vector, pack, shared_tensors, unpack
from ark_hf.hub.model_card import model_card

TASKS = {
    "a": ArkTask("heart", ["Cardiomegaly"]),
    "b": ArkTask("lungs", ["Mass", "Nodule"]),
    "c": ArkTask("bones", ["Fracture"]),
}
SHIFTS = {"a": 1.0, "b": 2.0, "c": 6.0}
SAMPLES = {"a": 300, "b": 100, "c": 200}
Change = Callable[[Request, Answer], Answer | Failure | None]


def sites_that(change: Change | None = None):
    """Sites that add a number to the master; `change` may make something else of an answer, or nothing at all."""

    def ask(request: Request) -> Iterator[Answer | Failure]:
        for site in reversed(SHIFTS):
            given: Answer | Failure | None = _answer(site, request)
            if change is not None:
                given = change(request, given)
            if given is not None:
                yield given

    return ask


def _answer(site: str, request: Request) -> Answer:
    task = TASKS[site]
    if request.kind == "introduce":
        return Answer(site, {"heads": [task.name] if request.values["publish_heads"] else []})
    if request.kind == "finish":
        values = {"auroc": {"master": 0.75}, "tasks": [task.to_dict()]}
        return Answer(site, values, heads_of(task.name, len(task.labels), SHIFTS[site]))
    values = {"task_loss": 0.5, "consistency_loss": 0.1, "samples": SAMPLES[site], "auroc": {"student": 0.7}}
    return Answer(site, values, Vector(request.vector.values + np.float32(SHIFTS[site]), request.vector.table))


def heads_of(name: str, labels: int, value: float = 1.0, width: int = 8) -> Vector:
    return pack({f"{name}.weight": torch.full((labels, width), value), f"{name}.bias": torch.zeros(labels)})


@pytest.mark.parametrize("weighting, step", [("equal", 3.0), ("samples", (300 * 1 + 100 * 2 + 200 * 6) / 600)])
def test_a_round_is_the_mean_of_the_sites(arguments, weighting, step):
    federation = Federation(arguments(weighting=weighting, rounds=3), list(SHIFTS), sites_that())
    start = federation.master.vector.values.astype(np.float64)
    federation.run()
    np.testing.assert_allclose(federation.master.vector.values, start + 3 * step, rtol=1e-6, atol=1e-6)


def test_the_order_in_which_answers_come_does_not_matter(arguments, tmp_path):
    vectors = []
    for number, order in enumerate((reversed, list)):
        federation = Federation(
            arguments(output_dir=str(tmp_path / str(number))),
            list(SHIFTS),
            lambda request, order=order: iter(list(order(list(sites_that()(request))))),
        )
        federation.run()
        vectors.append(federation.master.vector.sha256())
    assert vectors[0] == vectors[1]


def test_the_model_has_the_published_heads_and_loads(arguments):
    federation = Federation(arguments(), list(SHIFTS), sites_that())
    folder = federation.run()
    model = ArkForImageClassification.from_pretrained(folder)
    assert [task.name for task in model.config.tasks] == ["heart", "lungs", "bones"]
    assert pack(shared_tensors(model.ark)).sha256() == federation.master.vector.sha256()
    assert model.heads["lungs"].weight.unique().tolist() == [2.0]
    assert AutoModel.from_pretrained(folder).config.tasks is not None
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 4)
    assert json.loads((folder / "provenance.json").read_text())["sites"] == ["a", "b", "c"]
    card = str(model_card(folder, "someone/ark-cxr"))
    assert "Federated pretraining" in card and "Average of the students of 3 sites after 2 rounds." in card


def test_a_master_is_told_from_the_one_that_came_of_the_round(arguments, capsys):
    def received(request, given):
        return replace(given, values={**given.values, "auroc": {"master": 0.6}}) if request.kind == "train" else given

    Federation(arguments(rounds=1), list(SHIFTS), sites_that(received)).run()
    told = "".join(capsys.readouterr())
    assert "a loss 0.5000, AUROC received master 0.600; b" in told
    assert "AUROC of the last master: a 0.750; b 0.750; c 0.750" in told


def test_without_published_heads_the_model_is_an_encoder(arguments):
    def keep_heads(request, given):
        return Answer(given.site) if request.kind != "train" else given

    federation = Federation(arguments(publish_heads=False), list(SHIFTS), sites_that(keep_heads))
    model = AutoModel.from_pretrained(federation.run())
    assert pack(shared_tensors(model)).sha256() == federation.master.vector.sha256()
    assert model(torch.zeros(1, 3, 32, 32)).embeddings.shape == (1, 8)


def changed(
    site: str, number: int, values: dict | None = None, vector: Callable[[Vector], Vector | None] = lambda v: v
):
    """In that round the site answers something else."""

    def change(request: Request, given: Answer):
        if given.site != site or request.kind != "train" or request.values["round"] != number:
            return given
        return Answer(site, {**given.values, **(values or {})}, vector(given.vector))

    return change


def _with(vector: Vector, number: float) -> Vector:
    values = vector.values.copy()
    values[-1] = number
    return Vector(values, vector.table)


def is_of_b_in_round_2(request: Request, given: Answer) -> bool:
    return given.site == "b" and request.kind == "train" and request.values["round"] == 2


FAULTS = {
    "NaN": (changed("b", 2, vector=lambda v: _with(v, np.nan)), "not all finite"),
    "infinity": (changed("b", 2, vector=lambda v: _with(v, np.inf)), "not all finite"),
    "another table": (changed("b", 2, vector=lambda v: Vector(v.values, v.table.upper())), "other names"),
    "another length": (changed("b", 2, vector=lambda v: Vector(v.values[:-1], v.table)), "not the float32 numbers"),
    "another type": (changed("b", 2, vector=lambda v: Vector(v.values.astype(float), v.table)), "not the float32"),
    "no weights": (changed("b", 2, vector=lambda v: None), "it sent no weights"),
    "no samples": (changed("b", 2, {"samples": "many"}), "does not tell its number"),
    "samples below zero": (changed("b", 2, {"samples": -5}), "does not tell its number"),
    "samples that are true": (changed("b", 2, {"samples": True}), "does not tell its number"),
    "an error": (lambda r, a: Failure("b", "ValueError") if is_of_b_in_round_2(r, a) else a, "ValueError"),
    "silence": (lambda r, a: None if is_of_b_in_round_2(r, a) else a, "no answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_round_goes_on_without_a_site_that_fails_and_names_it(arguments, name, capsys):
    change, reason = FAULTS[name]
    args = arguments(weighting="samples", min_sites=2)
    federation = Federation(args, list(SHIFTS), sites_that(change))
    start = federation.master.vector.values.astype(np.float64)
    federation.run()
    steps = (300 * 1 + 100 * 2 + 200 * 6) / 600 + (300 * 1 + 200 * 6) / 500
    np.testing.assert_allclose(federation.master.vector.values, start + steps, rtol=1e-6, atol=1e-6)
    assert reason in federation.master.history[1]["failures"]["b"]
    report = Path(args.output_dir, "report.md").read_text()
    assert "b (" in report and reason in report


@pytest.mark.parametrize("name", ["NaN", "an error", "silence"])
def test_a_round_without_enough_sites_stops_and_is_gone_on_with(arguments, name):
    change, reason = FAULTS[name]
    args = arguments(rounds=3)
    stopped = Federation(args, list(SHIFTS), sites_that(change))
    with pytest.raises(
        ValueError, match=rf"2 of 3 sites trained in round 2, min_sites is 3 \(b: .*{reason}.*round 1 is kept"
    ):
        stopped.run()
    report = Path(args.output_dir, "report.md").read_text()
    assert "Stopped: 2 of 3 sites trained in round 2" in report and reason in report
    resumed = Federation(args, list(SHIFTS), sites_that())
    assert resumed.master.round == 1 and resumed.master.vector.sha256() == stopped.master.vector.sha256()
    resumed.run()
    whole = Federation(arguments(rounds=3, output_dir=args.output_dir + "-whole"), list(SHIFTS), sites_that())
    whole.run()
    assert resumed.master.vector.sha256() == whole.master.vector.sha256()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_server_that_is_killed_goes_on_from_the_last_master(arguments, number, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(request, given):
        if request.values.get("round") == number and request.kind == "train" and given.site == "a":
            raise Killed
        return given

    args = arguments(rounds=3)
    with pytest.raises(Killed):
        Federation(args, list(SHIFTS), sites_that(kill)).run()
    resumed = Federation(args, list(SHIFTS), sites_that())
    assert resumed.master.round == number - 1
    resumed.run()
    whole = Federation(arguments(rounds=3, output_dir=args.output_dir + "-whole"), list(SHIFTS), sites_that())
    whole.run()
    assert resumed.master.vector.sha256() == whole.master.vector.sha256()
    assert [entry["round"] for entry in resumed.master.history] == [1, 2, 3]


def test_another_federation_in_the_folder_is_refused(arguments):
    Federation(arguments(), list(SHIFTS), sites_that()).run()
    with pytest.raises(ValueError, match="rounds was 2, now 5"):
        Federation(arguments(rounds=5), list(SHIFTS), sites_that())
    with pytest.raises(ValueError, match="sites was"):
        Federation(arguments(), ["a", "b"], sites_that())
    Federation(arguments(min_sites=1, timeout=5.0), list(SHIFTS), sites_that()).run()


@pytest.mark.parametrize("kind, when", [("introduce", "at the start"), ("finish", "at the end")])
def test_a_site_that_is_missing_at_the_start_or_the_end_is_named(arguments, capsys, kind, when):
    def change(request, given):
        return Failure("b", "ValueError") if request.kind == kind and given.site == "b" else given

    Federation(arguments(min_sites=2), list(SHIFTS), sites_that(change)).run()
    assert f"{when}: site b is left out: ValueError" in capsys.readouterr().out


def test_two_sites_with_one_name_of_a_head_are_named(arguments):
    def same(request, given):
        return Answer(given.site, {"heads": ["heart"]}) if request.kind == "introduce" else given

    with pytest.raises(ValueError, match="Sites 'a' and 'b' both publish a head 'heart'"):
        Federation(arguments(), list(SHIFTS), sites_that(same)).run()


@pytest.mark.parametrize("tell", ["stranger", "twice"])
def test_answers_in_another_name_do_not_count(arguments, tell):
    def ask(request):
        answers = list(sites_that()(request))
        extra = answers[-1]
        yield from answers
        if request.kind == "train":
            yield Answer("d" if tell == "stranger" else extra.site, extra.values, _with(extra.vector, 1e9))

    args = arguments(min_sites=2, weighting="equal")
    federation = Federation(args, list(SHIFTS), ask)
    start = federation.master.vector.values.astype(np.float64)
    federation.run()
    step = 3.0 if tell == "stranger" else 4.0  # who answers twice is left out
    np.testing.assert_allclose(federation.master.vector.values, start + 2 * step, rtol=1e-6, atol=1e-6)


HEAD_FAULTS = {
    "no weights": lambda a: Answer(a.site, a.values),
    "weights alone": lambda a: Answer(a.site, {}, a.vector),
    "another task's": lambda a: Answer(a.site, {"tasks": [TASKS["a"].to_dict()]}, a.vector),
    "nothing": lambda a: Answer(a.site, {}),
    "another width": lambda a: Answer(a.site, a.values, heads_of("lungs", 2, width=9)),
    "another site's name": lambda a: Answer(a.site, {"tasks": [TASKS["a"].to_dict()]}, heads_of("heart", 1)),
    "no finite numbers": lambda a: Answer(a.site, a.values, heads_of("lungs", 2, np.nan)),
    "no tasks": lambda a: Answer(a.site, {"tasks": "lungs"}, a.vector),
    "a name that is none": lambda a: Answer(a.site, {"tasks": [{"name": "../x", "labels": ["y"]}]}, a.vector),
}  # fmt: skip


@pytest.mark.parametrize("name", HEAD_FAULTS)
def test_heads_that_are_none_are_left_out_and_named(arguments, name):
    def change(request, given):
        return HEAD_FAULTS[name](given) if request.kind == "finish" and given.site == "b" else given

    args = arguments(min_sites=2)
    federation = Federation(args, list(SHIFTS), sites_that(change))
    model = ArkForImageClassification.from_pretrained(federation.run())
    assert [task.name for task in model.config.tasks] == ["heart", "bones"]
    assert "b (at the end: " in Path(args.output_dir, "report.md").read_text()


def test_what_a_site_may_not_tell_is_not_kept(arguments):
    planted = {
        "patients": ["Jane Doe"],
        "task_loss": "<script>",
        "auroc": {"student": 0.5, "Jane": 1.0, "teacher": "x"},
    }
    args = arguments()
    Federation(args, list(SHIFTS), sites_that(changed("b", 1, planted))).run()
    for path in Path(args.output_dir).rglob("*"):
        if path.is_file():
            assert b"Jane" not in path.read_bytes() and b"<script>" not in path.read_bytes()


def test_no_model_is_published_where_batch_statistics_are_kept(arguments):
    args = arguments(keep_batch_norm=True)
    assert Federation(args, list(SHIFTS), sites_that()).run() == Path(args.output_dir)
    assert not Path(args.output_dir, "ark-cxr").exists()


def test_settings_without_effect_or_sense_are_refused(arguments):
    kwargs = {"embed_dim": 8, "depths": [1], "num_heads": [1], "window_size": 4}
    swin = {"backbone": "swin_tiny_patch4_window7_224", "backbone_kwargs": kwargs}
    with pytest.raises(ValueError, match="keep_batch_norm has no effect: swin"):
        Federation(arguments(**swin, keep_batch_norm=True), list(SHIFTS), sites_that())
    with pytest.raises(ValueError, match="min_sites is 4, but there are 3 sites"):
        Federation(arguments(min_sites=4), list(SHIFTS), sites_that())


def test_a_federation_starts_from_an_ark_cxr(arguments, tmp_path):
    first = Federation(arguments(), list(SHIFTS), sites_that())
    folder = first.run()
    args: FederatedArguments = arguments(init=str(folder), output_dir=str(tmp_path / "next"))
    second = Federation(args, list(SHIFTS), sites_that())
    assert second.master.vector.sha256() == first.master.vector.sha256()
    assert second.master.facts["start"] == "ark-cxr" and str(tmp_path) not in json.dumps(second.master.facts)
    assert set(unpack(second.master.vector)) == set(unpack(first.master.vector))
