"""Servers and sites as processes over TLS on the loopback: what they learn, whom they refuse, what they survive."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

pytest.importorskip("flwr")

from ark_hf import FederatedArguments, TaskSpec
from ark_hf.cli.main import main
from ark_hf.federated.processes import free_port
from ark_hf.federated.recipe import SiteArguments
from ark_hf.federated.server import Federation
from ark_hf.federated.simulation import LocalSites
from tests.conftest import REPOSITORY
from tests.federated.conftest import NAMES, TINY

pytestmark = pytest.mark.slow_ci

PATIENCE = 400.0


class Command:
    """`ark-hf federate ...` as a process, whose output is a file."""

    def __init__(self, folder: Path, *words: str):
        self.output = folder / f"{words[0]}-{time.monotonic_ns()}.log"
        source = os.pathsep.join(filter(None, [str(REPOSITORY / "src"), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": source, "HOME": str(folder / "home")}
        with open(self.output, "wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ark_hf", "federate", *words],
                env=environment,
                stdout=file,
                stderr=file,
                cwd=folder,
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def kill(self, *programs: str) -> None:
        """Kills what it has started of these programs, all of which there are; a client that ends may stand beside."""
        found = {pid: name for pid, name in self.children().items() if name.endswith(programs)}
        assert all(any(name.endswith(program) for name in found.values()) for program in programs), self.children()
        for pid in found:
            os.kill(pid, signal.SIGKILL)

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def wait_for(self, found) -> None:
        end = time.monotonic() + PATIENCE
        while not found():
            assert time.monotonic() < end and self.process.poll() is None, self.text
            time.sleep(0.1)

    def children(self) -> dict[int, str]:
        """All that stems from it, with the name of the program."""
        found, parents = {}, {self.process.pid}
        listed = {pid: parent for pid, parent, _ in processes()}
        names = {pid: name for pid, _, name in processes()}
        while parents:
            parents = {pid for pid, parent in listed.items() if parent in parents}
            found |= {pid: names.get(pid, "") for pid in parents}
        return found


def processes() -> list[tuple[int, int, str]]:
    """(pid, parent, program) of what runs on this machine."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        found.append((int(folder.name), parent, " ".join(Path(word).name for word in words[:2])))
    return found


class World:
    """A folder with credentials, a server's recipe and the sites' files; the processes that were started."""

    def __init__(self, folder: Path, sites: dict, **recipe):
        self.folder, self.port, self.commands, self.left = folder, free_port(), [], {}
        (folder / "home").mkdir(parents=True)
        assert main(["federate", "keys", str(folder / "keys")]) == 0
        assert main(["federate", "keys", str(folder / "other")]) == 0
        (folder / "keys" / "publisher").unlink()  # it may be anywhere but at the server
        for name in ("north", "south", "east", "west"):
            assert main(["federate", "key", name, "--out", str(folder / "keys")]) == 0
        named = [{"name": name, "key": f"keys/{name}.pub"} for name in sites if name != "west"]
        values = {**TINY, "output_dir": str(folder / "run"), "timeout": PATIENCE, "sites": named, **recipe}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
        for name, (dataset, trusted) in sites.items():
            values = {
                "name": name,
                "output_dir": f"site-{name}",
                "publish_heads": True,
                "share_metrics": True,
                "link": f"localhost:{self.port}",
                "certificate": "keys/ca.crt",
                "key": f"keys/{name}",
                "trusted": f"{trusted}/trusted.yaml",
                "tasks": [{"dataset": str(dataset)}],
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(values))

    def start(self, *words: str) -> Command:
        self.commands.append(Command(self.folder, *words))
        return self.commands[-1]

    def server(self) -> Command:
        return self.start("server", "recipe.yaml", "--credentials", "keys", "--port", str(self.port))

    def end(self) -> None:
        """Ends the sites; nothing may be left, nor have been written elsewhere."""
        left = self.left | {pid: name for command in self.commands for pid, name in command.children().items()}
        for command in self.commands:
            command.process.terminate()
        for command in self.commands:
            command.wait()
        end = time.monotonic() + 30
        while (alive := {pid for pid, _, _ in processes()} & set(left)) and time.monotonic() < end:
            time.sleep(0.2)
        assert not alive, {pid: left[pid] for pid in alive}
        assert {path.name for path in (self.folder / "home").iterdir()} <= {".cache", ".config"}  # matplotlib's

    def report(self) -> list:
        return json.loads((self.folder / "run" / "report.json").read_text())["history"]

    def masters(self) -> list[int]:
        return sorted(int(path.name[-6:]) for path in (self.folder / "run" / "masters").iterdir())

    def steps(self, name: str) -> int:
        """How many a site has saved: two a cycle."""
        found = (self.folder / f"site-{name}").glob("checkpoints/*[0-9]")
        return max((int(path.name.rpartition("-")[2]) for path in found), default=0)

    def student(self, name: str) -> dict[str, np.ndarray]:
        return load_file(self.folder / f"site-{name}" / "student" / "model.safetensors")

    def master(self, number: int) -> dict[str, np.ndarray]:
        return load_file(self.folder / "run" / "masters" / f"round-{number:06d}" / "model.safetensors")


