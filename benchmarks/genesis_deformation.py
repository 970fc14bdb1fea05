"""
Time to deform cubes for Models Genesis: the exact path, which is the originals' for their seeds, and the fast one.

Cubes are those of the release, 64 x 64 x 32 voxels, float32: smooth bodies in air with the noise of a scanner. `whole`
is what training asks for, in which each part has its probability. The parts follow, each done to every cube: 10,000
blocks shuffled; values mapped along a curve (of the fast path, after the rounding to levels); all but some blocks
painted.

The two take turns in one thread, and figures are medians over the turns: of CPU time, which work beside it on the
machine changes less than the time that passes, and of the ratio within a turn.

Then processes deform cubes by the fast path side by side, and the cubes a second are those of the time that passes:
run it on a machine that does nothing else.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # which the processes inherit

import numpy as np

SHAPE = (1, 32, 64, 64)
Step = Callable[[int, int], object]
GOAL_RATIO, GOAL_RATE, GOAL_PROCESSES = 5, 250, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cubes", type=int, default=60, help="cubes a turn (60)")
    parser.add_argument("--turns", type=int, default=11, help="turns that each path takes (11)")
    parser.add_argument("--processes", type=int, default=GOAL_PROCESSES, help="processes side by side (2)")
    parser.add_argument("--side_by_side", type=int, default=3000, help="cubes that each of them deforms (3000)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "genesis_deformation.json")
    args = parser.parse_args()
    results = measure(args)
    print_table(results)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


def measure(args: argparse.Namespace) -> dict:
    load = os.getloadavg()[0]
    table = []
    for part, ways in parts(draw_cubes(args.cubes)).items():
        turns = [[0.0, 0.0] for _ in range(args.turns)]
        for turn, taken in enumerate(turns):
            for way in (0, 1) if turn % 2 else (1, 0):
                taken[way] = _cpu_milliseconds(ways[way], turn, args.cubes)
        slow, quick = (statistics.median(taken[way] for taken in turns) for way in (0, 1))
        ratio = statistics.median(one / other for one, other in turns)
        table.append({"part": part, "exact_ms": round(slow, 2), "fast_ms": round(quick, 2), "ratio": round(ratio, 1)})
    return {
        "table": table,
        "cubes_a_second": {
            "exact_a_core": round(1000 / table[0]["exact_ms"], 1),
            "fast_a_core": round(1000 / table[0]["fast_ms"], 1),
            "fast_side_by_side": round(side_by_side(args.processes, args.side_by_side), 1),
        },
        "goals": {"ratio": GOAL_RATIO, "cubes_a_second": GOAL_RATE, "processes": GOAL_PROCESSES},
        "settings": {key: getattr(args, key) for key in ("cubes", "turns", "processes", "side_by_side")},
        "machine": {"cores": os.cpu_count(), "load_at_start": round(load, 1), "python": platform.python_version()},
        "versions": {"numpy": np.__version__},
    }


def parts(cubes: list[np.ndarray]) -> dict[str, tuple[Step, Step]]:
    """What is measured: by the exact and by the fast path, of a turn and the number of a cube."""
    from ark_hf.training.distortion import map_intensities, paint_outside, shuffle_blocks
    from ark_hf.training.genesis import deformation as exact
    from ark_hf.training.genesis import fast_deformation as fast

    levels = [np.rint(cube * fast.LEVELS).astype(np.uint16) for cube in cubes]
    fast.deform_fast(cubes[0], np.random.default_rng(0))  # the first makes tables that the others use

    def python(turn: int, number: int) -> random.Random:
        return random.Random(turn * len(cubes) + number)

    def exactly(change: Callable) -> Step:
        return lambda *where: change(cubes[where[1]], python(*where), np.random.RandomState(where))

    def quickly(change: Callable) -> Step:
        return lambda *where: change(levels[where[1]], python(*where), np.random.default_rng(where))

    return {
        "whole": (
            exactly(exact.deform),
            lambda *where: fast.deform_fast(cubes[where[1]], np.random.default_rng(where)),
        ),
        "blocks shuffled": (
            exactly(lambda cube, single, many: shuffle_blocks(cube, single, many, exact.SHUFFLED_BLOCKS)),
            quickly(lambda cube, single, many: fast.shuffle_drawn(cube, many)),
        ),
        "values mapped": (
            exactly(lambda cube, single, many: map_intensities(cube, single, exact.CURVE_POINTS)),
            quickly(lambda cube, single, many: map_intensities(cube, single, fast.CURVE_POINTS)),
        ),
        "painted outside": (exactly(paint_outside), quickly(paint_outside)),
    }


def draw_cubes(count: int) -> list[np.ndarray]:
    from scipy.ndimage import gaussian_filter

    generator = np.random.default_rng(0)
    cubes = []
    for _ in range(count):
        tissue = gaussian_filter(generator.standard_normal(SHAPE), (0, 4, 4, 4))
        noisy = 0.4 + tissue / tissue.std() * 0.3 + generator.normal(0, 0.02, SHAPE)
        cubes.append(noisy.clip(0, 1).astype(np.float32))
    return cubes


def side_by_side(processes: int, cubes: int) -> float:
    """Cubes a second of all processes together."""
    context = multiprocessing.get_context("spawn")
    begin, taken = context.Barrier(processes), context.SimpleQueue()
    started = [context.Process(target=deform_many, args=(number, cubes, begin, taken)) for number in range(processes)]
    for process in started:
        process.start()
    rate = sum(cubes / taken.get() for _ in started)
    for process in started:
        process.join()
    return rate


def deform_many(number: int, count: int, begin, taken) -> None:
    """One process: deforms cubes, and hands over the seconds that passed from when all of them had begun."""
    from ark_hf.training.genesis.fast_deformation import deform_fast

    cubes = draw_cubes(8)
    deform_fast(cubes[0], np.random.default_rng(0))
    begin.wait()
    started = time.perf_counter()
    for each in range(count):
        deform_fast(cubes[each % len(cubes)], np.random.default_rng([number, each]))
    taken.put(time.perf_counter() - started)


def print_table(results: dict) -> None:
    print("CPU milliseconds a cube")
    print(f"{'':16}{'exact':>8}{'fast':>8}{'ratio':>8}")
    for row in results["table"]:
        print(f"{row['part']:16}{row['exact_ms']:8.2f}{row['fast_ms']:8.2f}{row['ratio']:8.1f}")
    goals, rates, processes = results["goals"], results["cubes_a_second"], results["settings"]["processes"]
    print(f"Cubes a second: exact {rates['exact_a_core']} and fast {rates['fast_a_core']} of a core's time.")
    ratio, rate = results["table"][0]["ratio"], rates["fast_side_by_side"]
    print(f"Goal {goals['ratio']}x: {'met' if ratio >= goals['ratio'] else 'missed'} ({ratio:.1f}x).")
    print(
        f"Goal {goals['cubes_a_second']} cubes a second in {goals['processes']} processes: "
        f"{'met' if rate >= goals['cubes_a_second'] else 'missed'} ({rate:.0f} in {processes})."
    )


def _cpu_milliseconds(step: Step, turn: int, count: int) -> float:
    started = time.process_time()
    for number in range(count):
        step(turn, number)
    return (time.process_time() - started) / count * 1000


if __name__ == "__main__":
    main()
