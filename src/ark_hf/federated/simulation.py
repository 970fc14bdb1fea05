"""A federation on one machine: the same server and sites, in this process and others, with folders for their own."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from ..data.leaks import mark_shared_images
from ..data.loading import usable_cores
from ..training.ark.recipe import TaskSpec
from ..training.ark.tasks import load_tasks
from ..training.run import write_recipe
from .messages import Answer, Failure, Request
from .recipe import FederatedArguments, SiteArguments, SiteSpec, check_simulation
from .server import Federation
from .site import ERROR_FILE, answer


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
    federation = Federation(args, list(places), LocalSites(places, args.sites_at_once))
    write_recipe(Path(args.output_dir), _resolved(args, sites))
    return federation.run()


def _resolved(args: FederatedArguments, sites: Sequence[SiteSpec]) -> dict[str, Any]:
    """The recipe with every setting as it was resolved."""
    settings = {name: value for name, value in args.to_dict().items() if name != "cycles"} | {"data_root": "."}

    def located(tasks: Sequence[TaskSpec]) -> list[dict[str, Any]]:
        return [{**asdict(task), "dataset": task.location(args.data_root)} for task in tasks]

    return settings | {"sites": [{"name": site.name, "tasks": located(site.tasks)} for site in sites]}


def _site_arguments(args: FederatedArguments, name: str) -> SiteArguments:
    """What each site decides in reality is the recipe's here."""
    kept = (
        "data_root", "publish_heads", "share_metrics", "streaming", "allow_shared_images", "dataloader_num_workers",
        "eval_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    )  # fmt: skip
    folder = str(Path(args.output_dir) / "sites" / name)
    return SiteArguments(name=name, output_dir=folder, **{each: getattr(args, each) for each in kept})


class LocalSites:
    """
    Carries requests to sites on this machine: see [`Ask`].

    One at a time they are asked in this process; several at once in processes of their own, each with its share of the
    cores, so that the death of one is that of one site.

    Args:
        sites: Of each its arguments and tasks, by name.
        at_once: How many train at once; as many as there are cores or GPUs unless set.
    """

    def __init__(self, sites: Mapping[str, tuple[SiteArguments, list[TaskSpec]]], at_once: int | None = None):
        self.sites = dict(sorted(sites.items()))
        most = torch.cuda.device_count() or usable_cores()
        self.at_once = min(at_once or most, len(self.sites))
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(self.at_once) if self.at_once > 1 else None

    def __call__(self, request: Request) -> Iterator[Answer | Failure]:
        if self._threads is None:
            for name in self.sites:
                yield self._noted(answer(*self.sites[name], request))
            return
        for done in as_completed([self._threads.submit(self._ask, name, request) for name in self.sites]):
            yield self._noted(done.result())

    def _ask(self, name: str, request: Request) -> Answer | Failure:
        """By the process of this thread, which lives on to the next request; a new one if it dies."""
        if getattr(self._own, "process", None) is None:
            self._own.process = ProcessPoolExecutor(
                1, multiprocessing.get_context("spawn"), _settle, (max(usable_cores() // self.at_once, 1),)
            )
        try:
            return self._own.process.submit(answer, *self.sites[name], request).result()
        except BrokenProcessPool:
            self._own.process = None
            return Failure(name, "its process died")

    def _noted(self, given: Answer | Failure) -> Answer | Failure:
        """Here the user is every site, and is told where a failure is explained."""
        log = Path(self.sites[given.site][0].output_dir) / ERROR_FILE
        if isinstance(given, Failure) and log.exists():
            tqdm.write(f"What went wrong at {given.site} is told in {log}.", file=sys.stderr)
        return given


def _settle(threads: int) -> None:
    """The bars of several sites would be one tangle; what is wrong at a site stands in its folder."""
    sys.stderr = open(os.devnull, "w")
    torch.set_num_threads(threads)