@pytest.fixture
def world(sites, tmp_path):
    made = []

    def make(names: dict, **recipe) -> World:
        made.append(
            World(
                tmp_path / "world",
                {name: (sites[NAMES.get(name, "phantom_hill")], trusted) for name, trusted in names.items()},
                **recipe,
            )
        )
        return made[-1]

    yield make
    for each in made:
        for command in each.commands:
            command.process.terminate()


def test_killed_or_not_it_is_the_simulation_and_refuses_whom_it_should(world, sites, tmp_path):
    ours = world({"north": "keys", "south": "keys", "east": "other", "west": "keys"}, min_sites=2, cycles_per_round=6)
    server = ours.server()
    started = {name: ours.start("site", f"{name}.yaml") for name in ("north", "south", "east")}
    server.wait_for(lambda: "Federation: east, north, south" in server.text)
    west = ours.start("site", "west.yaml")
    west.wait_for(lambda: "The server refuses this site for now" in west.text)
    west.process.terminate()

    # the node and the client of a site, and then the server, in the midst of the second round
    server.wait_for(lambda: ours.steps("south") > 12)
    started["south"].kill("supernode", "clientapp")
    ours.left = server.children()  # which are to go with it
    server.process.kill()
    assert ours.masters() == [1]
    server = ours.server()
    assert server.wait() == 0, server.text
    assert "It goes on from round 1." in server.text
    assert f"model is in {tmp_path}/world/run/ark-cxr." in server.text

    # by hand
    master, students = ours.master(2), [ours.student(name) for name in NAMES]
    samples = [ours.report()[-1]["sites"][name]["samples"] for name in NAMES]
    for name, value in master.items():
        expected = np.average([each[f"ark.{name}"].astype(np.float64) for each in students], axis=0, weights=samples)
        np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-7)

    # simulated, without any interruption
    places = {
        name: (
            SiteArguments(name, str(tmp_path / "sites" / name), publish_heads=True, share_metrics=True),
            [TaskSpec(str(sites[task]))],
        )
        for name, task in NAMES.items()
    }
    args = FederatedArguments(output_dir=str(tmp_path / "simulated"), **{**TINY, "cycles_per_round": 6})
    simulated = Federation(args, list(places), LocalSites(places, at_once=1)).run()
    weights = [path / "model.safetensors" for path in (simulated, ours.folder / "run" / "ark-cxr")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    # who does not trust the app runs nothing, and who is not registered is not let in
    for entry in ours.report():
        assert list(entry["sites"]) == ["north", "south"]
        assert "it does not trust the app" in entry["failures"]["east"]
    assert not list((ours.folder / "site-east" / "flower").glob("apps/*"))
    for name in ("east", "west"):
        assert {path.name for path in (ours.folder / f"site-{name}").iterdir()} <= {"flower", ".flower.lock"}
    audited = [json.loads(line)["request"] for line in (ours.folder / "site-north" / "audit.jsonl").open()]
    assert audited[:3] == ["introduce", "train", "introduce"] or audited[:3] == ["introduce", "train", "train"]
    assert audited[-1] == "finish"
    ours.end()


@pytest.mark.slow  # four minutes of waiting; the same without processes is in test_flower_app.py
def test_a_round_goes_on_without_a_site_that_was_killed_and_the_next_one_with_it(world):
    ours = world({"north": "keys", "south": "keys"}, min_sites=1, cycles_per_round=4)
    server = ours.server()
    started = {name: ours.start("site", f"{name}.yaml") for name in NAMES}
    server.wait_for(lambda: ours.steps("south") > 0)
    started["south"].kill("supernode", "clientapp")
    assert server.wait() == 0, server.text
    assert "round 1: site south is left out: its node is gone" in server.text
    one, two = ours.report()
    assert (list(one["sites"]), one["failures"]) == (["north"], {"south": "its node is gone"})
    assert (list(two["sites"]), two["failures"]) == (["north", "south"], {})
    ours.end()
