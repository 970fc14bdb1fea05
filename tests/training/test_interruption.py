"""What ends a run before its end: signals, damage, a full disk, a dead loader, another run; it then ends the same."""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys

import pytest
from accelerate import Accelerator
from filelock import FileLock
from safetensors import SafetensorError

from ark_hf.training import interruption
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments
from ark_hf.training.checkpoint import damaged_checkpoints, is_whole, newest_checkpoint, remove_checkpoint, seal
from ark_hf.training.interruption import LOCK_FILE, lock_run

from .conftest import TINY, open_site
from .methods import METHODS

MODELS = {"ark": "student", "peac": "student", "genesis": "genesis"}
SLOWLY = [pytest.param(each, marks=pytest.mark.slow_ci) for each in METHODS[1:]]


def results(trainer) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in trainer.output_dir.glob("*/*.safetensors")}


def steps(trainer) -> list[int]:
    return sorted(int(path.name[5:]) for path in trainer.output_dir.glob("checkpoints/step-*"))


def send_after(trainer, step: int, number: int) -> None:
    """A signal comes while the step is taken."""
    end_step = trainer.run.end_step

    def end(is_due):
        if trainer.state.step == step:
            os.kill(os.getpid(), number)
        end_step(is_due)

    trainer.run.end_step = end


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow_ci)])
@pytest.mark.parametrize("method", [METHODS[0], *SLOWLY])
def test_a_signal_ends_a_run_after_the_step_with_a_checkpoint(make, method, number, capsys):
    whole = make(method, "whole")
    whole.train()
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    last = steps(whole)[0]  # the last of a cycle, after which validation comes
    for step in (1, last):
        stopped = make(method)
        send_after(stopped, step, number)
        with pytest.raises(SystemExit) as left:
            stopped.train()
        assert left.value.code == 128 + number and steps(stopped)[-1] == step
        assert f"{number.name}: stopped at step {step}" in capsys.readouterr().err
    assert before == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    resumed = make(method)
    resumed.train()
    assert results(resumed) == results(whole) and results(whole)


@pytest.mark.slow_ci
def test_two_processes_stop_together_though_one_is_asked(tmp_path, sites):
    from .ark.test_resume import ENVIRONMENT, write_recipe

    recipe = write_recipe(tmp_path, sites, cycles=200)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "ark_hf.cli", "pretrain", str(recipe), "--output_dir", str(tmp_path / "run")]
    launcher = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = ""
    for line in launcher.stdout:
        said += line
        if "cycle 1/200:" in line:
            children = f"/proc/{launcher.pid}/task/{launcher.pid}/children"
            os.kill(int(open(children).read().split()[-1]), signal.SIGTERM)  # one of the two
            break
    said += launcher.communicate(timeout=120)[0]
    assert "SIGTERM: stopped at step" in said and "same command goes on" in said, said
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is not None


@pytest.fixture
def trained(make):
    """The trainer of a run of Ark that is over, with three checkpoints."""
    trainer = make("ark", save_steps=2, save_total_limit=3)
    trainer.train()
    return trainer


def test_a_checkpoint_without_any_file_or_with_a_part_of_one_is_none(trained, tmp_path):
    checkpoint = newest_checkpoint(trained.output_dir / "checkpoints")
    files = [path.relative_to(checkpoint) for path in checkpoint.rglob("*") if path.is_file()]
    assert is_whole(checkpoint, "settings.json") and len(files) > 6
    for name in files:
        for damage in (os.unlink, lambda path: os.truncate(path, path.stat().st_size - 2)):
            shutil.copytree(checkpoint, tmp_path / "copy")
            damage(tmp_path / "copy" / name)
            # An earlier version wrote no list of files; what it does not tell is found when it is read
            assert is_whole(tmp_path / "copy", "settings.json") == (
                str(name) == "files.json" and damage is os.unlink
            ), name
            shutil.rmtree(tmp_path / "copy")


@pytest.mark.parametrize("keep", [1, 3])
def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(make, trained, keep):
    expected, checkpoints = results(trained), trained.output_dir / "checkpoints"
    newest, before = [*reversed(sorted(checkpoints.iterdir()))][:2]
    os.truncate(newest / "optimizer.bin", 100)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged: .* Going on from {before.name}\."):
        resumed = make("ark", save_steps=2, save_total_limit=keep)
    assert resumed.run.resumed_from == before
    resumed.train()
    assert results(resumed) == expected and len(steps(resumed)) == keep
    assert is_whole(newest, "settings.json") and not damaged_checkpoints(checkpoints)


def test_where_no_checkpoint_is_whole_a_run_begins_anew(make, trained):
    expected = results(trained)
    for path in trained.output_dir.glob("checkpoints/*/model.safetensors"):
        path.unlink()
    with pytest.warns(UserWarning, match="is damaged: .* Going on from the start"):
        resumed = make("ark", save_steps=2, save_total_limit=3)
    resumed.train()
    assert resumed.run.resumed_from is None and results(resumed) == expected


