"""A federation on one machine: the same server and sites, in this process and others, with folders for their own."""

import multiprocessing
import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from tqdm.auto import tqdm

from ..data.leaks import mark_shared_images
from ..data.loading import usable_cores
from ..signals import ended_by_signals
from ..training.ark.recipe import TaskSpec
from ..training.ark.tasks import load_tasks
from ..training.interruption import explained_faults, lock_run
from ..training.run import write_recipe
from .messages import Answer, Failure, Request
from .processes import watch_parent
from .recipe import CONSENT_FIELDS, SITE_FIELDS, FederatedArguments, SiteArguments, SiteSpec, check_simulation
from .server import Federation
from .site import ERROR_FILE, answer

LOG_FILE = "site.log"
DIED = "its process died"
GOES_ON = " The newest master is kept: the same command goes on from it."


def federate(args: FederatedArguments, sites: Sequence[SiteSpec]) -> Path:
    """
    Simulates a federation; the same call again resumes. A site's folder is `output_dir/sites/NAME`.

    Returns:
        The folder of the model that is published; with `keep_batch_norm`, where there is none, that of the federation.

    Raises:
        ValueError: Settings, datasets and `init` do not fit each other; images that one site trains on are held out by
            another; the folder holds another federation; or too few sites gave an answer.
    """
    check_simulation(sites, "federation")
    tasks = [task for site in sites for task in load_tasks(site.tasks, args.data_root, args.streaming)]
    mark_shared_images(tasks, args.allow_shared_images)
    places = {site.name: (_site_arguments(args, site.name), site.tasks) for site in sites}
    folder = Path(args.output_dir)
    with (
        lock_run(folder),
        ended_by_signals(f"stopped. What is trained is saved in {folder}: the same command goes on from there."),
        explained_faults(folder, lambda: GOES_ON),
        LocalSites(places, args.sites_at_once) as ask,
    ):
        federation = Federation(args, list(places), ask)
        write_recipe(folder, _resolved(args, sites))
        return federation.run()


def _resolved(args: FederatedArguments, sites: Sequence[SiteSpec]) -> dict[str, Any]:
    """The recipe with every setting as it was resolved."""
    settings = {name: value for name, value in args.to_dict().items() if name != "cycles"} | {"data_root": "."}

    def located(tasks: Sequence[TaskSpec]) -> list[dict[str, Any]]:
        return [{**asdict(task), "dataset": task.location(args.data_root)} for task in tasks]

    return settings | {"sites": [{"name": site.name, "tasks": located(site.tasks)} for site in sites]}


def _site_arguments(args: FederatedArguments, name: str) -> SiteArguments:
    """What each site decides in reality is the recipe's here."""
    values = {each: getattr(args, each) for each in (*SITE_FIELDS, *CONSENT_FIELDS)}
    return SiteArguments(name=name, **values | {"output_dir": str(Path(args.output_dir) / "sites" / name)})


class LocalSites:
    """
    Carries requests to sites on this machine: see [`Ask`].

    One at a time they are asked in this process; several at once in processes of their own, each with its share of the
    cores or a GPU, so that the death of one is that of one site. These end with the block that it opens.

    Args:
        sites: Of each its arguments and tasks, by name.
        at_once: How many train at once; as many as there are cores or GPUs unless set.
    """

    def __init__(self, sites: Mapping[str, tuple[SiteArguments, list[TaskSpec]]], at_once: int | None = None):
        self.sites = dict(sorted(sites.items()))
        most = torch.cuda.device_count() or usable_cores()
        self.at_once = min(at_once or most, len(self.sites))
        self._places: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(self.at_once):
            self._places.put(number)
        self._processes: dict[int, ProcessPoolExecutor] = {}
        self._threads = ThreadPoolExecutor(self.at_once)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # a signal came: the sites save what they have
            for site in multiprocessing.active_children():
                site.terminate()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes.values():
            process.shutdown()

    def __call__(self, request: Request) -> Iterator[Answer | Failure]:
        if self.at_once == 1:
            for name in self.sites:
                yield self._noted(answer(*self.sites[name], request))
            return
        for done in as_completed([self._threads.submit(self._ask, name, request) for name in self.sites]):
            yield self._noted(done.result())

    def _ask(self, name: str, request: Request) -> Answer | Failure:
        """By a process that nobody else has now, and that lives on to the next request; a new one if it dies."""
        place = self._places.get()
        try:
            if place not in self._processes:
                threads = max(usable_cores() // self.at_once, 1)
                context = multiprocessing.get_context("spawn")
                self._processes[place] = ProcessPoolExecutor(1, context, _settle, (threads, visible_gpu(place)))
            return self._processes[place].submit(_answer, *self.sites[name], request).result()
        except BrokenProcessPool:
            del self._processes[place]
            return Failure(name, DIED)
        finally:
            self._places.put(place)

    def _noted(self, given: Answer | Failure) -> Answer | Failure:
        """Here the user is every site, and is told where a failure is explained."""
        if isinstance(given, Failure) and given.reason != DIED:
            log = Path(self.sites[given.site][0].output_dir) / ERROR_FILE
            tqdm.write(f"What went wrong at {given.site} is told in {log}.", file=sys.stderr)
        return given


def visible_gpu(place: int) -> str | None:
    """What CUDA_VISIBLE_DEVICES is to be for the process of that number: one of the GPUs; None without any."""
    count = torch.cuda.device_count()
    if not count:
        return None
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (known.split(",") if known else [str(number) for number in range(count)])[place % count]


def _settle(threads: int, gpu: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent sees to its end
    watch_parent()  # of a federation that was killed no site may be at work when the next one goes on
    torch.set_num_threads(threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu


def _answer(site: SiteArguments, tasks: list[TaskSpec], request: Request) -> Answer | Failure:
    """As [`answer`]; what is printed goes to the site's folder, as that of several sites would be one tangle."""
    folder = Path(site.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOG_FILE, "a", encoding="utf-8") as log, redirect_stderr(log), redirect_stdout(log):
        return answer(site, tasks, request)
