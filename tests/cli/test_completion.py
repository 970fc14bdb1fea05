"""Scripts by which shells complete: all that the help shows, and nothing of Python when a key is pressed."""

import shutil
import subprocess
import sys

import pytest

from ark_hf.cli.completion import case_script, fish_script, read_commands
from ark_hf.cli.main import main, verbs


@pytest.fixture(scope="module")
def commands():
    return read_commands()


def test_commands_are_those_of_the_help(commands):
    found = {" ".join(command.words): command for command in commands}
    assert found[""].next == verbs() and found["data"].next == ["build", "report"]
    assert {"generic", "hub", "chexpert"} <= set(found["data build"].next)
    assert {"server", "site", "key"} <= set(found["federate"].next) and "--rounds" in found["federate"].options
    assert found["predict"].options["--dtype"] == ["float32", "bfloat16", "auto"]
    assert found["finetune"].options["--layer_decay"] == [] and not found["finetune"].next
    assert {"--raw", "--masks"} <= found["data build generic"].options.keys()


TYPED = [
    (["fin"], ["finetune"]),
    (["data", ""], ["build", "report"]),
    (["data", "build", "vindr_cxr_"], ["vindr_cxr_all"]),
    (["finetune", "m", "d", "--layer_d"], ["--layer_decay"]),
    (["pretrain", "r.yaml", "--optim", "m"], ["momentum"]),
    (["finetune", "no"], []),  # files, by the shell itself
    (["nothing", "--x"], []),
]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes(commands, tmp_path):
    script = tmp_path / "ark-hf.bash"
    script.write_text(case_script("bash", commands))
    for words, expected in TYPED:
        typed = " ".join(f"'{word}'" for word in ["ark-hf", *words])
        ask = f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _ark_hf; echo ${{COMPREPLY[*]}}"
        answer = subprocess.run(["bash", "--norc", "-c", ask], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == expected and not answer.stderr, words


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish")
def test_fish_completes(commands, tmp_path):
    script = tmp_path / "ark-hf.fish"
    script.write_text(fish_script(commands))
    for words, expected in TYPED[:5]:
        ask = f"source {script}; complete -C '{' '.join(['ark-hf', *words])}'"
        answer = subprocess.run(["fish", "--no-config", "-c", ask], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == expected, words


def test_the_verb_prints_a_script_for_each_shell(capsys):
    for shell, mark in {"bash": "complete -o default", "zsh": "#compdef ark-hf", "fish": "complete -c ark-hf"}.items():
        assert main(["completion", shell]) == 0
        assert mark in capsys.readouterr().out
    assert main(["completion", "tcsh"]) == 2
    assert "use one of ('bash', 'zsh', 'fish')" in capsys.readouterr().err


def test_it_loads_no_torch():
    code = "import sys; sys.argv = ['ark-hf']\nfrom ark_hf.cli.main import main\nmain(['completion', 'bash'])\n"
    code += "assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
