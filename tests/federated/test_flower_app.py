"""Both ends of Flower's messages in one process: what travels, what must not, and what becomes of every fault."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr")

import yaml
from filelock import FileLock
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from ark_hf.federated import flower_app, simulation, site
from ark_hf.federated.flower_app import GridSites, client, read_content, server, write_content
from ark_hf.federated.messages import Answer, Failure, Request
from ark_hf.federated.server import Federation
from ark_hf.federated.vector import Vector, pack
from tests.federated.conftest import NAMES

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def travel(message: Message) -> tuple[Message, bytes]:
    """A message as the other end unpacks it, and every byte that goes over the line."""
    objects = {name: each.deflate() for name, each in get_all_nested_objects(message).items()}
    head = message_to_proto(message).SerializeToString()
    unpacked = inflate_object_from_contents(message.object_id, dict(objects))
    unpacked.metadata.__dict__["_message_id"] = message.object_id
    return unpacked, head + b"".join(objects.values())


class Nodes(Grid):
    """
    Flower's grid of sites in this process: a message is answered when it is asked for.

    Args:
        sites: Of each what answers its messages: the path of a site.yaml, for the real client; a function; or None,
            for a site that never does.
    """

    def __init__(self, sites: dict):
        self.sites = dict(enumerate(sites.items(), start=1))
        self.online = set(sites)
        self.messages, self.pulled, self.bytes = {}, [], b""

    run = None

    def set_run(self, run): ...

    def create_message(self, *args, **settings): ...

    def send_and_receive(self, messages, *, timeout=None): ...

    def get_node_ids(self):
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self):
        return [SimpleNamespace(node_id=number, name=name) for number, (name, _) in self.sites.items()]

    def push_messages(self, messages):
        names = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            received, sent = travel(message)
            self.messages[message.object_id], self.bytes = received, self.bytes + sent
            names.append(message.object_id)
        return names

    def pull_messages(self, message_ids):
        (name,) = message_ids
        self.pulled.append(name)
        _, answers = self.sites[self.messages[name].metadata.dst_node_id]
        if answers is None:
            return []
        message = self.messages[name]
        reply = answers(message) if callable(answers) else client(message, context(answers))
        if reply.has_error():
            return [reply]
        received, sent = travel(reply)
        self.bytes += sent
        return [received]


def context(path) -> Context:
    return Context(run_id=1, node_id=1, node_config={"site": str(path)}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def process_of_an_app(monkeypatch):
    """Flower makes messages only in a process that it has started."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(flower_app, "PATIENCE", 0.05)


@pytest.fixture
def files(places, tmp_path) -> dict:
    """The site.yaml of each site."""
    paths = {}
    for name, (args, tasks) in places.items():
        values = {"name": name, "output_dir": args.output_dir, "publish_heads": True, "share_metrics": True}
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump({**values, "tasks": [{"dataset": tasks[0].dataset}]}))
    return paths


def ask(sites: dict, request=None, least=1, timeout=0.2) -> list:
    return list(GridSites(Nodes(sites), list(sites), least, timeout)(request or Request("introduce")))


def telling(told: dict, vector=None):
    return lambda message: Message(write_content(told, vector), reply_to=message)


def holding(content: RecordDict):
    return lambda message: Message(content, reply_to=message)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(), JSON),
    st.none() | st.lists(st.floats(width=32), max_size=20),
    st.sampled_from(["query", "train"]),
)
def test_what_is_sent_is_what_arrives(values, numbers, kind):
    vector = None if numbers is None else Vector(np.array(numbers, dtype=np.float32), json.dumps([["a", [1]]]))
    received, _ = travel(Message(write_content({"values": values}, vector), 1, kind))
    told, unpacked = read_content(received.content)
    assert told == {"values": values}
    assert (unpacked is None) == (vector is None)
    if vector is not None:
        assert unpacked.table == vector.table and unpacked.values.dtype == np.float32
        assert unpacked.values.tobytes() == vector.values.tobytes() and unpacked.values.flags.writeable


