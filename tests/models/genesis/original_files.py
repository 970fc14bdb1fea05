"""Writes checkpoints in the layout of Models Genesis, from the specification alone (sections 10 and 11)."""

import torch

from tests.models.ark.golden import rule_state_dict

LEVELS = ("64", "128", "256", "512")  # what the keys call them, whatever the width


def shapes(width: int = 2, inputs: int = 1, slopes: int | None = None) -> dict[str, list[int]]:
    """Shapes of the parameters by their keys, of a U-Net with `slopes` numbers in each PReLU, or none."""
    found: dict[str, list[int]] = {}

    def unit(name: str, channels: int, outputs: int) -> None:
        found[f"{name}.conv1.weight"] = [outputs, channels, 3, 3, 3]
        found[f"{name}.conv1.bias"] = [outputs]
        found[f"{name}.bn1.weight"] = found[f"{name}.bn1.bias"] = [outputs]
        if slopes is not None:
            found[f"{name}.activation.weight"] = [outputs if slopes else 1]

    for number, level in enumerate(LEVELS):
        middle, outputs = width * 2**number, width * 2 ** (number + 1)
        unit(f"down_tr{level}.ops.0", middle if number else inputs, middle)
        unit(f"down_tr{level}.ops.1", middle, outputs)
    for number, level in reversed(list(enumerate(LEVELS[:-1]))):
        below, outputs = width * 2 ** (number + 2), width * 2 ** (number + 1)
        found[f"up_tr{level}.up_conv.weight"] = [below, below, 2, 2, 2]
        found[f"up_tr{level}.up_conv.bias"] = [below]
        unit(f"up_tr{level}.ops.0", below + outputs, outputs)
        unit(f"up_tr{level}.ops.1", outputs, outputs)
    found["out_tr.final_conv.weight"] = [inputs, 2 * width, 1, 1, 1]
    found["out_tr.final_conv.bias"] = [inputs]
    return found


def with_statistics(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Beside each batch norm its running statistics, as they are constructed."""
    found = dict(weights)
    for key, value in weights.items():
        if key.endswith("bn1.bias"):
            name = key.removesuffix("bias")
            found |= {
                f"{name}running_mean": torch.zeros_like(value),
                f"{name}running_var": torch.ones_like(value),
                f"{name}num_batches_tracked": torch.tensor(0),
            }
    return found


def genesis_state_dict(seed: int = 0, **kwargs) -> dict[str, torch.Tensor]:
    """A tiny U-Net under the original's keys, weights by rule."""
    return with_statistics(rule_state_dict(shapes(**kwargs), seed))


def training_checkpoint(weights: dict[str, torch.Tensor], prefix: str = "module.") -> dict:
    state = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 1.0, "params": [0]}]}
    return {
        "epoch": 7,
        "state_dict": {prefix + key: value for key, value in weights.items()},
        "optimizer_state_dict": state,
    }
