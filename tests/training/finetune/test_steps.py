"""A step is of `batch_size` images, however it is cut."""

import pytest

from ark_hf import FinetuningArguments
from ark_hf.training.finetune.data import load_finetuning_data
from ark_hf.training.finetune.run import initial_model
from ark_hf.training.finetune.trainer import create_trainer

from ..conftest import TINY

SHAPE = {key: TINY[key] for key in ("backbone", "backbone_kwargs", "image_size", "projector_dim")}


def trainer_of(site, folder, **settings):
    args = FinetuningArguments(output_dir=str(folder), **SHAPE, **settings)
    data = load_finetuning_data(str(site), args)
    model, processor = initial_model("none", data.task, args, 0)
    return create_trainer(model, processor, data, args, 0, folder)


def test_accumulation_cuts_the_images_of_a_step(sites, tmp_path, monkeypatch):
    trainer = trainer_of(sites["phantom_hill"], tmp_path, batch_size=8, gradient_accumulation_steps=2, max_steps=2)
    taken, steps = [], []
    train_step, optimizer_step = trainer.training_step, trainer.optimizer.step

    def counted(model, inputs, *rest):
        taken.append(len(inputs["pixel_values"]))
        return train_step(model, inputs, *rest)

    def noted(*rest):
        steps.append(sum(taken))
        return optimizer_step(*rest)

    monkeypatch.setattr(trainer, "training_step", counted)
    monkeypatch.setattr(trainer.optimizer, "step", noted)
    trainer.train()
    assert set(taken) == {4} and steps == [8, 16]


@pytest.mark.parametrize(
    ("batch_size", "parts", "near"),
    [(8, 3, "use 6 or 9"), (2, 4, "use 4")],
)
def test_a_step_that_cannot_be_cut_is_refused_with_numbers(sites, tmp_path, batch_size, parts, near):
    match = f"batch_size {batch_size} cannot be cut into {parts} equal parts, .*: {near}"
    with pytest.raises(ValueError, match=match):
        trainer_of(sites["phantom_hill"], tmp_path, batch_size=batch_size, gradient_accumulation_steps=parts)
