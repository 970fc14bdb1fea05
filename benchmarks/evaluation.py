"""
Time and memory of the two heavy computations of an evaluation, on generated numbers.

Bootstrap: AUROC of every label and of the mean with clustered intervals (`ark_hf.metrics.auroc.evaluate_labels`).
Patients have one to six images, labels are from frequent to rare and in part unknown, scores have four decimals, so
that there are ties. The reference computes the same resamples one by one: it gathers the images of the drawn patients
and calls scikit-learn's roc_auc_score for each label. A few are measured, and their time is scaled up to all.

Probe: linear probes of stored embeddings, the regularisation of each label chosen by five-fold cross-validation over
patients (`ark_hf.evaluation.probing.probe.fit_probe`).

Each part runs in a process of its own, whose peak memory includes libraries and inputs. Seconds are those that pass;
the ratio is of CPU time. Run it on an otherwise idle machine.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

GOALS = {"bootstrap": {"seconds": 60, "peak_mb": 4096}, "probe": {"seconds": 30}}
SIZES = {
    "images": (100_000, "images of the bootstrap"),
    "labels": (52, "labels of the bootstrap"),
    "resamples": (1000, "resamples of the bootstrap"),
    "reference_resamples": (4, "resamples that the reference computes"),
    "embeddings": (10_000, "embeddings of the probe"),
    "width": (1376, "width of an embedding"),
    "findings": (14, "labels of the probe"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (default, meaning) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{meaning} ({default})")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "evaluation.json")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        return print(json.dumps(PARTS[args.part](args)))
    load = os.getloadavg()[0]
    results = {part: in_own_process(part, args) for part in PARTS}
    reference = results["bootstrap, reference"]["cpu_seconds"]
    results["bootstrap"]["ratio"] = round(reference / results["bootstrap"]["cpu_seconds"], 1)
    print_table(results)
    settings = {name: getattr(args, name) for name in SIZES}
    machine = {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version(), "load": load}
    if load > 0.5:
        print(f"Load before the start: {load:.1f}. Where others compute, seconds are too many; see those of the CPU.")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(
        json.dumps({"parts": results, "goals": GOALS, "settings": settings, "machine": machine}, indent=1) + "\n"
    )
    print(f"Written to {args.out}.")


def in_own_process(part: str, args: argparse.Namespace) -> dict:
    sizes = [option for name in SIZES for option in (f"--{name}", str(getattr(args, name)))]
    command = [sys.executable, __file__, "--part", part, *sizes]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def bootstrap(args: argparse.Namespace) -> dict:
    from ark_hf import evaluate_labels

    labels, scores, patients = predictions(args)
    names = [str(number) for number in range(args.labels)]
    (table, mean), figures = timed(
        lambda: evaluate_labels(labels, scores, names, clusters=patients, num_bootstrap=args.resamples)
    )
    return figures | {"mean_auroc": mean.auroc, "interval": [mean.ci_low, mean.ci_high]}


def reference_bootstrap(args: argparse.Namespace) -> dict:
    from sklearn.metrics import roc_auc_score

    from ark_hf import bootstrap_aurocs

    labels, scores, patients = predictions(args)
    images = np.split(np.arange(args.images), np.flatnonzero(np.diff(patients)) + 1)

    def resample() -> np.ndarray:
        generator = np.random.default_rng(0)
        replicates = np.full((args.reference_resamples, args.labels), np.nan)
        for replicate in replicates:
            rows = np.concatenate([images[drawn] for drawn in generator.integers(0, len(images), len(images))])
            for column in range(args.labels):
                known = rows[~np.isnan(labels[rows, column])]
                if len(np.unique(labels[known, column])) == 2:
                    replicate[column] = roc_auc_score(labels[known, column], scores[known, column])
        return replicates

    replicates, figures = timed(resample)
    ours = bootstrap_aurocs(labels, scores, patients, args.reference_resamples)
    np.testing.assert_allclose(ours, replicates, atol=1e-10)  # or the ratio would mean nothing
    scale = args.resamples / args.reference_resamples
    return figures | {key: round(figures[key] * scale, 3) for key in ("seconds", "cpu_seconds")}


def probe(args: argparse.Namespace) -> dict:
    from ark_hf import auroc, fit_probe

    generator = np.random.default_rng(0)
    embeddings = correlated(generator, 2 * args.embeddings, args.width)
    direction = generator.normal(size=(args.width, args.findings)) / np.sqrt(args.width)
    logits = embeddings @ direction / (embeddings @ direction).std(axis=0) * 2 + generator.logistic(
        size=(len(embeddings), args.findings)
    )
    labels = (logits > np.quantile(logits, 1 - np.geomspace(0.2, 0.01, args.findings), axis=0).diagonal()).astype(
        float
    )
    train, test = slice(None, args.embeddings), slice(args.embeddings, None)
    fitted, figures = timed(lambda: fit_probe(embeddings[train], labels[train], np.arange(args.embeddings) // 2))
    predicted = fitted.predict(embeddings[test])
    found = [auroc(labels[test, column], predicted[:, column]) for column in range(args.findings)]
    return figures | {"mean_auroc": float(np.mean(found)), "strengths": [choice.strength for choice in fitted.choices]}


PARTS: dict[str, Callable[[argparse.Namespace], dict]] = {
    "bootstrap": bootstrap,
    "bootstrap, reference": reference_bootstrap,
    "probe": probe,
}


def predictions(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and scores (images, labels), and the patient of each image."""
    generator = np.random.default_rng(0)
    patients = np.repeat(np.arange(args.images), generator.integers(1, 7, args.images))[: args.images]
    labels = np.empty((args.images, args.labels), np.float32)
    scores = np.empty_like(labels)
    for column, share in enumerate(np.geomspace(0.3, 0.001, args.labels)):
        labels[:, column] = generator.random(args.images) < share
        scores[:, column] = np.round(1 / (1 + np.exp(2 - labels[:, column] - generator.normal(size=args.images))), 4)
        labels[generator.random(args.images) < 0.1, column] = np.nan
    return labels, scores, patients


def correlated(generator: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Embeddings, float32, whose variance falls off over their principal axes like 1 / rank, as that of real ones."""
    axes = np.linalg.qr(generator.normal(size=(width, width)))[0] / np.sqrt(np.arange(1, width + 1))[:, None]
    return (generator.normal(size=(count, width)) @ axes).astype(np.float32)


def timed(compute: Callable) -> tuple:
    """What it returns, and how many seconds it took; the peak memory is that of the process so far."""
    started, cpu_started = time.perf_counter(), time.process_time()
    result = compute()
    return result, {
        "seconds": round(time.perf_counter() - started, 3),
        "cpu_seconds": round(time.process_time() - cpu_started, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def print_table(results: dict) -> None:
    print(f"{'':22}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}{'ratio':>8}   goal")
    for part, result in results.items():
        goals = GOALS.get(part, {})
        met = all(result[key] <= goal for key, goal in goals.items())
        bounds = " and ".join(f"{key} {goal}" for key, goal in goals.items())
        verdict = f"{bounds}: {'met' if met else 'missed'}" if goals else ""
        figures = f"{result['seconds']:9.1f}{result['cpu_seconds']:9.1f}{result['peak_mb']:9}"
        print(f"{part:22}{figures}{result.get('ratio', ''):>8}   {verdict}".rstrip())


def processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
