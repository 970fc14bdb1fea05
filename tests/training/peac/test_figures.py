"""The figures in a run's folder are of what it measured and restored."""

import numpy as np
import PIL.Image

from ark_hf.training.restored import RESTORED_FILE

from .conftest import trainer


def test_a_run_draws_its_losses_and_what_it_restores(images, tmp_path):
    run = trainer(tmp_path, images, epochs=1)
    seen, restored, there = run._restored()
    assert seen.shape == restored.shape == there.shape == (4, 3, 32, 32)
    assert not np.allclose(seen, there) and np.isfinite(restored).all()
    run.train()
    for name in ("curves.png", RESTORED_FILE):
        picture = np.asarray(PIL.Image.open(tmp_path / name).convert("L"))
        assert picture.min() < 50 and picture.max() == 255
