"""Parity with the original U-Net: outputs, features of every level, running statistics and three training steps."""

import functools

import numpy as np
import pytest
import torch

from ark_hf.models.genesis.convert_genesis_checkpoint import convert_genesis_state_dict, convert_loaded_genesis
from ark_hf.models.genesis.modeling_genesis import GenesisForPreTraining
from tests.models.ark.golden import read_case, rule_state_dict

from .original_files import training_checkpoint, with_statistics

ENCODER = ("down_tr64", "down_tr128", "down_tr256", "down_tr512")


@pytest.fixture(scope="module")
def golden(shared):
    """A case, and a model converted from what the file of its weights would hold."""

    @functools.cache
    def read(name: str) -> tuple[dict, dict, dict]:
        case, arrays = read_case(shared / "golden" / "genesis", name)
        shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
        weights = with_statistics(rule_state_dict(shapes, case["weight_seed"]))
        assert set(weights) == {key for key, *_ in case["state_dict"]}
        return case, arrays, training_checkpoint(weights)

    return read


def statistics(values: torch.Tensor) -> list[float]:
    values = values.detach().double()
    return [values.sum().item(), values.abs().sum().item(), values.norm().item()]


def assert_statistics(found: torch.Tensor, expected: list[float], rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(statistics(found), expected, rtol=0, atol=rtol * expected[1])


def features(model: GenesisForPreTraining, pixel_values: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The restored cubes; and of each level what it gives and what it hands on, then what the decoder's give."""
    decoded: list[torch.Tensor] = []
    hooks = [level.register_forward_hook(lambda *call: decoded.append(call[2])) for level in model.decoder.levels]
    with torch.no_grad():
        outputs = model(pixel_values, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    *upper, bottom = outputs.hidden_states
    pairs = [(torch.nn.functional.max_pool3d(each, 2), each) for each in upper]
    return outputs.reconstruction, [*(each for pair in pairs for each in pair), bottom, bottom, *decoded]


def buffers(model: GenesisForPreTraining) -> dict[str, torch.Tensor]:
    """Running statistics by the original's keys."""
    names = {f"genesis.encoder.levels.{number}": name for number, name in enumerate(ENCODER)}
    names |= {f"decoder.levels.{number}": f"up_tr{level}" for number, level in enumerate((256, 128, 64))}
    found = {}
    for key, value in model.named_buffers():
        level, unit, _, buffer = key.rsplit(".", 3)
        found[f"{names[level]}.ops.{unit}.bn1.{buffer}"] = value
    return found


def assert_buffers(model: GenesisForPreTraining, expected: dict) -> None:
    found = buffers(model)
    tracked = [key for key in found if key.endswith("num_batches_tracked")]
    assert set(expected) == set(found) - set(tracked)
    for key, values in expected.items():
        assert_statistics(found[key], values)
    assert not any(found[key] for key in tracked)


def check_outputs(case: dict, arrays: dict, checkpoint: dict) -> None:
    model = convert_loaded_genesis(checkpoint, "golden.pt").model
    assert sum(parameter.numel() for parameter in model.parameters()) == case["n_parameters"]
    pixel_values = torch.from_numpy(arrays["input"])
    restored, found = features(model.train(), pixel_values)
    np.testing.assert_allclose(restored, arrays["out_train_mode"], rtol=0, atol=1e-5)
    for each, expected in zip(found, arrays["skip_stats"], strict=True):
        assert_statistics(each, expected)
    assert_buffers(model, case["running_stats_after_train_forward"])
    with torch.no_grad():
        again = model.eval()(pixel_values).reconstruction
    assert torch.equal(again, restored)  # of the original's batch norm eval mode is train mode
    assert_buffers(model, case["running_stats_after_second_eval_forward"])


def test_outputs_equal_the_originals(golden):
    check_outputs(*golden("unet3d_relu_train"))


@pytest.mark.slow_ci  # twice four seconds for the size that the original was trained on
def test_outputs_of_published_cubes_equal_the_originals(golden):
    check_outputs(*golden("unet3d_relu_64x64x32"))


@pytest.mark.slow_ci  # seven seconds
def test_training_steps_equal_the_originals(golden):
    case, arrays, checkpoint = golden("unet3d_relu_train")
    model, training = convert_loaded_genesis(checkpoint, "golden.pt").model.train(), case["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=training["lr"], momentum=training["momentum"])
    losses = []
    for step in range(len(training["losses"])):
        deformed, cubes = (torch.from_numpy(arrays[f"train_{name}{step}"]) for name in "xy")
        loss = model(deformed, labels=cubes).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, training["losses"], rtol=0, atol=1e-5)
    expected = convert_genesis_state_dict(training["final_param_stats"])
    assert set(expected) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert_statistics(parameter, expected[name])
