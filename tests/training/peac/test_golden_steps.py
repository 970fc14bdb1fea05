"""Training parity: the trainer's own steps on recorded batches give the original's losses and weights."""

import numpy as np
import pytest
import torch

from ark_hf import ArkImageProcessor
from ark_hf.data.open_dataset import TaskDataset
from ark_hf.data.unlabelled import Unlabelled
from ark_hf.training.peac.arguments import PeacArguments
from ark_hf.training.peac.pretrainer import PeacPretrainer
from ark_hf.training.peac.samples import matched_cells
from ark_hf.training.peac.start import Start

from ...models.ark.golden import read_case
from .golden import build, normalise, our_key


class Recorded(TaskDataset):
    """Whose rows are numbers of recorded batches, and have no content."""

    def digest(self) -> str:
        return "recorded"


class RecordedPretrainer(PeacPretrainer):
    """The trainer, fed with recorded batches and writing down what it does."""

    def __init__(self, *args, batches, **kwargs):
        super().__init__(*args, **kwargs)
        self.recorded, self.steps = batches, []
        self.run.tell_outcome = lambda notes: None  # of epochs that are not measured

    def train_batches(self, first_step):
        for batch in self.recorded[first_step:]:
            yield [batch]

    def log_step(self, losses, momentum):
        self.steps.append([*losses.values(), momentum])

    def _finish_epoch(self, started):
        self.state.cycle = self.args.epochs

    def _provenance(self):  # of no epoch that was measured
        return {}


def batch(arrays, number):
    pictures = normalise(torch.from_numpy(arrays[f"image_u8_{number}"]))
    target, second = pictures.chunk(2)
    shuffled = torch.from_numpy(arrays[f"shuffle_{number}"]).bool()
    stand_in = (target * 0.8 + 0.1).clamp(-3, 3)  # for the distortion
    permutation = torch.from_numpy(arrays[f"randperm_{number}"]).long()
    matches = [torch.from_numpy(arrays[f"mask{crop}_{number}"]).bool() for crop in (1, 2)]
    weight = torch.ones(len(target))
    return {
        "first": torch.where(shuffled[:, None, None, None], target, stand_in),
        "target": target,
        "second": second,
        "permutation": permutation,
        "shuffled": shuffled,
        "weight": weight,
    } | matched_cells(*matches, shuffled, weight)


@pytest.mark.slow_ci
def test_two_steps_of_the_original_trainer(shared, tmp_path):
    case, arrays = read_case(shared / "golden" / "peac", "train_steps")
    model = build(case, list(case["student_stats"]))
    args = PeacArguments(
        output_dir=str(tmp_path),
        epochs=4,
        batch_size=4,
        learning_rate=case["lr"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        ema_momentum=0.9,
        drop_path_rate=0.0,
        reproduce=["ema_index_from_epoch_1"],
    )
    data = Recorded("recorded", Unlabelled("recorded"), {"train": range(8)})  # two steps an epoch
    start = Start(model, ArkImageProcessor(size={"height": 448, "width": 448}))
    trainer = RecordedPretrainer(args, [data], start, batches=[batch(arrays, number) for number in range(2)])
    teacher = trainer.train()

    steps = np.array(trainer.steps)
    np.testing.assert_allclose(steps[:, :5], case["losses"], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(steps[:, 5], case["momentum_used"], rtol=0, atol=1e-12)
    for name, network in {"student": trainer.student, "teacher": teacher}.items():
        ours = network.state_dict()
        for key, (total, absolute, norm) in case[f"{name}_stats"].items():
            values = ours[our_key(key)].double()
            found = [values.sum().item(), values.abs().sum().item(), values.norm().item()]
            scale = [absolute, absolute, norm]  # sums cancel, so that of |.| is theirs
            assert np.all(np.abs(np.subtract(found, [total, absolute, norm])) <= 1e-5 * np.array(scale)), (name, key)
