"""
The process that reads hostile inputs: it answers lines of `READER SEED` by lines of JSON, and lives within limits.

Run by `tests.fuzz`; what a case does to it, the parent sees.
"""

import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

SECONDS = 20  # of computing, for one case
MEMORY = 3 * 2**30  # of addresses, beyond what the libraries take


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; nothing of it may look like an answer
    warnings.simplefilter("ignore")
    from tests.fuzz.judging import judge
    from tests.fuzz.readers import READERS

    root = Path(tempfile.mkdtemp(prefix="ark_hf_fuzz_"))
    try:
        for make in READERS.values():  # what a reader imports and prepares is not the case's
            _in_new_folder(root, partial(judge, make, "warm up"))
        addresses = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (addresses + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**28, resource.RLIM_INFINITY))
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            reader, seed = line.split(" ", 1)
            used = resource.getrusage(resource.RUSAGE_SELF)
            limit = int(used.ru_utime + used.ru_stime) + SECONDS + 1
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            read = partial(judge, READERS[reader], seed.rstrip("\n"))
            outcome = _in_new_folder(root, read)
            print(json.dumps(outcome.to_dict()), file=answers, flush=True)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _in_new_folder(root, work):
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        return work(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    faulthandler.enable()
    main()
