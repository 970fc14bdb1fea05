"""A site as a process: Flower's SuperNode, kept alive, which runs only an app that a key of `trusted` has signed."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..signals import ended_by_signals
from .credentials import check_certificate, check_site_key, check_trusted
from .processes import SITE_PATH, environment, flower_home, free_port, start, stop
from .recipe import LINK_FIELDS, SiteArguments

REFUSED, ACCEPTED = "Failed to activate SuperNode", "SuperNode ID:"  # Flower's exit status is 1 for all that is wrong
SECONDS_BETWEEN = 5.0
# After the last sign of a node that was killed Flower takes its key for that of a second one, for a minute
SECONDS_OF_REFUSAL = 120.0


def check_link(args: SiteArguments, path: str) -> None:
    """Raises `ValueError` if a site's file lacks what joins it to a server, or a file that it names is no such."""
    for name in LINK_FIELDS:
        if getattr(args, name) is None:
            raise ValueError(f"{path} lacks `{name}`, which a site needs to join a server.")
    host, _, port = str(args.link).rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError(f"{path}: link must be host:port, such as ark.example.org:8443, got {args.link!r}.")
    check_certificate(Path(str(args.certificate)))
    check_site_key(Path(str(args.key)))
    check_trusted(Path(str(args.trusted)))


def run_site(args: SiteArguments, path: Path) -> None:
    """
    Answers a server until this process is ended. A node that ends is started again.

    Args:
        path: The site's file, which its processes read.

    Raises:
        ValueError: What an answer needs cannot be imported here, the folder is in use, or the server refuses the key.
    """
    _check_imports()
    refused_since = None
    with flower_home(Path(args.output_dir)) as home, ended_by_signals():
        (home / "node.toml").write_text(f"{SITE_PATH} = {json.dumps(str(path.resolve()), ensure_ascii=False)}\n")
        while True:
            seen = _run_node(args, home)
            if REFUSED not in seen or ACCEPTED in seen:
                refused_since = None
            elif refused_since is None:
                refused_since = time.monotonic()
                print(
                    "The server refuses this site for now: it knows no such key, or still waits for a node of this "
                    "site that was killed, for a minute.",
                    file=sys.stderr,
                )
            elif time.monotonic() - refused_since > SECONDS_OF_REFUSAL:
                raise ValueError(
                    f"{args.link} refuses the key {args.key}: {args.key}.pub must be the `key` of site {args.name!r} "
                    "in the server's recipe, and no other process may use it."
                )
            time.sleep(SECONDS_BETWEEN)


def _run_node(args: SiteArguments, home: Path) -> set[str]:
    """One life of a node; which of Flower's words it printed."""
    command = [
        *("flower-supernode", "--superlink", str(args.link), "--root-certificates", str(args.certificate)),
        *("--auth-supernode-private-key", str(args.key), "--trusted-entities", str(args.trusted)),
        *("--node-config", str(home / "node.toml"), "--host", "127.0.0.1", "--port", str(free_port())),
    ]
    # By SIGTERM it takes leave of the server, which then lets the next one in at once
    quiet = environment(home, TQDM_DISABLE="1")  # bars of training would hide what is to be read
    node = start(command, quiet, signal.SIGTERM, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=home)
    seen: set[str] = set()
    reader = threading.Thread(target=_show, args=(node, seen), daemon=True)
    reader.start()
    try:
        node.wait()
    finally:
        stop(node)  # and with it a client that is still at work: it could not deliver its answer
        reader.join(SECONDS_BETWEEN)
    return seen


def _show(node: subprocess.Popen, seen: set[str]) -> None:
    assert node.stdout is not None
    for line in node.stdout:
        text = line.decode(errors="replace")
        seen.update(words for words in (REFUSED, ACCEPTED) if words in text)
        sys.stderr.write(text)
        sys.stderr.flush()


def _check_imports() -> None:
    """In a process that ends: Flower would send the text of such an error to the server."""
    found = subprocess.run([sys.executable, "-c", f"import {__package__}.flower_app"], capture_output=True, text=True)
    if found.returncode:
        said = found.stderr.strip().splitlines() or [f"exit status {found.returncode}"]
        raise ValueError(f"What this site needs cannot be imported: {said[-1]}")