@pytest.mark.slow_ci
def test_a_federation_over_messages_is_the_simulation_to_the_bit(arguments, files, places, tmp_path, monkeypatch):
    args = arguments(rounds=1)
    log, result, told = (tmp_path / name for name in ("log", "result.json", "told.json"))
    recipe = {"rounds": 1}
    told.write_text(
        json.dumps(
            {
                "settings": {name: value for name, value in args.to_dict().items() if name != "cycles"},
                "sites": list(files),
                "recipe": recipe,
                "log": str(log),
                "result": str(result),
            }
        )
    )
    monkeypatch.setenv("ARK_HF_FEDERATION", str(told))
    grid = Nodes(files)
    server(grid, context(""))
    assert json.loads(result.read_text()) == {"model": f"{args.output_dir}/ark-cxr"}
    assert "round 1/1: north loss" in log.read_text()
    assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text()) == recipe
    assert len(grid.pulled) == len(set(grid.pulled)) == 2 * 3  # introduce, a round, finish

    here = arguments(rounds=1, output_dir=str(tmp_path / "here"))
    for args, _ in places.values():
        args.output_dir += "-here"
    simulated = Federation(here, list(places), simulation.LocalSites(places, at_once=1)).run()
    weights = [path / "model.safetensors" for path in (simulated, tmp_path / "run" / "ark-cxr")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_why_the_server_stops_is_kept_for_who_started_it(arguments, tmp_path, monkeypatch):
    told, result = tmp_path / "told.json", tmp_path / "result.json"
    fields = {name: value for name, value in arguments(timeout=0.1).to_dict().items() if name != "cycles"}
    values = {"settings": fields, "sites": ["north", "south"], "recipe": {}, "log": str(tmp_path / "log")}
    told.write_text(json.dumps({**values, "result": str(result)}))
    monkeypatch.setenv("ARK_HF_FEDERATION", str(told))
    with pytest.raises(ValueError, match="1 of 2 sites came online within 0.1 s, min_sites is 2 .missing: south"):
        server(Nodes({"north": None}), context(""))
    assert "(missing: south)" in json.loads(result.read_text())["reason"]
    (tmp_path / "run" / "recipe.yaml").unlink()
    told.write_text(json.dumps({**values, "settings": {**fields, "init": "/nowhere.pth"}, "result": str(result)}))
    with pytest.raises(ValueError, match="nowhere"):
        server(Nodes({"north": None, "south": None}), context(""))
    assert "nowhere" in json.loads(result.read_text())["reason"]
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_nothing_of_a_site_or_of_the_server_is_in_the_bytes(arguments, files, places, tmp_path):
    args = arguments(rounds=1)
    for path in files.values():  # what the sites do not want to leave stays, whatever the server asks
        path.write_text(path.read_text().replace("true", "false"))
    grid = Nodes(files)
    federation = Federation(args, list(files), GridSites(grid, list(files), 2, 60))
    federation.run()
    assert len(grid.bytes) > 4 * federation.master.vector.nbytes
    labels = [
        label for _, tasks in places.values() for label in simulation.load_tasks(tasks, ".", False)[0].task.labels
    ]
    datasets = [tasks[0].dataset for _, tasks in places.values()]
    for secret in [str(tmp_path), *datasets, *NAMES, *NAMES.values(), *labels]:
        assert secret.encode() not in grid.bytes, secret
    assert b"task_loss" in grid.bytes and b"running_mean" in grid.bytes


@pytest.mark.parametrize(
    "where", ["ark_hf.federated.site.load_tasks", "ark_hf.federated.recipe.read_site", "filelock.FileLock.acquire"]
)
def test_the_text_of_an_exception_stays_at_the_site(files, capsys, monkeypatch, where):
    def planted(*args, **settings):
        raise RuntimeError("planted secret /data/patients/1234")

    monkeypatch.setattr(where, planted)
    grid = Nodes(files)
    found = list(GridSites(grid, list(files), 2, 1)(Request("introduce", {"publish_heads": False})))
    assert found == [Failure("north", "RuntimeError"), Failure("south", "RuntimeError")]
    assert b"planted" not in grid.bytes and b"patients" not in grid.bytes
    logs = "".join(path.read_text() for path in files["north"].parent.rglob("errors.log"))
    assert "planted secret" in logs + capsys.readouterr().err


def test_an_import_that_fails_is_told_by_its_kind(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "ark_hf.federated.site", None)
    monkeypatch.delattr("ark_hf.federated.site")
    assert ask(files) == [Failure("north", "ModuleNotFoundError"), Failure("south", "ModuleNotFoundError")]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"told": ConfigRecord({"json": "{"})}),
        RecordDict({"told": ConfigRecord({"json": "[]"})}),
        RecordDict({"told": ConfigRecord({"json": '{"kind": "introduce"}'})}),
        RecordDict({"told": ConfigRecord({"json": '{"kind": "introduce", "values": 3}'})}),
        RecordDict({"told": ConfigRecord({"json": '{"kind": "../../x", "values": {}}'})}),
        RecordDict({"told": ConfigRecord({"json": '{"kind": "train", "values": {}}'}), "weights": ArrayRecord()}),
    ],
)
def test_a_malformed_request_is_a_fault_of_a_kind(files, content):
    reply = client(Message(content, 1, "train"), context(files["north"]))
    told, vector = read_content(reply.content)
    assert set(told) == {"failure"} and told["failure"].endswith("Error") and vector is None


def test_weights_arrive_at_the_site_and_are_not_kept_in_the_message(files, monkeypatch):
    seen = []
    monkeypatch.setattr(site, "answer", lambda args, tasks, request: seen.append(request) or Answer(args.name))
    vector = pack({"a": torch.arange(3.0)})
    sent, _ = travel(Message(write_content({"kind": "train", "values": {"round": 2}}, vector), 1, "train"))
    reply = client(sent, context(files["north"]))
    (request,) = seen
    assert (request.kind, request.values, request.vector.sha256()) == ("train", {"round": 2}, vector.sha256())
    assert not sent.content and read_content(reply.content) == ({"values": {}}, None)


