"""
Memory of a training step, student and teacher, with and without checkpointing of the blocks.

Counted: a step in float32 with tensors that have shapes and no values (torch's FakeTensorMode, as on a CPU), so that
it needs neither the memory nor the time. Whatever an operation returns counts from then until nothing holds it, each
storage once. The peak of activations is what lives beside the weights and the gradients that are finished, at its
highest; scratch memory inside an operation is not seen. As in pretraining the student looks first, then the teacher,
without a graph, then comes the backward pass.

Measured: the same step with values, a process per way, at a batch that fits the machine; the peak of resident memory
above that of the two models. It has the gradients, too, and so has the counted figure beside it. glibc there gives
blocks that are freed back at once.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import psutil
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

BACKBONE = "swin_large_patch4_window12_384"
LABELS = 14
WAYS = ["plain", "checkpointed"]
GOAL = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default=BACKBONE, help=f"timm name ({BACKBONE})")
    parser.add_argument("--image_size", type=int, default=768, help="side of the pictures (768)")
    parser.add_argument("--batch_size", type=int, default=2, help="pictures of the counted step (2)")
    parser.add_argument("--measured_batch_size", type=int, default=1, help="pictures of the step with values (1)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "activation_memory.json")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return print(resident_gigabytes(args))
    table = [count(args, attention) for attention in ("as built", "sdpa")]
    print_counted(table)
    measured = compare(args)
    print_measured(measured)
    results = {
        "counted": table,
        "measured": measured,
        "goal": GOAL,
        "settings": {
            name: getattr(args, name) for name in ("backbone", "image_size", "batch_size", "measured_batch_size")
        },
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {"torch": torch.__version__},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"Written to {args.out}.")


class LiveBytes(TorchDispatchMode):
    """What operations have made and something still holds; `own` tensors and finished gradients do not count."""

    def __init__(self, own: Any):
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.now = self.peak = self.gradients = self.peak_with_gradients = 0
        for tensor in own:
            self.count(tensor, 0)

    def count(self, tensor: torch.Tensor, size: int | None = None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes() if size is None else size
            self.now += self.sizes[key]
            weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        self.now -= self.sizes.pop(key)

    def finished(self, parameter: torch.nn.Parameter) -> None:
        self.gradients += self.sizes[parameter.grad.untyped_storage()._cdata]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in tree_iter(made):
            if isinstance(tensor, torch.Tensor):
                self.count(tensor)
        self.peak = max(self.peak, self.now - self.gradients)
        self.peak_with_gradients = max(self.peak_with_gradients, self.now)
        return made


def create(args: argparse.Namespace, way: str, attention: str) -> list[Any]:
    """Student and teacher."""
    from ark_hf import ArkConfig, ArkForImageClassification

    config = ArkConfig(
        backbone=args.backbone, image_size=args.image_size, num_labels=LABELS, projector_dim=1376,
        problem_type="multi_label_classification", attn_implementation=None if attention == "as built" else attention,
    )  # fmt: skip
    student, teacher = ArkForImageClassification(config).train(), ArkForImageClassification(config).eval()
    if way == "checkpointed":
        student.activation_checkpointing_enable()
    return [student, teacher.requires_grad_(False)]


def step(student: Any, teacher: Any, batch_size: int) -> None:
    side = student.config.image_size
    pictures, labels = torch.randn(2, batch_size, 3, side, side), torch.rand(batch_size, LABELS)
    outputs = student(pictures[0], labels=labels)
    with torch.no_grad():
        target = teacher.ark(pictures[1]).embeddings
    (outputs.loss + F.mse_loss(outputs.embeddings, target)).backward()


def live_bytes(args: argparse.Namespace, way: str, attention: str, batch_size: int) -> LiveBytes:
    with torch.device("meta"):
        pair = create(args, way, attention)
    with FakeTensorMode():
        for model in pair:  # timm cannot build a model of tensors without values
            model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))
        own = [tensor for model in pair for tensor in (*model.parameters(), *model.buffers())]
        with LiveBytes(own) as live:
            for parameter in pair[0].parameters():
                parameter.register_post_accumulate_grad_hook(live.finished)
            step(*pair, batch_size)
    return live


def count(args: argparse.Namespace, attention: str) -> dict[str, Any]:
    peaks = {way: live_bytes(args, way, attention, args.batch_size).peak for way in WAYS}
    gigabytes = {f"{way}_gb": round(peak / 1e9, 3) for way, peak in peaks.items()}
    return {"attention": attention, **gigabytes, "ratio": round(peaks["checkpointed"] / peaks["plain"], 3)}


def compare(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Of a step with values the counted peak, and the measured one."""
    rows = []
    for way in WAYS:
        live = live_bytes(args, way, "as built", args.measured_batch_size)
        command = [sys.executable, __file__, "--measure", way]
        for name in ("backbone", "image_size", "measured_batch_size"):
            command += [f"--{name}", str(getattr(args, name))]
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        measured = round(float(process.stdout), 3)
        rows.append({"way": way, "counted_gb": round(live.peak_with_gradients / 1e9, 3), "measured_gb": measured})
    return rows


def resident_gigabytes(args: argparse.Namespace) -> float:
    """The peak of this process in a step, above what it has when the models are made."""
    pair = create(args, args.measure, "as built")
    before = psutil.Process().memory_info().rss
    step(*pair, args.measured_batch_size)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e9


def print_counted(table: list[dict[str, Any]]) -> None:
    print(f"{'peak of activations, GB':26}{'plain':>9}{'checkpointed':>14}{'ratio':>8}")
    for row in table:
        print(f"{row['attention']:26}{row['plain_gb']:9.2f}{row['checkpointed_gb']:14.2f}{row['ratio']:8.3f}")
    worst = max(row["ratio"] for row in table)
    print(f"Goal: at most {GOAL} of the plain step: {'met' if worst <= GOAL else 'missed'}")


def print_measured(rows: list[dict[str, Any]]) -> None:
    print(f"{'peak with gradients, GB':26}{'counted':>9}{'measured':>14}")
    for row in rows:
        print(f"{row['way']:26}{row['counted_gb']:9.2f}{row['measured_gb']:14.2f}")


if __name__ == "__main__":
    main()
