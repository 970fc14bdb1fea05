"""Whole federations on this machine: real sites, real training."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from ark_hf import ArkForImageClassification, ArkTask, FederatedArguments, SiteSpec, TaskSpec, federate, load_ark
from ark_hf.cli.main import main
from ark_hf.federated.messages import Failure, Request
from ark_hf.federated.server import Federation
from ark_hf.federated.simulation import LocalSites, visible_gpu
from ark_hf.federated.vector import average, pack, shared_tensors
from ark_hf.training.run import Run
from tests.data.test_leaks import share
from tests.federated.conftest import NAMES, TINY

SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
}


EQUAL = {"sites_at_once": 1, "weighting": "equal"}


@pytest.fixture(scope="module")
def specs(sites) -> list[SiteSpec]:
    return [SiteSpec(name, [TaskSpec(str(sites[task]))]) for name, task in NAMES.items()]


@pytest.fixture(scope="module")
def whole(specs, tmp_path_factory) -> FederatedArguments:
    """The settings of a federation that is over; tests read its folder."""
    args = FederatedArguments(output_dir=str(tmp_path_factory.mktemp("whole") / "run"), **TINY, **EQUAL)
    federate(args, specs)
    return args


def student(args, name: str) -> ArkForImageClassification:
    return ArkForImageClassification.from_pretrained(Path(args.output_dir, "sites", name, "student"))


@pytest.mark.parametrize("encoder", [{}, SWIN], ids=["batch norm", "swin"])
def test_the_master_is_the_mean_of_the_students_by_hand(whole, arguments, specs, encoder):
    args = whole
    if encoder:
        args = arguments(**EQUAL, rounds=1, **encoder)
        federate(args, specs)
    model, _ = load_ark(str(Path(args.output_dir, "ark-cxr")))
    states = [student(args, name).ark.state_dict() for name in NAMES]
    for name, value in shared_tensors(model.ark).items():
        expected = np.mean([state[name].numpy().astype(np.float64) for state in states], axis=0)
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert [task.name for task in model.config.tasks] == ["phantom_hill", "phantom_city"]


def test_a_federation_resumes_to_the_same_bits(whole, arguments, specs, monkeypatch):
    class Killed(BaseException):
        pass

    usual, asked = LocalSites.__call__, []

    def die_in_the_second_round(self, request):
        for given in usual(self, request):
            yield given
            asked.append((request.kind, request.values.get("round"), given.site))
            if asked[-1] == ("train", 2, "north"):  # after the first of two sites
                raise Killed

    args = arguments(**EQUAL)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LocalSites, "__call__", die_in_the_second_round)
        federate(args, specs)
    federate(args, specs)
    for path in (
        "ark-cxr",
        *(f"sites/{name}/{model}" for name in NAMES for model in ("ark-cxr", "student", "master")),
    ):
        ours, theirs = (Path(each.output_dir, path, "model.safetensors").read_bytes() for each in (args, whole))
        assert ours == theirs
    reports = [json.loads(Path(each.output_dir, "report.json").read_text()) for each in (args, whole)]
    for report in reports:
        for entry in report["history"]:
            del entry["seconds"]
    assert reports[0]["history"] == reports[1]["history"]


def test_a_federation_that_is_stopped_saves_what_its_site_has_and_ends_the_same(
    whole, arguments, specs, monkeypatch, capsys
):
    end_step, taken = Run.end_step, []

    def ask(self, is_due):
        taken.append(self.folder.name)
        if len(taken) == 4:  # in the middle of a cycle of the second site
            os.kill(os.getpid(), signal.SIGTERM)
        end_step(self, is_due)

    args = arguments(**EQUAL)
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as left:
        patch.setattr(Run, "end_step", ask)
        federate(args, specs)
    assert left.value.code == 128 + signal.SIGTERM and taken[-1] == "south"
    assert "SIGTERM: stopped at step 2." in capsys.readouterr().err
    federate(args, specs)
    for path in ("ark-cxr", *(f"sites/{name}/student" for name in NAMES)):
        ours, theirs = (Path(each.output_dir, path, "model.safetensors").read_bytes() for each in (args, whole))
        assert ours == theirs


def test_a_damaged_master_is_made_again(whole, arguments, specs):
    args = arguments(**EQUAL)
    shutil.copytree(whole.output_dir, args.output_dir)
    newest = sorted(Path(args.output_dir, "masters").iterdir())[-1]
    expected = (newest / "model.safetensors").read_bytes()
    os.truncate(newest / "model.safetensors", 100)
    with pytest.warns(UserWarning, match="round-000002 is damaged: .* Going on from the round before"):
        federate(args, specs)
    assert (newest / "model.safetensors").read_bytes() == expected


@pytest.mark.slow_ci
def test_sites_at_once_are_processes_of_their_own_and_give_the_same(arguments, specs, places):
    one, two = (arguments(sites_at_once=n, output_dir=f"{arguments().output_dir}-{n}") for n in (1, 2))
    models = [ArkForImageClassification.from_pretrained(federate(args, specs)) for args in (one, two)]
    vectors = [pack(shared_tensors(model.ark)) for model in models]
    np.testing.assert_allclose(vectors[0].values, vectors[1].values, rtol=1e-4, atol=1e-6)
    wrong = {**places, "south": (places["south"][0], [TaskSpec("nowhere/at_all_here")])}
    with LocalSites(wrong, at_once=2) as local:
        given = {each.site: each for each in local(Request("introduce", {"publish_heads": True}))}
    assert given["south"] == Failure("south", "ValueError") and not isinstance(given["north"], Failure)


@pytest.mark.slow_ci
def test_the_command_writes_models_with_their_code_whoever_trains_them(tmp_path, specs):
    recipe = write_recipe(tmp_path, specs, sites_at_once=2, rounds=1)
    subprocess.run([Path(sys.executable).with_name("ark-hf"), "federate", recipe], check=True)
    for model in ("ark-cxr", *(f"sites/{name}/{each}" for name in NAMES for each in ("ark-cxr", "student", "master"))):
        assert (tmp_path / "run" / model / "modeling_ark.py").is_file()
        assert "auto_map" in json.loads((tmp_path / "run" / model / "config.json").read_text())


def die(site, tasks, request):
    import os

    if site.name == "north":
        os._exit(9)
    from ark_hf.federated.messages import Answer

    return Answer(site.name)


@pytest.mark.slow_ci
def test_a_site_whose_process_dies_is_one_site(places, monkeypatch):
    monkeypatch.setattr("ark_hf.federated.simulation._answer", die)
    with LocalSites(places, at_once=2) as local:
        for _ in range(2):
            given = {each.site: each for each in local(Request("introduce", {}))}
            assert given["north"] == Failure("north", "its process died") and not isinstance(given["south"], Failure)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("known, expected", [(None, "0 1 0"), ("3,5", "3 5 3"), ("GPU-a,GPU-b", "GPU-a GPU-b GPU-a")])
def test_each_process_has_one_gpu_of_those_that_there_are(monkeypatch, known, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if known is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", known)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [visible_gpu(place) for place in range(3)] == expected.split()
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert visible_gpu(0) is None


def test_a_site_that_misses_a_round_goes_on_from_its_own_count(arguments, places, local):
    def without_south_in_round_2(request):
        asked = {"north": places["north"]} if request.values.get("round") == 2 else places
        yield from LocalSites(asked, 1)(request)

    args = arguments(rounds=3, min_sites=1)
    federation = Federation(args, list(NAMES), without_south_in_round_2)
    federation.run()
    cycles = {
        name: json.loads(Path(site.output_dir, "metrics.json").read_text())["history"][-1]["cycle"]
        for name, (site, _) in places.items()
    }
    assert cycles == {"north": 3, "south": 2}
    assert federation.master.history[1]["failures"] == {"south": "no answer"}


def test_a_site_of_two_tasks_and_one_that_shares_nothing(arguments, places, sites):
    north, south = places["north"], places["south"]
    quiet = replace(south[0], publish_heads=False, share_metrics=False)
    places = {"north": (north[0], [*north[1], TaskSpec(str(sites["phantom_lake"]))]), "south": (quiet, south[1])}
    federation = Federation(arguments(rounds=1), list(NAMES), LocalSites(places, 1))
    model, _ = load_ark(str(federation.run()))
    assert [task.name for task in model.config.tasks] == ["phantom_hill", "phantom_lake"]
    told = federation.master.history[0]["sites"]
    assert "auroc" in told["north"] and set(told["south"]) == {"task_loss", "consistency_loss", "samples"}
    assert told["north"]["samples"] == 40 and told["south"]["samples"] == 20
    expected = average([federation.master.vector], [1]).values
    np.testing.assert_array_equal(pack(shared_tensors(model.ark)).values, expected)


def test_pictures_that_one_site_trains_on_and_another_holds_out_are_refused(arguments, specs, tmp_path):
    copies = [Path(shutil.copytree(site.tasks[0].dataset, tmp_path / site.name)) for site in specs]
    share(*copies)
    places = [SiteSpec(copy.name, [TaskSpec(str(copy))]) for copy in copies]
    with pytest.raises(ValueError, match="allow_shared_images"):
        federate(arguments(sites_at_once=1), places)
    assert not Path(arguments().output_dir).exists()


def write_recipe(folder: Path, specs: list[SiteSpec], **changes) -> str:
    sites = [{"name": site.name, "tasks": [{"dataset": task.dataset} for task in site.tasks]} for site in specs]
    values = {"output_dir": str(folder / "run"), **TINY, "sites": sites, "sites_at_once": 1, **changes}
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({key: each for key, each in values.items() if each is not None})
    )
    return str(folder / "recipe.yaml")


def test_the_verb_does_not_call_a_model_what_has_its_statistics_at_the_sites(tmp_path, specs, capsys):
    assert main(["federate", write_recipe(tmp_path, specs, keep_batch_norm=True, rounds=1)]) == 0
    told = capsys.readouterr().out
    assert f"report is in {tmp_path / 'run'}. No model is published" in told and "model is in" not in told
    assert not (tmp_path / "run" / "ark-cxr").exists() and (tmp_path / "run/sites/north/master/config.json").exists()


def test_the_verb_runs_a_recipe_and_its_own_resolved_one(tmp_path, specs, capsys):
    assert main(["federate", write_recipe(tmp_path, specs), "--rounds", "1"]) == 0
    told = capsys.readouterr()
    assert f"The federation's model is in {tmp_path / 'run' / 'ark-cxr'}." in told.out
    assert "north, south; 1 rounds of 1 cycles" in told.err and "round 1/1: north loss" in told.out
    assert main(["federate", str(tmp_path / "run" / "recipe.yaml")]) == 0
    assert isinstance(load_ark(str(tmp_path / "run" / "ark-cxr"))[0].config.tasks[0], ArkTask)


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"cycles": 3}, "cycles is rounds x cycles_per_round"),
        ({"sites": None}, "`sites` must list at least two sites"),
        ({"sites": [{"name": "north"}, {"name": "south"}]}, "site 'north' has no `tasks`"),
        ({"output_dir": None}, "lacks `output_dir`"),
        ({"init": "./ark-cxrr"}, "init: './ark-cxrr' is not a weights file"),
        ({"min_sites": 3}, "min_sites is 3, but there are 2 sites"),
    ],
)
def test_wrong_input_is_explained(tmp_path, specs, capsys, changes, complaint):
    assert main(["federate", write_recipe(tmp_path, specs, **changes)]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "run" / "masters").exists()


def test_a_site_that_always_fails_stops_with_the_file_that_says_why(tmp_path, specs, capsys, monkeypatch):
    def fail(self):
        raise FloatingPointError("The loss is not finite")

    monkeypatch.setattr("ark_hf.CyclicPretrainer.run_cycle", fail)
    assert main(["federate", write_recipe(tmp_path, specs)]) == 2
    told = capsys.readouterr().err
    assert "0 of 2 sites trained in round 1, min_sites is 2 (north: FloatingPointError; south: Floating" in told
    log = tmp_path / "run" / "sites" / "north" / "errors.log"
    assert f"What went wrong at north is told in {log}." in told and "The loss is not finite" in log.read_text()
