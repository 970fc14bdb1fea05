"""Every command and block of Python of the documents, in their order, on drawn data and a Hub on this machine."""

import contextlib
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import create_repo, upload_folder

from ark_hf.cli.completion import read_commands
from ark_hf.cli.main import main, verbs
from ark_hf.hub.push_dataset import push_dataset
from tests.conftest import REPOSITORY
from tests.serving.test_page import free_port

from . import small, workspace
from .pages import PROGRAMS, Command, Python, Written, left_out, steps

DOCS = REPOSITORY / "docs"
PAGES = [page for page in [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))] if steps(page)]
NOT_RUN = left_out(DOCS / "not-run.md")


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_figures):
    root = tmp_path_factory.mktemp("documents") / "made"
    root.mkdir()
    with contextlib.chdir(root):
        workspace.make(root)
    return root


@pytest.fixture
def desk(made, hub, tmp_path, monkeypatch) -> Path:
    """A reader's folder, and the present one."""
    folder = tmp_path / "desk"
    shutil.copytree(made, folder)
    hub.reset()
    push_dataset(made / "data" / "rsna", "someone/rsna", allow_patient_data=True)
    for name in ("someone/cxr", "someone/xrays"):
        create_repo(name, repo_type="dataset")
        upload_folder(repo_id=name, folder_path=made / "foreign", repo_type="dataset")
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ark_hf.cli.serve.getpass", lambda *words: "secret of the page")
    monkeypatch.setattr("ark_hf.federated.report._figures", lambda history: {})
    monkeypatch.setattr("ark_hf.serving.server.PageServer.wait", lambda server: server.close())
    return folder


def perform(step, names: dict) -> None:
    if isinstance(step, Written):
        text = small.recipe(step.text)
        Path(step.name).write_text(text)
        if "output_dir:" in text:  # the desk has some runs from the start
            shutil.rmtree(yaml.safe_load(text)["output_dir"], ignore_errors=True)
    elif isinstance(step, Python):
        exec(compile(step.source, "<page>", "exec"), names)
    else:
        run(step)


def run(command: Command) -> None:
    words, out = command.words, None
    if ">" in words:
        words, out = words[: words.index(">")], words[-1]
    with contextlib.redirect_stdout(open(out, "w")) if out else contextlib.nullcontext():
        if words[0] == "ark-hf":
            if words[1:3] == ("data", "build"):  # the desk has some of them from the start
                shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)
            port = ["--port", str(free_port())] if words[1] == "serve" else []
            code = main(small.command(words[1:]) + port)
            assert code == 0
        else:
            assert words[0] == "python" and not words[1].startswith("-"), f"{command.text}: cannot be run here"
            run_script(*words[1:])


def run_script(path: str, *words: str) -> None:
    usual, sys.argv = sys.argv, [path, *words]
    try:
        runpy.run_path(str(REPOSITORY / path), run_name="__main__")
    finally:
        sys.argv = usual


@pytest.mark.slow_ci
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_does_what_it_says(page, desk, capsys):
    names: dict = {"__name__": "page"}
    # Files first, which may stand below the command that reads them
    for step in sorted(steps(page), key=lambda step: not isinstance(step, Written)):
        if isinstance(step, Command) and any(step.text.startswith(begin) for begin in NOT_RUN):
            continue
        try:
            perform(step, names)
        except BaseException as error:
            said = capsys.readouterr()
            raise AssertionError(f"{step}\n{error}\n{said.out[-500:]}\n{said.err[-500:]}") from error


def commands_of(page: Path) -> list[Command]:
    return [step for step in steps(page) if isinstance(step, Command)]


def test_what_is_left_out_is_there_with_a_reason():
    told = [command.text for page in PAGES for command in commands_of(page)]
    for begin, reason in NOT_RUN.items():
        assert any(text.startswith(begin) for text in told), f"no page has {begin!r} any more"
        assert reason.strip()


def test_every_verb_is_on_a_page():
    """And every command is of a program that readers have."""
    told = [command for page in PAGES for command in commands_of(page)]
    assert {command.words[1] for command in told if command.words[0] == "ark-hf"} >= set(verbs())
    for command in told:
        assert command.words[0] in PROGRAMS or command.text.startswith(tuple(NOT_RUN)), command.text


def test_steps_are_read_in_their_order(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n```bash\nark-hf a  # why\n# a remark\nark-hf b \\\n    --c 'd e'\n```\n"
        "| `ark-hf f` | x |\n```bash\nark-hf g\n```\n"
        "```yaml\n# r.yaml: of\na: 1\n```\n```yaml\nb: 2\n```\n```python\nx = 1\n```\n"
    )
    found = steps(page)
    assert [step.words for step in found[:3]] == [("ark-hf", "a"), ("ark-hf", "b", "--c", "d e"), ("ark-hf", "g")]
    assert found[3:] == [Written("r.yaml", "# r.yaml: of\na: 1\n"), Python("x = 1\n")]


def test_small_recipes_keep_what_a_page_says():
    values = yaml.safe_load(small.recipe("output_dir: x\nstrategy: concurrent\ncycles: 200\ntasks: [{dataset: a}]\n"))
    assert values["strategy"] == "concurrent" and values["cycles"] == 1 and values["tasks"] == [{"dataset": "a"}]
    assert small.recipe("link: a\ntasks: []\n") == "link: a\ntasks: []\n"


# Of other programs: accelerate, torch.distributed, pip, tests of ours, the originals' scripts
FOREIGN = {
    *"--multi_gpu --num_processes --num_machines --machine_rank --main_process_ip --main_process_port".split(),
    *"--config_file --use_fsdp --fsdp_version --fsdp_auto_wrap_policy --nproc_per_node".split(),
    *"--help --version --minutes --mode --no-deps --requirement --sched --venv".split(),
}


def test_options_that_pages_name_are_those_of_the_command():
    known = {option for command in read_commands() for option in command.options} | FOREIGN
    for page in PAGES:
        told = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text(encoding="utf-8")))
        assert told <= known, f"{page.name}: {sorted(told - known)}"
