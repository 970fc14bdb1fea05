"""
Re-tests the claims of the Ark papers in miniature, on phantom sites: under an hour on two cores.

    python examples/evidence/run.py runs/evidence
    python examples/evidence/run.py runs/evidence --transfer runs/transfer/transfer.json    # and on real radiographs

Jobs run side by side, a core each; running again resumes. results.json, README.md and the figures beside this file are
written by this command from what the runs gave, nothing else.
"""

import argparse
import itertools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import arms
import findings
import planted_bias
import sites

SEEDS = (0, 1, 2)


def run_all(function: Callable, jobs: Iterable[tuple], pool: ProcessPoolExecutor) -> list[Any]:
    """What `function` gives for each job, in their order."""
    return [future.result() for future in [pool.submit(function, *job) for job in jobs]]


def choose_rates(built: dict[str, Path], runs: Path, pool: ProcessPoolExecutor) -> dict[str, float]:
    """For each method of the few-shot comparison the learning rate of the best validation AUROC, at one setting."""
    grid = list(itertools.product(arms.TUNED, arms.RATES))
    jobs = [(method, arms.SEARCH_SHOTS, rate, SEEDS[0], built, runs, False) for method, rate in grid]
    validation = dict(zip(grid, run_all(arms.tune, jobs, pool), strict=True))
    return {method: max(arms.RATES, key=lambda rate: validation[method, rate]) for method in arms.TUNED}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The papers' claims on phantom sites; README.md beside this file.")
    parser.add_argument("runs", type=Path, help="folder of the sites and runs; the same folder resumes")
    parser.add_argument("--transfer", type=Path, help="transfer.json of examples/real_radiographs/transfer.py")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the results")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    started = time.monotonic()
    built, runs = sites.build_sites(options.runs), options.runs
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        run_all(arms.pretrain, [(arm, seed, built, runs) for seed in SEEDS for arm in arms.PRETRAINED], pool)
        rates = choose_rates(built, runs, pool)
        shots = [
            (method, shots, rates[method], seed, built, runs, True)
            for method, shots, seed in itertools.product(arms.TUNED, arms.SHOTS, SEEDS)
        ]
        run_all(arms.tune, shots, pool)
        run_all(arms.probe, [(seed, built, runs) for seed in SEEDS], pool)
        run_all(planted_bias.run, [(start, SEEDS, built, runs) for start in planted_bias.STARTS], pool)
    results = findings.collect(built, runs, SEEDS, rates, options.transfer)
    findings.write(results, options.out)
    print(f"{options.out / 'README.md'} is written; this call took {(time.monotonic() - started) / 60:.0f} minutes.")
