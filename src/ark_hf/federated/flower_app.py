"""
The federation as a Flower app: both ends of [`Ask`] as messages. Flower ships the names `client` and `server` alone.

A message has a record of JSON, and the weights as one array. What a site's faults are about stays in its process and
folder: Flower would send the text of any exception that it sees.
"""

import io
import json
import math
import os
import re
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from .processes import FEDERATION, SITE_PATH, end_with_parent

if TYPE_CHECKING:
    from .messages import Answer, Failure, Request
    from .vector import Vector

client = ClientApp()
server = ServerApp()

LOCK_FILE = ".lock"
PATIENCE = 60.0  # seconds for sites that are not there yet: a node that was killed is back by then
KIND = r"[A-Za-z_]\w{0,60}"  # the name of an exception
# By Flower's code, flwr.common.constant.ErrorCode
ERRORS = {
    1: "its app could not be loaded",
    2: "its app failed",
    4: "its answer was lost",
    5: "its node is gone",
    7: "it does not trust the app",
    8: "its client died",
}
EXPIRED = 3


@client.query()
@client.train()
def answer(message: Message, context: Context) -> Message:
    """A site's answer. All there is to say of a fault is on its own screen and in its `errors.log`."""
    end_with_parent()
    try:
        content = _answered(message, context)
    except Exception as error:
        traceback.print_exc()
        content = write_content({"failure": type(error).__name__})
    return Message(content, reply_to=message)


def _answered(message: Message, context: Context) -> RecordDict:
    from . import site  # an error of these imports is the site's, too
    from .messages import Failure
    from .recipe import read_site

    args, tasks = read_site(str(context.node_config[SITE_PATH]))
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    # A client whose node was killed may still be at work in this folder
    with FileLock(Path(args.output_dir, LOCK_FILE)):
        given = site.answer(args, tasks, _read_request(message))
    if isinstance(given, Failure):
        return write_content({"failure": given.reason})
    return write_content({"values": given.values}, given.vector)


def _read_request(message: Message) -> "Request":
    from .messages import Request

    told, vector = read_content(message.content)
    message.content = RecordDict()  # Flower keeps the message while the site trains
    return Request(told["kind"], told["values"], vector)


@server.main()
def run(grid: Grid, context: Context) -> None:
    """The server's rounds; what it shows and what came of it are files, of which `ark-hf federate server` tells."""
    end_with_parent()
    told = json.loads(Path(os.environ[FEDERATION]).read_text(encoding="utf-8"))
    result = Path(told["result"])
    with open(told["log"], "a", buffering=1, encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            _write(result, {"model": str(_federate(grid, told))})
        except ValueError as error:
            _write(result, {"reason": str(error)})
            raise
        except Exception as error:
            traceback.print_exc()
            _write(result, {"reason": f"{type(error).__name__}: {error}"})
            raise


def _federate(grid: Grid, told: dict[str, Any]) -> Path:
    from ..training.run import write_recipe
    from .recipe import FederatedArguments
    from .server import Federation

    args, names = FederatedArguments(**told["settings"]), told["sites"]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK_FILE, timeout=PATIENCE):  # a server that was killed lets go in a few seconds
            sites = GridSites(grid, names, len(names) if args.min_sites is None else args.min_sites, args.timeout)
            federation = Federation(args, names, sites)
            write_recipe(folder, told["recipe"])
            return federation.run()
    except Timeout:
        raise ValueError(f"{folder} is in use by another server.") from None


def _write(path: Path, result: dict[str, str]) -> None:
    from ..files import write_json

    write_json(path, result)


