"""The four heads, the order of the cells, and the file that heads are kept in."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from ark_hf.training.peac.heads import HEADS_FILE, PeacHeads, load_heads, permute_cells, save_heads


def heads(seed=0, tokens=4, dims=(6, 5, 4)):
    torch.manual_seed(seed)
    return PeacHeads(8, tokens, 2, 3, dims, (3, 3, 3))


@given(st.integers(2, 4), st.integers(1, 3), st.randoms(use_true_random=False))
def test_each_place_receives_the_cell_that_the_permutation_names(side, cell, random):
    numbers = torch.arange(side * side)
    pictures = numbers.view(side, side).repeat_interleave(cell, 0).repeat_interleave(cell, 1)[None, None].float()
    order = numbers.tolist()
    random.shuffle(order)
    permutation = torch.tensor([order])
    moved = permute_cells(pictures, permutation, cell)
    assert moved[0, 0, ::cell, ::cell].flatten().tolist() == order
    assert torch.equal(permute_cells(moved, permutation.argsort(), cell), pictures)


def test_cells_are_restored_where_their_tokens_stand():
    ours = heads()
    tokens = torch.zeros(1, 4, 8)
    tokens[0, 2] = 1  # second row, first column
    lit = ours.restore(tokens) - ours.restore(torch.zeros(1, 4, 8))
    assert lit.shape == (1, 3, 4, 4) and lit[..., 2:, :2].abs().min() > 0
    assert lit[..., :2, :].abs().max() == 0 == lit[..., 2:, 2:].abs().max()


def test_saved_heads_are_read_again(tmp_path):
    save_heads(heads(), tmp_path)
    other = heads(seed=1)
    assert load_heads(other, tmp_path) == []
    for key, value in heads().state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_a_head_that_is_not_there_stays_and_is_named(tmp_path):
    save_heads(heads(), tmp_path)
    kept = {key: v for key, v in load_file(tmp_path / HEADS_FILE).items() if not key.startswith("local_projector.")}
    save_file(kept, tmp_path / HEADS_FILE)
    other = heads(seed=1)
    assert load_heads(other, tmp_path) == ["local_projector"]
    assert torch.equal(other.local_projector[0].weight, heads(seed=1).local_projector[0].weight)


def test_heads_of_other_widths_are_refused_by_name(tmp_path):
    save_heads(heads(), tmp_path)
    with pytest.raises(ValueError, match=re.escape("global_projector.0.weight (6, 8) instead of (7, 8)")) as caught:
        load_heads(heads(dims=(7, 5, 4)), tmp_path)
    assert str(tmp_path) in str(caught.value) and "Set global_projector_dims" in str(caught.value)
    with pytest.raises(ValueError, match="order.weight"):
        load_heads(heads(tokens=9), tmp_path)
    (tmp_path / HEADS_FILE).write_bytes(b"nothing")
    with pytest.raises(ValueError, match=HEADS_FILE):
        load_heads(heads(), tmp_path)