@pytest.mark.parametrize(
    "code, reason",
    [
        (1, "its app could not be loaded"),
        (2, "its app failed"),
        (3, "late: no answer within 0.2 s"),
        (4, "its answer was lost"),
        (5, "its node is gone"),
        (7, "it does not trust the app"),
        (8, "its client died"),
        (99, "Flower's code 99"),
    ],
)
def test_flowers_errors_become_kinds_without_their_text(code, reason):
    def fails(message):
        return Message(Error(code, "planted secret"), reply_to=message)

    good = telling({"values": {"task_loss": 1.0}})
    assert ask({"north": fails, "south": good}) == [Failure("north", reason), Answer("south", {"task_loss": 1.0})]


NOT_FLOAT = Array(np.array([1, 2]))
NOT_NUMPY = Array(dtype="float32", shape=(2,), stype="pickle", data=b"cos\nsystem\n")


@pytest.mark.parametrize("shape", ["(1099511627776,)", "(2, 2)", "(0,)"])
def test_an_array_that_claims_another_size_is_not_set_aside(shape, monkeypatch):
    head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\0" + len(head).to_bytes(2, "little") + head.encode() + bytes(12)
    array = Array(dtype="float32", shape=(3,), stype="numpy.ndarray", data=content)
    told = write_content({"values": {}}, Vector(np.zeros(3, np.float32), "[]"))
    monkeypatch.setattr(Array, "numpy", lambda self: pytest.fail("it was read"))
    with pytest.raises(ValueError, match="another size than its header says"):
        read_content(RecordDict({**told, "weights": ArrayRecord({"vector": array})}))


@pytest.mark.parametrize(
    "reply, reason",
    [
        (telling({"failure": "ValueError"}), "ValueError"),
        (telling({"failure": "planted /secret\ntext"}), "it failed"),
        (telling({"failure": "a" * 100}), "it failed"),
        (telling({"failure": 3}), "its answer cannot be read"),
        (telling({"values": []}), "its answer cannot be read"),
        (telling({}), "its answer cannot be read"),
        (holding(RecordDict()), "its answer cannot be read"),
        (holding(RecordDict({"told": ConfigRecord({"json": "[" * 100000})})), "its answer cannot be read"),
        (
            holding(RecordDict({**write_content({"values": {}}), "weights": ArrayRecord({"vector": NOT_NUMPY})})),
            "its answer cannot be read",
        ),
        (
            holding(RecordDict({**write_content({"values": {}}), "weights": ArrayRecord({"other": NOT_FLOAT})})),
            "its answer cannot be read",
        ),
    ],
)
def test_whatever_a_site_sends_is_a_fault_of_that_site(reply, reason):
    assert ask({"north": reply, "south": telling({"values": {}})}) == [Failure("north", reason), Answer("south")]


def test_a_site_is_who_was_registered_whatever_it_says():
    assert ask({"north": telling({"values": {"site": "south"}, "site": "south"})}) == [
        Answer("north", {"site": "south"})
    ]


def test_a_late_site_and_one_that_is_not_there_are_named():
    grid = Nodes({"north": telling({"values": {}}), "south": None})
    found = list(GridSites(grid, ["east", "north", "south"], 1, 0.2)(Request("introduce")))
    assert found == [
        Failure("east", "it is not online"),
        Answer("north"),
        Failure("south", "late: no answer within 0.2 s"),
    ]


def test_a_message_that_flower_does_not_take_is_a_node_that_is_gone(monkeypatch):
    usual = Nodes.push_messages
    monkeypatch.setattr(Nodes, "push_messages", lambda self, messages: ["", *usual(self, messages)[1:]])
    good = telling({"values": {}})
    assert ask({"north": good, "south": good}) == [Failure("north", "its node is gone"), Answer("south")]


def test_two_nodes_of_one_name_end_the_run():
    grid = Nodes({"north": None, "south": None})
    grid.sites[3] = ("north", None)
    with pytest.raises(ValueError, match="two nodes are registered as site 'north'"):
        list(GridSites(grid, ["north", "south"], 1, 1)(Request("introduce")))


def test_a_message_is_void_when_the_round_is_over():
    grid = Nodes({"north": None})
    list(GridSites(grid, ["north"], 1, 0.1)(Request("introduce", {"round": 7})))
    (message,) = grid.messages.values()
    assert (
        message.metadata.ttl == 0.1 and message.metadata.group_id == "7" and message.metadata.message_type == "query"
    )


def test_a_second_client_waits_for_the_first(files, monkeypatch):
    held = FileLock(files["north"].parent / "sites" / "north" / ".lock")

    def check(args, tasks, request):
        with pytest.raises(TimeoutError):
            FileLock(held.lock_file, timeout=0.01).acquire()
        return Answer(args.name)

    monkeypatch.setattr(site, "answer", check)
    assert ask({"north": files["north"]}) == [Answer("north")]
    held.acquire(timeout=1)
    held.release()