class GridSites:
    """
    Carries requests to sites as Flower's messages: see [`Ask`]. A site is who was registered under its name.

    Args:
        grid: Flower's way to the nodes.
        sites: Names of the sites.
        least: How many must be online for a request to be sent; for others it waits a minute.
        timeout: Seconds that it waits for these, and then for answers.
    """

    def __init__(self, grid: Grid, sites: Sequence[str], least: int, timeout: float):
        self.grid, self.sites, self.least, self.timeout = grid, list(sites), least, timeout

    def __call__(self, request: "Request") -> "Iterator[Answer | Failure]":
        from .messages import Failure

        nodes = self._online()
        yield from (Failure(name, "it is not online") for name in self.sites if name not in nodes)
        waiting = self._push(nodes, request)
        yield from (Failure(name, ERRORS[5]) for name in nodes if name not in waiting)
        end = time.monotonic() + self.timeout
        while waiting:
            for name, number in list(waiting.items()):
                given = self._pull(name, number)
                if given is not None:
                    del waiting[name]
                    yield given
            if waiting and time.monotonic() >= end:
                break
            time.sleep(min(1.0, self.timeout / 10) if waiting else 0)
        yield from (Failure(name, self._late()) for name in waiting)

    def _online(self) -> dict[str, int]:
        """The nodes of the sites that are online, once enough are."""
        began, told = time.monotonic(), False
        while True:
            found = [node for node in self.grid.get_nodes() if node.name in self.sites]
            twice = [name for name, count in Counter(node.name for node in found).items() if count > 1]
            if twice:
                raise ValueError(f"two nodes are registered as site {twice[0]!r}: somebody else has used this server.")
            nodes = {node.name: node.node_id for node in found}
            missing, waited = [name for name in self.sites if name not in nodes], time.monotonic() - began
            if not missing or (len(nodes) >= self.least and waited >= min(PATIENCE, self.timeout)):
                return nodes
            if len(nodes) < self.least and waited >= self.timeout:
                raise ValueError(
                    f"{len(nodes)} of {len(self.sites)} sites came online within {self.timeout:g} s, min_sites is "
                    f"{self.least} (missing: {', '.join(missing)}). What is trained is kept: the same command goes on."
                )
            if not told:
                print(f"Waiting for {', '.join(missing)}.")
                told = True
            time.sleep(min(1.0, self.timeout / 10))

    def _push(self, nodes: dict[str, int], request: "Request") -> dict[str, str]:
        """Sends the request; of each site that it was taken for the number of its message."""
        content = write_content({"kind": request.kind, "values": request.values}, request.vector)
        kind, group = "query" if request.vector is None else "train", str(request.values.get("round", 0))
        # With the records of one message: their bytes are kept and sent to the link once
        messages = [
            Message(RecordDict(dict(content)), node, kind, ttl=self.timeout, group_id=group) for node in nodes.values()
        ]
        numbers = list(self.grid.push_messages(messages))
        return {name: number for name, number in zip(nodes, numbers, strict=False) if number}

    def _pull(self, name: str, number: str) -> "Answer | Failure | None":
        """One message at a time: Flower unpacks all that it is asked for."""
        from .messages import Answer, Failure

        for reply in self.grid.pull_messages([number]):
            if reply.has_error():
                code = reply.error.code
                return Failure(name, self._late() if code == EXPIRED else ERRORS.get(code, f"Flower's code {code}"))
            try:
                told, vector = read_content(reply.content)
                if "failure" in told:
                    kind = told["failure"]
                    return Failure(name, kind if re.fullmatch(KIND, kind, re.ASCII) else "it failed")
                if not isinstance(told["values"], dict):
                    raise TypeError
                return Answer(name, told["values"], vector)
            except Exception:  # whatever a site may send
                return Failure(name, "its answer cannot be read")
        return None

    def _late(self) -> str:
        return f"late: no answer within {self.timeout:g} s"


def write_content(told: dict[str, Any], vector: "Vector | None" = None) -> RecordDict:
    """What a message holds."""
    text = ConfigRecord({"json": json.dumps(told)})
    if vector is None:
        return RecordDict({"told": text})
    text["table"] = vector.table
    return RecordDict({"told": text, "weights": ArrayRecord({"vector": Array(vector.values)})})


def read_content(content: RecordDict) -> "tuple[dict[str, Any], Vector | None]":
    """What [`write_content`] wrote; any exception if it is something else."""
    from .vector import Vector

    text = content.config_records["told"]
    told = json.loads(str(text["json"]))
    if not isinstance(told, dict):
        raise TypeError("no JSON object")
    if "weights" not in content:
        return told, None
    array = content.array_records["weights"]["vector"]
    _check_claim(array.data)
    return told, Vector(array.numpy(), str(text["table"]))


def _check_claim(data: bytes) -> None:
    """Raises an error if NumPy's header of an array claims another size: memory would be set aside for all of it."""
    import numpy as np

    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError("the array has another size than its header says")