def test_a_checkpoint_that_cannot_be_read_is_named(make, trained):
    newest = newest_checkpoint(trained.output_dir / "checkpoints")
    (newest / "optimizer.bin").write_bytes(b"0" * (newest / "optimizer.bin").stat().st_size)
    with pytest.raises(ValueError, match=rf"{newest.name} cannot be read .*delete it: the same command then goes on"):
        make("ark", save_steps=2, save_total_limit=3)


def test_a_kill_between_two_names_loses_no_checkpoint(tmp_path):
    """While a checkpoint of the same step is replaced, the old one has another name; so has one that is deleted."""

    def made(name: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "settings.json").write_text("{}")
        seal(tmp_path / name)

    made("step-0000000002")
    made(".step-0000000004.old")
    made(".step-0000000004.new")
    assert newest_checkpoint(tmp_path).name == ".step-0000000004.old"
    made("step-0000000004")
    assert newest_checkpoint(tmp_path).name == "step-0000000004"
    (tmp_path / ".step-0000000004.old" / "settings.json").unlink()  # half deleted
    remove_checkpoint(tmp_path / "step-0000000004")
    assert newest_checkpoint(tmp_path).name == "step-0000000002"


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before_and_says_what_to_do(make, monkeypatch, fault):
    trainer = make("ark", save_steps=2)
    save = Accelerator.save_state

    def fill(self, folder):
        save(self, folder)
        if trainer.state.step == 4:
            raise fault

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no room for what .* same command goes on"):
        patch.setattr(Accelerator, "save_state", fill)
        trainer.train()
    assert [path.name for path in (trainer.output_dir / "checkpoints").iterdir()] == ["step-0000000002"]


@pytest.mark.slow_ci
@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system in a name space of its own")
def test_a_disk_that_is_full_indeed(tmp_path, sites):
    from .ark.test_resume import ENVIRONMENT, same_weights, write_recipe

    recipe, disk = write_recipe(tmp_path, sites, cycles=1, save_steps=2), tmp_path / "disk"
    disk.mkdir()
    run = f"{sys.executable} -m ark_hf.cli pretrain {recipe} --output_dir"
    # Room for one checkpoint, and not for the next beside it; then more room, and the same command
    script = (
        f"mount -t tmpfs -o size=320k tmpfs {disk} && {run} {disk}/run; echo status $?; ls -A {disk}/run/checkpoints; "
        f"mount -o remount,size=64m {disk} && {run} {disk}/run && cp -r {disk}/run {tmp_path}/resumed"
    )
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr[:100]}")
    said = done.stdout + done.stderr
    assert "status 2" in done.stdout and "make room" in said and "Traceback" not in said, said
    assert done.returncode == 0, said
    subprocess.run([*run.split(), str(tmp_path / "whole")], env=ENVIRONMENT, check=True, capture_output=True)
    assert same_weights(tmp_path / "whole" / "student", tmp_path / "resumed" / "student")


@pytest.mark.parametrize("method", [METHODS[0], *SLOWLY])
def test_a_loader_process_that_dies_is_told(make, method):
    trainer = make(method, dataloader_num_workers=1, save_steps=1)
    end_step = trainer.run.end_step

    def kill(is_due):
        end_step(is_due)
        for process in multiprocessing.active_children():
            os.kill(process.pid, signal.SIGKILL)

    trainer.run.end_step = kill
    with pytest.raises(ChildProcessError, match="ended without a word.*dataloader_num_workers.*same command goes on"):
        trainer.train()


def test_a_second_process_is_kept_out_until_the_first_is_dead(make, tmp_path, monkeypatch):
    monkeypatch.setattr(interruption, "PATIENCE", 0.0)
    folder = tmp_path / "run"
    folder.mkdir()
    script = f"import filelock, time; lock = filelock.FileLock({str(folder / LOCK_FILE)!r}); lock.acquire()"
    script += "; print(1, flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"1\n"
        with pytest.raises(ValueError, match="Another process trains in .*run: wait for its end"):
            make("ark")
    finally:
        other.kill()
        other.communicate()
    make("ark", cycles=1).train()
    with FileLock(folder / LOCK_FILE, timeout=0):  # the run has let it go
        pass


def test_a_process_may_have_a_folder_more_than_once(tmp_path):
    with lock_run(tmp_path), lock_run(tmp_path):
        pass


def test_other_labels_in_as_many_rows_are_not_gone_on_with(tmp_path, sites):
    args = PretrainingArguments(output_dir=str(tmp_path), **{**TINY, "cycles": 1})
    hill = open_site(sites["phantom_hill"])
    CyclicPretrainer(args, [hill]).train()
    turned = hill.select("train", [*range(1, 20), 0])
    with pytest.raises(ValueError, match="the images, labels or names in phantom_hill are not those"):
        CyclicPretrainer(args, [turned])
    for path in tmp_path.glob("checkpoints/*/settings.json"):  # of an earlier version, which did not note them
        saved = json.loads(path.read_text())
        del saved["data_sha256"]
        path.write_text(json.dumps(saved))
        path.with_name("files.json").unlink()
    CyclicPretrainer(args, [turned])
