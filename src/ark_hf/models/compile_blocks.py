"""Compiling a model block by block, in place: equal blocks share their code, so that it starts sooner."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

BACKEND = "inductor"
# Blocks of a Swin are of eight kinds by shape and mask, and in training each differs by its stochastic depth; passes
# without gradients have code of their own. Dynamo allows 8 kinds unless told.
MOST_KINDS = 256


def compile_blocks(model: Any) -> None:
    """
    Has torch compile each block of an encoder, in place: classes, names of weights and what is saved stay as they are.

    Blocks are the modules whose class, or a class that it derives from, is named in the model's `_no_split_modules`.
    They are compiled in their first forward pass, each as one graph, for any batch size (inductor may have some of a
    single picture compiled anew). Copies of the model are not compiled. Results change by rounding, and from the same
    seed stochastic depth draws otherwise. In threads that run such a model dynamo's limit of recompilations is raised,
    and size 1 is compiled as any other.

    Args:
        model: An Ark or a Genesis, on the device and in the type in which it will compute.

    Raises:
        ValueError: The encoder has no such blocks, or torch cannot compile on this machine: it needs a C++ compiler
            and on a GPU Triton.
    """
    blocks = list(_blocks(model))
    if not blocks:
        raise ValueError(
            f"The encoder {getattr(model.config, 'backbone', type(model).__name__)!r} has no blocks that are compiled "
            f"one by one ({', '.join(model._no_split_modules)}); go without compiling."
        )
    _try_compiling(model.device)
    for block in blocks:
        block.compile(backend=BACKEND, fullgraph=True)
        # nn.Module.compile has no say in which sizes may change, and whole-model settings would free them all
        block._compiled_call_impl = _for_any_batch(block._compiled_call_impl)


def is_compiled(model: nn.Module) -> bool:
    """Whether blocks of it are compiled."""
    return any(module._compiled_call_impl is not None for module in model.modules())


@contextmanager
def hooks_noticed(model: nn.Module, part: nn.Module) -> Iterator[None]:
    """Runs the blocks uncompiled if `part` lies in one: compiled code does not notice hooks that it gets later."""
    compiled = {m: m._compiled_call_impl for m in model.modules() if m._compiled_call_impl is not None}
    if not any(part is each for module in compiled for each in module.modules()):
        yield
        return
    for module in compiled:
        module._compiled_call_impl = None
    try:
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _blocks(model: Any) -> Iterator[Any]:
    names = set(model._no_split_modules)
    for module in model.modules():
        if names & {each.__name__ for each in type(module).__mro__}:
            yield module


def _for_any_batch(compiled: Callable) -> Callable:
    import torch._dynamo as dynamo  # a second of import time that only compiling needs
    from torch.fx.experimental import _config as shapes

    def call(features: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        # Each thread has settings of its own
        if dynamo.config.recompile_limit < MOST_KINDS or not shapes.backed_size_oblivious:
            dynamo.config.recompile_limit, shapes.backed_size_oblivious = MOST_KINDS, True
        dynamo.maybe_mark_dynamic(features, 0)
        dynamo.mark_static(features, list(range(1, features.ndim)))
        return compiled(features, *args, **kwargs)

    return call


def _try_compiling(device: torch.device) -> None:
    """Raises `ValueError` if torch cannot compile for the device; it would be found in the midst of a run."""
    if BACKEND != "inductor":
        return
    try:
        torch.compile(lambda numbers: numbers + 1, backend=BACKEND)(torch.ones(3, device=device))
    except Exception as error:  # of a compiler, of its headers, of Triton: they share no class
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ValueError(
            f"torch cannot compile on this machine: {reason}. It needs a C++ compiler with Python's headers (on "
            "Debian and Ubuntu: apt install g++ python3-dev), and on a GPU Triton; or go without compiling."
        ) from None
