"""
Fine-tune Ark with nothing but transformers' own Trainer. All of Trainer's options are options of this script.

    python examples/finetune_trainer.py --model ark-cxr --dataset data/rsna --output_dir runs/rsna --num_train_epochs 9

On two cores, on what `ark-hf demo` left:

    python examples/finetune_trainer.py --model ark-cxr --dataset runs/demo/phantom/phantom_lake --output_dir runs/lake

`ark-hf finetune` does the same with layer-wise decay, several seeds, intervals and more.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torchvision.transforms import v2
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)

from ark_hf import auroc, load_task_dataset, one_vs_rest, read_task, resolve_labels


@dataclass
class Arguments:
    model: str = field(metadata={"help": "Folder or Hub id of an ark-cxr."})
    dataset: str = field(metadata={"help": "Folder or Hub id of a task dataset."})


def main():
    args, training = HfArgumentParser((Arguments, TrainingArguments)).parse_args_into_dataclasses()
    training.remove_unused_columns = False  # the images are made from columns that the model does not know
    if training.eval_strategy == "no":
        training.eval_strategy = "epoch"
    task = read_task(args.dataset)
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = AutoModelForImageClassification.from_pretrained(  # a fresh head for these labels
        args.model,
        id2label=dict(enumerate(task.labels)),
        label2id={label: number for number, label in enumerate(task.labels)},
        problem_type=task.problem_type,
    )
    crop = v2.RandomResizedCrop(model.config.image_size, scale=(0.5, 1.0))

    def samples(split, change=lambda image: image):
        def prepare(rows):
            pixels = processor([change(image) for image in rows["image"]], return_tensors="pt")["pixel_values"]
            # NaN and -100 mark what is not known; the model's loss leaves it out
            labels = [torch.from_numpy(resolve_labels(each, task)) for each in rows["labels"]]
            return {"pixel_values": list(pixels), "labels": labels}

        return load_task_dataset(args.dataset, split).with_transform(prepare)

    def mean_auroc(prediction):
        targets = prediction.label_ids
        if task.problem_type == "single_label_classification":
            targets = one_vs_rest(targets, len(task.labels))
        values = [auroc(*columns) for columns in zip(targets.T, prediction.predictions.T, strict=True)]
        return {"mean_auroc": float(np.nanmean(values))}

    trainer = Trainer(
        model,
        training,
        train_dataset=samples("train", crop),
        eval_dataset=samples("validation"),
        processing_class=processor,
        compute_metrics=mean_auroc,
    )
    trainer.train()
    trainer.save_model()  # an ordinary ark-cxr: weights, configuration, image processor
    trainer.save_metrics("test", trainer.evaluate(samples("test"), metric_key_prefix="test"))


if __name__ == "__main__":
    main()
