"""The card of a fine-tuned model, filled from the run's own numbers, and the model's way to the Hub."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCardData

from ..files import write_text
from ..hub_errors import HUB_ERRORS, explain
from .finetuning_report import best_seed, number, results_text

TAGS = ["ark", "chest-x-ray", "radiology"]


def push_run(results: Mapping[str, Any], model_folder: Path, repo_id: str) -> str:
    """
    Sends the model of one seed to the Hub with its card, in one commit; a new repository is private.

    Args:
        results: Of the run, see [`finetune.finetune`].
        model_folder: The ark-cxr of [`best_seed`]. The card is written into it.
        repo_id: `someone/name`, or `name` for the account's own.

    Returns:
        The repository's address.

    Raises:
        ValueError: The Hub refuses or cannot be reached; the run stays, and the same command tries again.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo_id, private=True, exist_ok=True)
        write_text(model_folder / "README.md", model_card(results, url.repo_id))
        api.upload_folder(repo_id=url.repo_id, folder_path=model_folder, commit_message="Fine-tuned Ark")
    except HUB_ERRORS as error:
        raise ValueError(
            f"Cannot push to {repo_id}: {explain(error)} The run is finished and kept: the same command tries again."
        ) from None
    return str(url)


def model_card(results: Mapping[str, Any], repo_id: str) -> str:
    """Markdown with a header that the Hub reads: task, labels, training data, settings, and what was measured."""
    task, chosen = results["task"], best_seed(results)
    kind = "several labels an image" if task["problem_type"] == "multi_label_classification" else "one class an image"
    changed = "\n".join(f"- `{name}`: {value}" for name, value in results["settings"].items() if value is not None)
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=TAGS,
        base_model=results["model"] if results["model"].count("/") == 1 else None,
        datasets=[results["dataset"]] if results["dataset"].count("/") == 1 else None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=_eval_results(results, chosen) or None,
    )
    return f"""---
{header.to_yaml()}
---

# Ark, fine-tuned on {results["dataset"]}

**Research use only. Not a medical device.** It was measured on one dataset: expect it to be worse elsewhere, and check
it on images of your own.

```python
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

classify = pipeline("image-classification", model="{repo_id}", trust_remote_code=True)
```

## Task

`{task["name"]}`: {kind}. Labels: {", ".join(task["labels"])}.

## Training

It started from `{results["model"]}` ({_start(chosen)}) and was trained on {chosen["train_images"]} images of
`{results["dataset"]}` for {chosen["steps"]} steps; the weights are those of step {chosen["best_step"]}, seed
{chosen["seed"]} of {len(results["seeds"])}, which has the best mean validation AUROC,
{number((chosen["validation"] or {}).get("mean_auroc"))}.

{changed}

## Results

{results_text(results).partition(chr(10))[2].strip()}
"""


def _start(chosen: Mapping[str, Any]) -> str:
    return "its head for this task went on" if chosen["head"] == "continued" else "with a fresh head"


def _eval_results(results: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[EvalResult]:
    """The mean test AUROC and that of each label, where they are defined."""
    if not chosen.get("test"):
        return []
    values = {"mean AUROC": chosen["test"]["mean"]["auroc"]}
    values |= {f"AUROC, {row['label']}": row["auroc"] for row in chosen["test"]["labels"]}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=results["dataset"],
            dataset_name=results["dataset"],
            dataset_split="test",
            metric_type="roc_auc",
            metric_name=name,
            metric_value=round(value, 4),
        )
        for name, value in values.items()
        if value is not None and not math.isnan(value)
    ]
