"""
Fine-tune Ark in a loop of one's own with accelerate: `accelerate launch` runs it on several devices.

    python examples/finetune_accelerate.py ark-cxr data/rsna runs/rsna --epochs 10

On two cores, on what `ark-hf demo` left:

    python examples/finetune_accelerate.py ark-cxr runs/demo/phantom/phantom_lake runs/lake --epochs 2
"""

import argparse

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification, get_cosine_schedule_with_warmup

from ark_hf import auroc, load_task_dataset, one_vs_rest, read_task, resolve_labels


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("model", help="folder or Hub id of an ark-cxr")
    parser.add_argument("dataset", help="folder or Hub id of a task dataset")
    parser.add_argument("output_dir", help="where the fine-tuned model goes")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    args = parser.parse_args()

    accelerator = Accelerator()
    set_seed(0)
    task = read_task(args.dataset)
    processor = AutoImageProcessor.from_pretrained(args.model)
    model = AutoModelForImageClassification.from_pretrained(  # a fresh head for these labels
        args.model,
        id2label=dict(enumerate(task.labels)),
        label2id={label: number for number, label in enumerate(task.labels)},
        problem_type=task.problem_type,
    )
    crop = v2.RandomResizedCrop(model.config.image_size, scale=(0.5, 1.0))

    def loader(split, change=lambda image: image, shuffle=False):
        def collate(rows):
            batch = processor([change(row["image"]) for row in rows], return_tensors="pt")
            # NaN and -100 mark what is not known; the model's loss leaves it out
            batch["labels"] = torch.from_numpy(np.stack([resolve_labels(row["labels"], task) for row in rows]))
            return batch

        rows = load_task_dataset(args.dataset, split)
        return DataLoader(rows, args.batch_size, shuffle=shuffle, collate_fn=collate)

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.05)
    model, optimizer, train, validation = accelerator.prepare(
        model, optimizer, loader("train", crop, shuffle=True), loader("validation")
    )
    steps = args.epochs * len(train)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    for epoch in range(args.epochs):
        model.train()
        losses = []
        for batch in tqdm(train, desc=f"epoch {epoch + 1}", disable=not accelerator.is_main_process, leave=False):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        auroc_now = mean_auroc(model, validation, task, accelerator)
        accelerator.print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}, validation AUROC {auroc_now:.4f}")

    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.output_dir)
        processor.save_pretrained(args.output_dir)


@torch.no_grad()
def mean_auroc(model, batches, task, accelerator):
    model.eval()
    scores, targets = [], []
    for batch in batches:
        labels = batch.pop("labels")
        logits, labels = accelerator.gather_for_metrics((model(**batch).logits, labels))
        scores.append(logits.cpu().numpy())
        targets.append(labels.cpu().numpy())
    scores, targets = np.concatenate(scores), np.concatenate(targets)
    if targets.ndim == 1:
        targets = one_vs_rest(targets, len(task.labels))
    return float(np.nanmean([auroc(*columns) for columns in zip(targets.T, scores.T, strict=True)]))


if __name__ == "__main__":
    main()
