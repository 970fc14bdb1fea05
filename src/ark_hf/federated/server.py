"""The server of a federation: rounds of asking all sites and averaging what they answer (Ark+, Ext. Data Fig. 2)."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from .master import begin, head_fault, publish, read_master, write_master
from .messages import Answer, Ask, Failure, Request, nbytes
from .recipe import FederatedArguments
from .report import ROLES, write_report
from .vector import average, fault

SHOWN = {"master": "received master"}  # of the round before: what came of this one is tested in the next


class Federation:
    """
    Averages what sites learn, round by round; every master is saved, and the same folder goes on from the newest.

    Args:
        args: The settings.
        sites: Names of the sites.
        ask: Carries requests to the sites and brings what comes back.

    Raises:
        ValueError: Settings and `init` do not fit each other, or the folder holds another federation.
    """

    def __init__(self, args: FederatedArguments, sites: Sequence[str], ask: Ask):
        self.args, self.sites, self.ask = args, sorted(sites), ask
        self.least = len(self.sites) if args.min_sites is None else args.min_sites
        if self.least > len(self.sites):
            raise ValueError(f"min_sites is {self.least}, but there are {len(self.sites)} sites.")
        self.folder = Path(args.output_dir)
        self.announced: dict[str, list[str]] = {}
        saved = read_master(self.folder, args, self.sites)
        self.master = begin(args) if saved is None else saved

    def run(self) -> Path:
        """
        Runs the rounds that are left, then writes the report and the federation's model.

        Returns:
            The folder of the model; with `keep_batch_norm`, where there is none, that of the federation.

        Raises:
            ValueError: Fewer than `min_sites` sites gave a usable answer; the message names the others and why. The
                newest master is kept, and the same call goes on from it.
        """
        self._introduce()
        print(self.describe(), file=sys.stderr)
        total = self.args.rounds * len(self.sites)
        try:
            with tqdm(total=total, initial=self.master.round * len(self.sites), desc="federation", unit="site") as bar:
                while self.master.round < self.args.rounds:
                    self._round(bar)
            finished = self._finish()
        except ValueError as error:
            write_report(self.folder, self.args, self.master.history, stopped=str(error))
            raise
        write_report(self.folder, self.args, self.master.history)
        if self.args.keep_batch_norm:
            return self.folder
        return publish(self.folder, self.args, self.master, finished)

    def describe(self) -> str:
        """Who takes part, for how long, and what goes over the line."""
        size = self.master.vector.nbytes
        going_on = f" It goes on from round {self.master.round}." if self.master.round else ""
        return (
            f"Federation: {', '.join(self.sites)}; {self.args.rounds} rounds of {self.args.cycles_per_round} cycles, "
            f"weighted by {self.args.weighting}.{going_on}\n"
            f"Each round sends {size / 1e6:,.1f} MB to each site, and as much back."
        )

    def _introduce(self) -> None:
        """Who is there, before any time is spent."""
        answers, failures = self._collect(Request("introduce", {"publish_heads": self.args.publish_heads}), _no_fault)
        self._check_enough(answers, failures, "introduced themselves")
        _tell(failures, "at the start")
        self.announced = {answer.site: answer.values.get("heads", []) for answer in answers}
        owners: dict[str, str] = {}
        for answer in answers:
            for head in self.announced[answer.site]:
                if head in owners:
                    raise ValueError(
                        f"Sites {owners[head]!r} and {answer.site!r} both publish a head {head!r}: give the task of "
                        "one of them another `name`."
                    )
                owners[head] = answer.site

    def _round(self, bar: tqdm) -> None:
        started, number = time.monotonic(), self.master.round + 1
        bar.set_postfix_str(f"round {number}/{self.args.rounds}")
        request = self._request("train", number)
        answers, failures = self._collect(request, self._train_fault, bar)
        self._check_enough(answers, failures, f"trained in round {number}")
        by_samples = self.args.weighting == "samples"
        weights = [float(answer.values["samples"]) if by_samples else 1.0 for answer in answers]
        vector = average([answer.vector for answer in answers if answer.vector is not None], weights)
        entry = {
            "round": number,
            "seconds": round(time.monotonic() - started, 1),
            "bytes_down": nbytes(request) * len(self.sites),
            "bytes_up": sum(nbytes(answer) for answer in answers),
            "sites": {answer.site: _told(answer) for answer in answers},
            "failures": {failure.site: failure.reason for failure in failures},
        }
        # AUROCs of a master come with the answers of the next round, to whose sites it is sent
        self.master = replace(self.master, vector=vector, round=number, history=[*self.master.history, entry])
        write_master(self.folder, self.args, self.sites, self.master)
        _tell(failures, f"round {number}")
        bar.write(f"round {number}/{self.args.rounds}: {_summary(entry)}")

    def _finish(self) -> list[Answer]:
        answers, failures = self._collect(self._request("finish", self.master.round), self._finish_fault)
        self._check_enough(answers, failures, "took the last master")
        _tell(failures, "at the end")
        last = self.master.history[-1]
        last["finished"] = {answer.site: _told(answer).get("auroc", {}) for answer in answers}
        last["failures"] |= {failure.site: f"at the end: {failure.reason}" for failure in failures}
        if told := [f"{site} {each['master']:.3f}" for site, each in last["finished"].items() if "master" in each]:
            tqdm.write(f"AUROC of the last master: {'; '.join(told)}")
        return answers

    def _request(self, kind: str, number: int) -> Request:
        master = self.master
        values = {
            "round": number,
            "recipe": self.args.training(),
            "model": master.model,
            "processor": master.processor,
            "facts": master.facts,
        }
        return Request(kind, values, master.vector)

    def _collect(self, request: Request, fault_of, bar: tqdm | None = None) -> tuple[list[Answer], list[Failure]]:
        """Usable answers in the order of the sites' names, and of all other sites why there is none."""
        found: dict[str, Answer | Failure] = {}
        for given in self._asked(request):
            reason = fault_of(given) if isinstance(given, Answer) else None
            if given.site in found:
                reason = "two answers came in its name"
            found[given.site] = given if reason is None else Failure(given.site, reason)
            if bar is not None:
                bar.update()
        answers = [each for _, each in sorted(found.items()) if isinstance(each, Answer)]
        failures = [each for _, each in sorted(found.items()) if isinstance(each, Failure)]
        failures += [Failure(name, "no answer") for name in self.sites if name not in found]
        return answers, failures

    def _asked(self, request: Request) -> Iterator[Answer | Failure]:
        for given in self.ask(request):
            if given.site in self.sites:
                yield given
            else:
                tqdm.write(f"An answer of {given.site!r} is left out: no site of the recipe is named so.")

    def _check_enough(self, answers: list[Answer], failures: list[Failure], what: str) -> None:
        if len(answers) < self.least:
            reasons = "; ".join(f"{failure.site}: {failure.reason}" for failure in failures)
            kept = f" The master of round {self.master.round} is kept: the same command goes on from it."
            raise ValueError(
                f"{len(answers)} of {len(self.sites)} sites {what}, min_sites is {self.least} ({reasons})."
                f"{kept if self.master.round else ''}"
            )

    def _train_fault(self, answer: Answer) -> str | None:
        samples = answer.values.get("samples")
        if self.args.weighting == "samples" and (type(samples) is not int or samples <= 0):
            return "it does not tell its number of training images"
        if answer.vector is None:
            return "it sent no weights"
        return fault(answer.vector, self.master.vector.table)

    def _finish_fault(self, answer: Answer) -> str | None:
        announced = self.announced.get(answer.site, [])
        publishes = announced or "tasks" in answer.values or answer.vector is not None
        return head_fault(self.master, answer, announced) if publishes else None


