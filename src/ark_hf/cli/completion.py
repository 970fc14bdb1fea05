"""The verb `completion`: a script by which a shell completes verbs, options and their choices."""

import contextlib
import importlib
import io
import re
from dataclasses import dataclass
from typing import Literal, get_args

from .arguments import parse

Shell = Literal["bash", "zsh", "fish"]
# In the help: an option with its choices, and a verb, action or source with what it does
OPTION = re.compile(r"^  (--\w+)(?: \{([^}]*)\})?", re.MULTILINE)
LISTED = re.compile(r"^  (\w+) ", re.MULTILINE)


@dataclass
class CompletionArguments:
    """There are none beside the shell's name."""


@dataclass(frozen=True)
class Command:
    """What may follow the words: other words, or options, each with its choices."""

    words: tuple[str, ...]
    next: list[str]
    options: dict[str, list[str]]


def completion(argv: list[str]) -> int:
    """Print a script by which bash, zsh or fish complete this command."""
    _, given = parse(
        CompletionArguments,
        "completion",
        argv,
        "Prints a script by which a shell completes verbs, options and choices. It is plain text that runs nothing of "
        "Python: write it to a file that your shell loads, anew after an update.",
        shell={"help": "bash, zsh or fish."},
    )
    if given.shell not in get_args(Shell):
        raise ValueError(f"the shell {given.shell!r} is not known; use one of {get_args(Shell)}.")
    commands = read_commands()
    print(fish_script(commands) if given.shell == "fish" else case_script(given.shell, commands), end="")
    return 0


def read_commands() -> list[Command]:
    """All that the help shows, the command itself first."""
    found: list[Command] = []
    waiting: list[tuple[str, ...]] = [()]
    while waiting:
        words = waiting.pop(0)
        text = _help(words)
        options = {name: [each for each in choices.split(",") if each] for name, choices in OPTION.findall(text)}
        chooses = text.splitlines()[0].endswith(" ...")  # "usage: ark-hf data ACTION ..."
        listed = LISTED.findall(text) if chooses else []
        if words == ("federate",):  # whose actions stand beside a recipe
            listed = list(importlib.import_module(".federate", __package__).ACTIONS)
        found.append(Command(words, listed, options))
        waiting += [(*words, each) for each in listed]
    return found


def _help(words: tuple[str, ...]) -> str:
    from .main import main

    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return shown.getvalue()


def case_script(shell: str, commands: list[Command]) -> str:
    """For bash and zsh, whose patterns are alike: what was typed so far is looked up in one list."""
    lines = []
    for command in sorted(commands, key=lambda command: -len(command.words)):
        begin = "".join(f"{word} " for word in command.words)
        for option, choices in command.options.items():
            if choices:
                lines.append(f'        "{begin}"*"{option} ") list="{" ".join(choices)}" ;;')
        if command.next:
            lines.append(f'        "{begin}") list="{" ".join(command.next)}" ;;')
        if command.options:
            lines.append(f'        "{begin}"*) list="{" ".join(command.options)}" ;;')
    table = "\n".join(lines)
    return BASH.replace("TABLE", table) if shell == "bash" else ZSH.replace("TABLE", table)


BASH = """\
# ark-hf completion bash
_ark_hf() {
    local word="${COMP_WORDS[COMP_CWORD]}" typed="${COMP_WORDS[*]:1:COMP_CWORD-1}" list=""
    case "${typed:+$typed }" in
TABLE
    esac
    [[ $list == --* && $word != -* ]] && list=""
    COMPREPLY=($(compgen -W "$list" -- "$word"))
}
complete -o default -F _ark_hf ark-hf
"""
ZSH = """\
#compdef ark-hf
# ark-hf completion zsh
_ark_hf() {
    local word="$words[CURRENT]" typed="${(j: :)words[2,CURRENT-1]}" list=""
    case "${typed:+$typed }" in
TABLE
    esac
    [[ $list == --* && $word != -* ]] && list=""
    if [[ -n $list ]]; then compadd -- ${=list}; else _files; fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _ark_hf "$@"; else compdef _ark_hf ark-hf; fi
"""


def fish_script(commands: list[Command]) -> str:
    lines = ["# ark-hf completion fish"]
    for command in commands:
        typed = " ".join(("ark-hf", *command.words))
        # The words themselves, and for options anything after them
        here = f"test (string join -- ' ' (commandline -opc)) = '{typed}'"
        below = f"string match -q -- '{typed} *' (string join -- ' ' (commandline -opc) '')"
        for each in command.next:
            lines.append(f'complete -c ark-hf -n "{here}" -f -a {each}')
        for option, choices in command.options.items():
            chosen = f" -x -a '{' '.join(choices)}'" if choices else ""
            lines.append(f'complete -c ark-hf -n "{below}" -l {option.removeprefix("--")}{chosen}')
    return "\n".join(lines) + "\n"
