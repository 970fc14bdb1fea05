"""The figures in a run's folder are of what it measured and restored."""

import numpy as np
import PIL.Image
import pytest
import torch

from .conftest import trainer


@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_slices_that_are_drawn_are_axial(volumes, tmp_path, axes):
    run = trainer(tmp_path, volumes, axes=axes, reproduce=["batch_statistics"])
    cubes = torch.arange(2 * 16**3.0).reshape(2, 1, 16, 16, 16)
    expected = cubes[1, 0, 8] if axes == "zyx" else cubes[1, 0, :, :, 8].T
    assert torch.equal(run._slices(cubes)[1], expected)
    before = {key: value.clone() for key, value in run.model.named_buffers()}
    shown = run._restored()
    assert [each.shape for each in shown.values()] == [(4, 16, 16)] * 3
    assert not np.allclose(shown["what it sees"], shown["what was there"])
    assert all(torch.equal(before[key], value) for key, value in run.model.named_buffers())


def test_a_run_draws_its_losses_and_what_it_restores(volumes, tmp_path):
    run = trainer(tmp_path, volumes, epochs=1)
    run.train()
    for name in ("curves.png", "restored.png"):
        picture = np.asarray(PIL.Image.open(tmp_path / name).convert("L"))
        assert picture.min() < 50 and picture.max() == 255