def _tell(failures: Sequence[Failure], when: str) -> None:
    for failure in failures:
        tqdm.write(f"{when}: site {failure.site} is left out: {failure.reason}")


def _no_fault(answer: Answer) -> str | None:
    heads = answer.values.get("heads", [])
    return None if isinstance(heads, list) and all(isinstance(each, str) for each in heads) else "its heads are none"


def _told(answer: Answer) -> dict[str, Any]:
    """The numbers that a site may tell, and nothing else that it sends."""
    names = ("task_loss", "consistency_loss", "samples")
    told: dict[str, Any] = {name: answer.values[name] for name in names if _is_number(answer.values.get(name))}
    aurocs = answer.values.get("auroc")
    if isinstance(aurocs, dict):
        told["auroc"] = {role: aurocs[role] for role in ROLES if _is_number(aurocs.get(role))}
    return told


def _summary(entry: dict[str, Any]) -> str:
    """A line a round: losses, and AUROCs where they are shared."""
    parts = []
    for site, values in entry["sites"].items():
        known = [f"loss {values['task_loss']:.4f}"] if "task_loss" in values else []
        known += [f"AUROC {SHOWN.get(role, role)} {value:.3f}" for role, value in values.get("auroc", {}).items()]
        parts.append(f"{site} {', '.join(known)}".strip())
    return "; ".join(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
