"""Training parity: the trainer's own steps on recorded cubes give the original's losses and weights."""

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Nifti

from ark_hf import GenesisConfig, GenesisForPreTraining, GenesisImageProcessor, Volume
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.data.volumes.nifti import encode_nifti
from ark_hf.models.genesis.convert_genesis_checkpoint import convert_genesis_state_dict
from ark_hf.training.genesis.arguments import GenesisArguments
from ark_hf.training.genesis.pretrainer import GenesisPretrainer
from ark_hf.training.genesis.start import Start

from ...models.ark.golden import read_case, rule_state_dict

SIZE = (32, 32, 16)


class RecordedPretrainer(GenesisPretrainer):
    """The trainer, fed with recorded batches and writing down what it does."""

    def __init__(self, *args, batches, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorded, self.losses = batches, []

    def train_batches(self, first_step):
        for batch in self.recorded[first_step:]:
            yield [batch]

    def log_step(self, loss):
        self.losses.append(loss)

    def _finish_epoch(self, started):
        self.state.cycle = self.args.epochs


def batch(arrays, step):
    deformed, cubes = (torch.from_numpy(arrays[f"train_{name}{step}"]) for name in "xy")
    return {"pixel_values": deformed, "labels": cubes, "weight": torch.ones(len(cubes))}


@pytest.mark.slow_ci  # seven seconds
def test_three_steps_of_the_original(shared, tmp_path):
    case, arrays = read_case(shared / "golden" / "genesis", "unet3d_relu_train")
    training = case["train"]
    model = GenesisForPreTraining(GenesisConfig(axes="xyz", cube_size=SIZE, batch_statistics=True))
    shapes = {key: shape for key, shape, *_ in case["state_dict"] if key in case["parameter_order"]}
    weights = convert_genesis_state_dict(rule_state_dict(shapes, case["weight_seed"]))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("running" in key or "tracked" in key for key in missing)
    args = GenesisArguments(
        str(tmp_path),
        epochs=1,
        batch_size=2,
        cubes_per_volume=1,
        learning_rate=training["lr"],
        reproduce=["batch_statistics", "lr_halved_by_epoch"],
    )
    assert training["momentum"] == 0.9
    cell = {"bytes": encode_nifti(Volume(np.zeros(SIZE, np.int16), np.eye(4))), "path": None}
    rows = Dataset.from_dict({"volume": [cell] * 6}, features=Features({"volume": Nifti()}))  # three steps an epoch
    data = TaskDataset("recorded", Unlabelled("recorded", "CT"), {"train": rows})
    start = Start(model, GenesisImageProcessor.from_config(model.config))
    steps = [batch(arrays, step) for step in range(len(training["losses"]))]
    trainer = RecordedPretrainer(args, [data], start, batches=steps)
    assert trainer.schedules.steps_in_epoch == len(steps)
    trainer.run.begin({})
    for batches in trainer.train_batches(0):
        trainer._step(batches)

    np.testing.assert_allclose(trainer.losses, training["losses"], rtol=0, atol=1e-5)
    ours = trainer.model.state_dict()
    for key, (total, absolute, norm) in convert_genesis_state_dict(training["final_param_stats"]).items():
        values = ours[key].double()
        found = [values.sum().item(), values.abs().sum().item(), values.norm().item()]
        np.testing.assert_allclose(found, [total, absolute, norm], rtol=0, atol=1e-6 * absolute, err_msg=key)
