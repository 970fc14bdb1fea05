"""The sub-verbs of `ark-hf federate` for real processes, as far as they go without one; their children."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml

pytest.importorskip("flwr")

from ark_hf.cli.main import main
from ark_hf.federated import deployment, node, processes
from ark_hf.federated.credentials import read_signature
from ark_hf.federated.processes import check_flower, environment, flower_home, free_port, start, stop
from ark_hf.federated.recipe import read_site
from tests.cli.test_main import error_of


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    assert main(["federate", "keys", str(folder), "--host", "ark.example.org"]) == 0
    for name in ("north", "south"):
        assert main(["federate", "key", name, "--out", str(folder)]) == 0
    return folder


@pytest.fixture
def written(keys, sites, tmp_path):
    """Writes a server's recipe or a site's file, with changes; its path."""

    def write(name: str, **changes) -> str:
        if name == "recipe":
            named = [{"name": each, "key": f"{keys}/{each}.pub"} for each in ("north", "south")]
            values = {"output_dir": str(tmp_path / "run"), "backbone": "test_resnet", "sites": named}
        else:
            joined = {"link": "localhost:8443", "certificate": "ca.crt", "key": "north", "trusted": "trusted.yaml"}
            paths = {each: value if each == "link" else f"{keys}/{value}" for each, value in joined.items()}
            tasks = [{"dataset": str(sites["phantom_hill"])}]
            values = {"name": "north", "output_dir": "state", "tasks": tasks, **paths}
        values = {key: value for key, value in {**values, **changes}.items() if value is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    return write


def test_help_loads_neither_torch_nor_flower():
    code = (
        "import sys; sys.argv = ['ark-hf']\n"
        "from ark_hf.cli.main import main\n"
        "for words in [], ['keys'], ['key'], ['sign'], ['server'], ['site']:\n"
        "    try:\n        main(['federate', *words, '--help'])\n    except SystemExit as stop:\n"
        "        assert stop.code == 0\n"
        "assert not {'torch', 'flwr', 'cryptography'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    shown = " ".join(result.stdout.split())
    for words in ("keys FOLDER", "key NAME", "sign FOLDER", "server RECIPE", "site FILE"):
        assert f"usage: ark-hf federate {words} " in shown
    assert "let a proxy pass /v1/fleet/. (default: 127.0.0.1)" in shown


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"link": None}, "site.yaml lacks `link`, which a site needs to join a server."),
        ({"trusted": None}, "site.yaml lacks `trusted`"),
        ({"link": "https://ark.example.org:8443"}, "link must be host:port"),
        ({"link": "ark.example.org"}, "link must be host:port"),
        ({"certificate": "nowhere.crt"}, "nowhere.crt should be a certificate: No such file or directory."),
        ({"key": "site.yaml"}, "site.yaml is not the private key of a site"),
        ({"trusted": "site.yaml"}, "must map names to ssh-ed25519 keys, at least one"),
        ({"tasks": [{"dataset": "nowhere"}]}, "'nowhere'"),
        ({"tasks": None}, "`tasks` must list"),
        ({"output_dir": None}, "lacks `output_dir`"),
        ({"names": "north"}, "unknown key `names`; did you mean `name`?"),
    ],
)
def test_a_site_that_cannot_join_says_why_before_anything_starts(capsys, written, monkeypatch, changes, complaint):
    monkeypatch.setattr(node, "start", None)
    assert complaint in error_of(capsys, "federate", "site", written("site", **changes))


BY_NAME = [{"name": "a"}, {"name": "b"}]
SIMULATED = [{"name": "north", "tasks": [{"dataset": "x"}]}, {"name": "south", "tasks": [{"dataset": "x"}]}]


@pytest.mark.parametrize(
    "changes, words, complaint",
    [
        ({}, [], "--credentials is missing"),
        ({}, ["--credentials", "nowhere"], "nowhere/ca.crt should be a certificate: No such file"),
        ({"output_dir": None}, ["--credentials", "nowhere"], "lacks `output_dir`"),
        ({"init": "nowhere.pth"}, ["--credentials", "nowhere"], "init: 'nowhere.pth' is not a weights file"),
        (
            {"sites": SIMULATED},
            ["--credentials", "nowhere"],
            "the `tasks` of site 'north' belong into its own site.yaml",
        ),
        ({"sites": BY_NAME}, ["--credentials", "x"], "site 'a' has no `key`"),
        (
            {"sites": [{"name": "a", "key": 3}, {"name": "b"}]},
            ["--credentials", "x"],
            "site 'a': key must be str, got 3",
        ),
        (
            {"sites": [{"name": "a", "key": "a.pub"}, {"name": "b", "key": "b.pub"}]},
            ["--credentials", "x"],
            "a.pub should be the public key of 'a': No such file",
        ),
        ({"data_root": "/data"}, [], "data_root is decided at each site, not by a server; leave it out."),
        ({"sites_at_once": 2}, [], "sites_at_once is decided at each site"),
        ({}, ["--credentials", "x", "--port", "many"], "--port must be int, got 'many'."),
    ],
)
def test_a_server_that_cannot_run_says_why_before_anything_starts(
    capsys, written, monkeypatch, changes, words, complaint
):
    monkeypatch.setattr(deployment, "start", None)
    assert complaint in error_of(capsys, "federate", "server", written("recipe", **changes), *words)


def test_a_simulation_has_no_use_for_keys(capsys, written):
    sites = [{**site, "key": "x.pub"} for site in SIMULATED]
    message = error_of(capsys, "federate", written("recipe", sites=sites))
    assert "site 'north' has a `key`, which is for `ark-hf federate server`; leave it out." in message


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["keys"], "the following arguments are required: FOLDER"),
        (["keys", "new", "--host", "a:1"], "'a:1' is no host name or address"),
        (["key", "../north"], "a site's name is of small letters"),
        (["site", "nowhere.yaml"], "Cannot read the recipe nowhere.yaml"),
        (["sever"], "no recipe 'sever' is here; did you mean `server`?"),
        (["recipe.yml"], "Cannot read the recipe recipe.yml"),
        (["sign", "nowhere"], "nowhere/publisher should be the publisher's key: No such file"),
    ],
)
def test_slips_are_explained(capsys, words, complaint):
    assert complaint in error_of(capsys, "federate", *words)


def test_without_flower_every_sub_verb_says_what_to_install(capsys, keys, written, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(processes, "version", missing)
    server = ["server", written("recipe"), "--credentials", str(keys)]
    for words in (["keys", "new"], ["key", "north"], ["sign", "new"], server, ["site", written("site")]):
        assert error_of(capsys, "federate", *words).endswith('it is not installed: pip install "ark-hf[federated]".')
    monkeypatch.setattr(processes, "version", lambda name: "1.43.0")
    with pytest.raises(ValueError, match="version 1.43.0 is installed"):
        check_flower()


def test_a_port_that_is_taken_is_named(capsys, keys, written, monkeypatch):
    monkeypatch.setattr(deployment, "SECONDS_FOR_A_PORT", 0.1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = ["federate", "server", written("recipe"), "--credentials", str(keys), "--port", port]
        assert f"Cannot listen at 127.0.0.1, port {port}: Address already in use." in error_of(capsys, *words)


def test_the_app_that_travels_is_names_and_a_licence():
    app = deployment.build_app()
    assert app == deployment.build_app()  # it is signed
    with zipfile.ZipFile(io.BytesIO(app)) as archive:
        assert sorted(archive.namelist()) == [".info/CONTENT", "LICENSE", "pyproject.toml"]
        text = archive.read("pyproject.toml").decode()
    assert 'clientapp = "ark_hf.federated.flower_app:client"' in text and "config" not in text
    assert deployment.app_spec() == "@ark-hf/federation==1.0.0"


def test_a_server_without_a_signature_of_its_app_does_not_start(capsys, keys, written, tmp_path):
    folder = Path(shutil.copytree(keys, tmp_path / "copy"))
    (folder / "publisher").unlink()  # which it does not need
    words = ["server", written("recipe"), "--credentials", str(folder), "--port", "1"]
    assert read_signature(deployment.build_app(), folder)
    (folder / "signature.json").write_text(json.dumps({"sha256": "0"}))
    assert "is of another version of the app: sign this one" in error_of(capsys, "federate", *words)
    (folder / "signature.json").unlink()
    assert "should be the app's signature: No such file" in error_of(capsys, "federate", *words)


def test_the_hub_serves_the_app_and_its_signature_on_the_loopback_alone():
    signature = {"public_key_id": "a", "signed_at": 1, "signature": "b"}
    with deployment.hub(b"the app", signature) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/hub/fetch-fab", data=b"{}") as answer:
            told = json.loads(answer.read())
        assert told["verifications"] == [signature]
        with urllib.request.urlopen(told["fab_url"]) as answer:
            assert answer.read() == b"the app"


def test_flower_gets_none_of_our_settings_for_it_and_tells_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("FLWR_OIDC_ENABLED", "1")
    monkeypatch.setenv("no_proxy", "hospital.example.org")
    monkeypatch.delenv("NO_PROXY", raising=False)
    found = environment(tmp_path, FLWR_SUPERGRID_API_URL="http://127.0.0.1:1")
    assert {name: value for name, value in found.items() if name.startswith("FLWR_")} == {
        "FLWR_HOME": str(tmp_path),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPERGRID_API_URL": "http://127.0.0.1:1",
    }
    assert found["NO_PROXY"] == found["no_proxy"] == "hospital.example.org,127.0.0.1,localhost,::1"


def test_a_folder_for_flower_is_new_private_and_of_one_process(tmp_path):
    (tmp_path / "flower" / "apps").mkdir(parents=True)
    with flower_home(tmp_path) as home:
        assert not list(home.iterdir()) and home.stat().st_mode & 0o777 == 0o700
        code = "import sys; sys.argv = ['ark-hf']\nfrom ark_hf.federated.processes import *\n"
        code += f"with flower_home(Path({str(tmp_path)!r}), 0.1): pass"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "is in use: the same command is running already." in result.stderr


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(found) -> None:
    end = time.monotonic() + 20
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_stopping_ends_what_a_program_has_started(tmp_path):
    (tmp_path / "inner").write_text(f"trap '' TERM; sleep 100 & echo $! > {tmp_path}/pid; wait")
    program = start(["sh", "-c", f"sh {tmp_path}/inner & wait"], dict(os.environ), signal.SIGTERM)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip())
    pid = int((tmp_path / "pid").read_text())
    assert alive(pid)
    stop(program)
    wait_until(lambda: not alive(pid))
    assert program.returncode is not None


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children on Linux alone")
def test_no_child_outlives_us_even_if_we_are_killed():
    code = (
        "import os, signal, sys, time\nsys.argv = ['ark-hf']\nfrom ark_hf.federated.processes import start\n"
        "print(start(['sleep', '100'], dict(os.environ), signal.SIGTERM).pid, flush=True)\ntime.sleep(100)"
    )
    ours = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(ours.stdout.readline())
    assert alive(pid)
    ours.kill()
    ours.wait()
    wait_until(lambda: not alive(pid))


def test_an_app_that_waits_for_ever_ends_when_its_parent_is_gone():
    app = (
        "import os, sys, threading; sys.argv = ['ark-hf']\n"
        "from ark_hf.federated import processes\n"
        "sys.argv = ['bin/flwr-serverapp']\n"
        "processes.SECONDS_FOR_FLOWER = 0.3\n"
        "processes.end_with_parent()\nprint(os.getpid(), flush=True)\nthreading.Event().wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {app!r}])"],
        stdout=subprocess.PIPE,
        text=True,
    )
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    wait_until(lambda: not alive(pid))


@pytest.fixture
def site_of(written, monkeypatch, tmp_path):
    """Runs a site whose nodes are a script; what it did until it was ended."""

    def run(script: str, refusal: float = 100.0):
        args, _ = read_site(written("site"))
        monkeypatch.setattr(node, "_check_imports", lambda: None)
        monkeypatch.setattr(node, "SECONDS_BETWEEN", 0.05)
        monkeypatch.setattr(node, "SECONDS_OF_REFUSAL", refusal)
        monkeypatch.setattr(node, "start", lambda command, *rest, **more: start(["sh", "-c", script], *rest, **more))
        node.run_site(args, tmp_path / "site.yaml")

    return run


def test_a_node_that_ends_is_started_again_until_we_are_ended(site_of, tmp_path, capsys):
    script = f"echo life >> {tmp_path}/lives; [ $(wc -l < {tmp_path}/lives) -lt 3 ] || kill {os.getpid()}; sleep 0.1"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        site_of(script)
    assert ended.value.code == 128 + signal.SIGTERM and signal.getsignal(signal.SIGTERM) == before
    assert (tmp_path / "lives").read_text() == "life\n" * 3
    assert (tmp_path / "state" / "flower" / "node.toml").read_text() == f'site = "{tmp_path}/site.yaml"\n'


def test_a_key_that_stays_refused_ends_the_site_and_one_that_was_killed_does_not(site_of, tmp_path, capsys, keys):
    with pytest.raises(ValueError, match=f"localhost:8443 refuses the key {keys}/north: .* of site 'north'"):
        site_of("echo '[code: 2004] Failed to activate SuperNode.'", refusal=0.2)
    assert capsys.readouterr().err.count("The server refuses this site for now") == 1
    lives = f"echo life >> {tmp_path}/lives; n=$(wc -l < {tmp_path}/lives); [ $n -lt 5 ] || kill {os.getpid()}"
    words = "[ $((n % 2)) = 0 ] && echo 'SuperNode ID: 3' || echo 'Failed to activate SuperNode.'"
    with pytest.raises(SystemExit):
        site_of(f"{lives}; {words}; sleep 0.1", refusal=0)


def test_what_cannot_be_imported_at_a_site_is_told_there(monkeypatch):
    monkeypatch.setattr(node, "__package__", "nowhere")
    with pytest.raises(ValueError, match="What this site needs cannot be imported: ModuleNotFoundError"):
        node._check_imports()


def test_the_free_port_is_free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", free_port()))
