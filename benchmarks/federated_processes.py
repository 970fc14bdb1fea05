"""
What a round between real processes costs: a server and two sites over TLS on this machine, with an encoder of the size
that is used (Swin-B: 350 MB of weights), one optimiser step at each site.

Seconds a round, bytes, and of each kind of process the peak memory and CPU time; what a site spends on training and on
saving its state is told apart from what remains, which is Flower's transport. Needs the extra `federated` and Linux.

    python benchmarks/federated_processes.py [--backbone NAME] [--rounds N]
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import yaml

from ark_hf import build_phantom_sites

RESULTS = Path(__file__).parent / "results" / "federated_processes.json"
SITES = {"north": "phantom_hill", "south": "phantom_city"}
KINDS = {
    "flwr-serverapp": "server's app (averages)",
    "flwr-clientapp": "a site's app (trains)",
    "flower-superlink": "SuperLink (carries messages)",
    "flower-supernode": "SuperNode (a site's end)",
}
TICK = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="swin_base_patch4_window7_224")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), words)
    print_table(result)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


def measure(folder: Path, words: argparse.Namespace) -> dict:
    data = build_phantom_sites(folder / "data", {"train": 2, "validation": 2, "test": 2}, size=words.image_size + 32)
    port = _free_port()
    run(["keys", str(folder / "credentials"), "--host", "127.0.0.1"])
    for name, task in SITES.items():
        run(["key", name, "--out", str(folder / "keys")])
        site = {
            "name": name,
            "output_dir": name,
            "link": f"127.0.0.1:{port}",
            "certificate": "credentials/ca.crt",
            "key": f"keys/{name}",
            "trusted": "credentials/trusted.yaml",
            "tasks": [{"dataset": str(data[task])}],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(site))
    recipe = {
        "output_dir": str(folder / "run"),
        "backbone": words.backbone,
        "image_size": words.image_size,
        "rounds": words.rounds,
        "cycles_per_round": 1,
        "batch_size": 2,
        "learning_rate": 0.01,
        "weighting": "equal",
        "sites": [{"name": name, "key": str(folder / "keys" / f"{name}.pub")} for name in SITES],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    sites = [start(["site", str(folder / f"{name}.yaml")], folder / f"{name}.log") for name in SITES]
    options = ["--credentials", str(folder / "credentials"), "--port", str(port)]
    server = start(["server", str(folder / "recipe.yaml"), *options], folder / "server.log")
    watched = Watched(os.getpid())
    try:
        while server.poll() is None:
            watched.look()
            time.sleep(0.2)
    finally:
        for process in (*sites, server):
            process.send_signal(signal.SIGINT)
            process.wait()
    if server.returncode:
        raise SystemExit((folder / "server.log").read_text())
    rounds = json.loads((folder / "run" / "report.json").read_text())["history"]
    training = [
        entry["seconds"]
        for name in SITES
        for entry in json.loads((folder / name / "metrics.json").read_text())["history"]
        if "seconds" in entry
    ]
    return {
        "backbone": words.backbone,
        "cores": os.cpu_count(),
        "bytes_down_per_round": rounds[-1]["bytes_down"],
        "bytes_up_per_round": rounds[-1]["bytes_up"],
        "seconds_per_round": [entry["seconds"] for entry in rounds],
        "seconds_of_training_and_saving_per_site_and_round": training,
        "processes": watched.summary(),
    }


def run(words: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "ark_hf", "federate", *words], check=True)


def start(words: list[str], log: Path) -> subprocess.Popen:
    with open(log, "w") as file:
        return subprocess.Popen([sys.executable, "-m", "ark_hf", "federate", *words], stdout=file, stderr=file)


class Watched:
    """Peak memory and CPU time of Flower's processes below this one, by kind; those that are over count."""

    def __init__(self, root: int):
        self.root = root
        self.seen: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)

    def look(self) -> None:
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, IndexError):
                    continue
        for pid in parents:
            if self._is_below(pid, parents):
                self._measure(pid)

    def _is_below(self, pid: int, parents: dict[int, int]) -> bool:
        while pid in parents and pid != self.root:
            pid = parents[pid]
        return pid == self.root

    def _measure(self, pid: int) -> None:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            status = Path(f"/proc/{pid}/status").read_text()
            times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return
        kind = next((name for key, name in KINDS.items() if key in command), None)
        peak = next((line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")), None)
        if kind is not None and peak is not None:
            self.seen[kind][pid] = (int(peak) / 1024, (int(times[11]) + int(times[12])) / TICK)

    def summary(self) -> dict[str, dict[str, float]]:
        return {
            kind: {
                "peak_mb": round(max(peak for peak, _ in found.values())),
                "cpu_seconds": round(sum(seconds for _, seconds in found.values()), 1),
                "processes": len(found),
            }
            for kind, found in self.seen.items()
        }


def print_table(result: dict) -> None:
    down, up = result["bytes_down_per_round"] / 1e6, result["bytes_up_per_round"] / 1e6
    print(f"{result['backbone']}, {len(SITES)} sites: {down:,.0f} MB down and {up:,.0f} MB up a round")
    print(f"seconds a round: {', '.join(f'{each:.0f}' for each in result['seconds_per_round'])}")
    training = result["seconds_of_training_and_saving_per_site_and_round"]
    print(f"of these a site's training and validation: {', '.join(f'{each:.0f}' for each in training)}")
    print(f"{'process':32} {'peak MB':>8} {'CPU s':>8} {'started':>8}")
    for kind, figures in result["processes"].items():
        print(f"{kind:32} {figures['peak_mb']:8,} {figures['cpu_seconds']:8,.1f} {figures['processes']:8}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    main()
