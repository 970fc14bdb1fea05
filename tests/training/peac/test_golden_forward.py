"""The network of PEAC gives what the original gives, from a file in the original layout."""

import numpy as np
import pytest
import torch

from ark_hf.models.ark.convert_ark_checkpoint import convert_checkpoint
from ark_hf.training.peac.heads import PeacHeads, PeacModel, permute_cells
from tests.models.ark.golden import read_case, rule_state_dict
from tests.models.ark.original_files import with_prefix

from .golden import normalise

ATOL = 1e-5


def dims(text):
    return [int(part) for part in text.split("-")]


def assert_near(actual, expected):
    torch.testing.assert_close(actual, torch.from_numpy(expected), rtol=0, atol=ATOL)


def assert_statistics(actual, expected):
    """Sum, sum of absolute values and L2 norm, relative to the second."""
    value = actual.double()
    statistics = torch.stack([value.sum(), value.abs().sum(), value.norm()])
    torch.testing.assert_close(statistics, torch.from_numpy(expected), rtol=0, atol=1e-6 * expected[1])


@pytest.mark.slow_ci
def test_outputs_after_conversion_equal_the_originals(shared, tmp_path):
    case, arrays = read_case(shared / "golden" / "peac", "forward_small")
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    assert sum(np.prod(shape) for shape in shapes.values()) == case["n_parameters"]
    teacher = with_prefix(rule_state_dict(shapes, case["weight_seed"]), "module.")
    torch.save({"student": {}, "teacher": teacher, "optimizer": {}, "epoch": 1}, tmp_path / "peac.pth")
    conversion = convert_checkpoint(tmp_path / "peac.pth")
    assert conversion.model.config.image_size == 448  # as the heads say, since the file has no attention masks
    heads = PeacHeads(1024, 196, 32, 3, dims(case["mlp"]), dims(case["mlp_local"]))
    heads.load_state_dict(conversion.heads)
    model = PeacModel(conversion.model, heads).eval()

    pictures = normalise(torch.from_numpy(arrays["image_u8"]))
    permutation = torch.from_numpy(arrays["perm"]).long()
    moved = permute_cells(pictures, permutation, heads.cell)
    assert_near(moved[:, :, ::16, ::16], arrays["permuted_input_strided"])
    seen = []
    heads.order.register_forward_pre_hook(lambda head, tokens: seen.append(tokens[0]))
    with torch.no_grad():
        output = model(pictures, pictures, permutation)
    assert_near(seen[0][:, :, ::16], arrays["tokens_strided"])
    assert_statistics(seen[0], arrays["tokens_stats"])
    assert_near(output.order_logits.flatten(0, 1), arrays["order_logits"])
    assert_near(output.restored[:, :, ::8, ::8], arrays["restored_strided"])
    assert_near(output.first.whole, arrays["global_embedding"])
    assert_near(output.first.cells, arrays["local_embedding"])
    assert_statistics(output.restored, arrays["restored_stats"])
    in_order, shuffled = (output.first.whole - output.second.whole).abs().amax(dim=1)
    assert permutation[0].tolist() == list(range(196)) and in_order < ATOL < shuffled
