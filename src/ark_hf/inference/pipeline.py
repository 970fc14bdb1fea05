"""The pipeline "chest-xray-classification": transformers' image classification, for radiographs and several tasks."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import ImageClassificationPipeline

from .heatmaps import ExplainedPass
from .overlays import check_whole_picture
from .radiograph_pipeline import RadiographPipeline
from .task_labels import TaskLabel, labels_by_task
from .training_statistics import TrainingStatistics, read_training_statistics, write_training_statistics


class ChestXrayClassificationPipeline(RadiographPipeline, ImageClassificationPipeline):
    """
    Radiographs to the probabilities of every task, with the model's operating points and reasons to doubt a picture.

    ```python
    import ark_hf
    from transformers import pipeline

    pipe = pipeline("chest-xray-classification", model="ark-cxr")
    pipe("chest.dcm")["tasks"]["rsna"]  # [{"label": "pneumonia", "score": 0.91, "threshold": 0.42, "positive": True}]
    for result in pipe(paths, tasks=["rsna"], batch_size=16): ...
    ```

    It reads what [`read_input`] reads, where the stock pipeline opens files as 8-bit RGB; of the same grey values both
    make the same probabilities. `device`, `dtype`, `batch_size` and `num_workers` are those of every pipeline.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.model.config.problem_type == "regression":
            raise ValueError("This model is trained for regression: it gives no probabilities.")
        self.statistics: TrainingStatistics | None = None
        if hasattr(self.model, "drop_stale_thresholds"):
            self.model.drop_stale_thresholds()  # a model in memory may have been trained on since
            self.statistics = read_training_statistics(self.model, self.image_processor)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Args:
            inputs: One radiograph as [`read_input`] takes it, or several: a list, a folder (all image files below it,
                sorted), a `datasets.Dataset` with a column `image`, a generator, or transformers' `KeyDataset`.
            tasks (`list[str]`, *optional*):
                The tasks to answer; all of the model's, in its order, unless given.
            top_k (`int`, *optional*):
                How many labels of each task to return, the most probable ones; all unless given.
            heatmaps (`bool`, *optional*, defaults to `False`):
                Whether to return a heat map of every returned label, as [`ExplainedPass`] gives it. The image
                processor must show the whole picture, not crops.
            modality (`str`, *optional*):
                What the pictures were taken with, DICOM's code; unless given what a DICOM file, or the column
                `modality` of a dataset, says, and else the model's first one. Heads of others are not asked.
            batch_size (`int`, *optional*, defaults to 1):
                Pictures a forward pass. They may differ in size, and do not influence each other.

        Returns:
            For one radiograph a dictionary; for a list or a folder a list of them in order; for what need not fit into
            memory (dataset, generator) an iterator.

            - **image** (`str` or `None`) -- The path or address.
            - **warnings** (`list[str]`) -- Reasons to doubt the picture, such as that it is in colour, or unlike the
              model's training images, where [`calibrate`] has left statistics of these beside the weights.
            - **tasks** (`dict[str, list[dict]]`) -- By task, "classifier" for a model without named ones, the labels
              from the most probable to the least: `label`; `score`, a float in [0, 1], the head's own probability
              (several crops: their mean); `threshold`, the operating point saved with the model, or `None`;
              `positive`, whether the score reaches it, or `None`; and with `heatmaps` `heatmap`, float32 (h, w) in
              [0, 1] over the whole picture.

            Of a model of several modalities also **modality**, the picture's, and **not_asked**, the names of the
            tasks of other ones, which are not in **tasks**.

            One of several that cannot be read is a dictionary of **image** and **error**, the reason.

        Raises:
            UnreadableImageError: The only radiograph cannot be read.
            ValueError: There is no such task, or an option is out of range.
        """
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Saves model and image processor, and the statistics of training images where there are some."""
        super().save_pretrained(save_directory, **kwargs)
        if self.statistics is not None:
            write_training_statistics(Path(save_directory), self.statistics)

    def _sanitize_parameters(
        self,
        tasks: Sequence[str] | None = None,
        top_k: int | None = None,
        heatmaps: bool | None = None,
        modality: str | None = None,
    ) -> tuple[dict, dict, dict]:
        chosen: dict[str, Any] = {}
        if tasks is not None:
            known = list(labels_by_task(self.model.config))
            unknown = [name for name in tasks if name not in known]
            if isinstance(tasks, str) or not tasks or unknown:
                raise ValueError(f"`tasks` is a list of {known}, which this model has; got {tasks!r}.")
            chosen["tasks"] = list(tasks)
        if top_k is not None:
            if not isinstance(top_k, int) or top_k < 1:
                raise ValueError(f"`top_k` must be a whole number of at least 1, got {top_k!r}.")
            chosen["top_k"] = top_k
        if heatmaps is not None:
            if heatmaps:
                check_whole_picture(self.image_processor)
            chosen["heatmaps"] = heatmaps
        return (
            self.modality_options(modality),
            chosen,
            {name: value for name, value in chosen.items() if name != "heatmaps"},
        )

    def _forward(
        self,
        model_inputs: dict[str, Any],
        tasks: Sequence[str] | None = None,
        top_k: int | None = None,
        heatmaps: bool = False,
    ) -> dict[str, Any]:
        from .predict import crop_outputs, mean_probabilities  # half a second, which importing us need not

        pixel_values, config = model_inputs["pixel_values"], self.model.config
        if not heatmaps:
            logits, embeddings = crop_outputs(self.model, pixel_values)
            self._doubt(model_inputs["about"], embeddings)
            scores = mean_probabilities(logits.numpy(), config)
            return {"scores": scores, "about": model_inputs["about"]}
        explained = ExplainedPass(self.model, pixel_values)
        self._doubt(model_inputs["about"], explained.embeddings)
        scores = mean_probabilities(explained.logits.numpy(), config)
        columns = [
            [label.column for labels in self._most_probable(row, about, tasks, top_k).values() for label in labels]
            for row, about in zip(scores, _listed(model_inputs["about"]), strict=True)
        ]
        maps = explained.heat_maps(columns)
        # Pictures of a batch may have other labels, and go on as one array
        all_maps = np.zeros((len(scores), config.num_labels, *maps[0].shape[1:]), np.float32)
        for row, chosen in enumerate(columns):
            all_maps[row, chosen] = maps[row]
        return {"scores": scores, "about": model_inputs["about"], "heatmaps": all_maps}

    def _doubt(self, about: Any, embeddings: torch.Tensor) -> None:
        """Tells of each picture that is unlike the training images that it is so, among its warnings."""
        if self.statistics is None:
            return
        read = [each if "error" not in each else None for each in _listed(about)]
        modalities = [(each or {}).get("modality", self.image_processor.modality) for each in read]
        for each, reasons in zip(read, self.statistics.doubts(embeddings, modalities), strict=True):
            if each is not None:
                each["warnings"] += reasons

    def postprocess(
        self, model_outputs: dict[str, Any], tasks: Sequence[str] | None = None, top_k: int | None = None
    ) -> dict[str, Any]:
        about, scores = model_outputs["about"], model_outputs["scores"][0]
        if "error" in about:
            return about
        answers: dict[str, list[dict]] = {}
        for task, labels in self._most_probable(scores, about, tasks, top_k).items():
            answers[task] = []
            for label in labels:
                score = float(scores[label.column])
                positive = None if label.threshold is None else score >= label.threshold
                answer = {"label": label.name, "score": score, "threshold": label.threshold, "positive": positive}
                if "heatmaps" in model_outputs:
                    answer["heatmap"] = model_outputs["heatmaps"][0, label.column]
                answers[task].append(answer)
        return {**about, "tasks": answers}

    def _most_probable(
        self, scores: np.ndarray, about: dict[str, Any], tasks: Sequence[str] | None, top_k: int | None
    ) -> dict[str, list[TaskLabel]]:
        return {
            name: sorted(labels, key=lambda label: scores[label.column], reverse=True)[:top_k]
            for name, labels in labels_by_task(self.model.config, about.get("modality")).items()
            if tasks is None or name in tasks
        }


def _listed(about: Any) -> list[dict[str, Any]]:
    """What is known of the pictures of a batch: transformers makes a list of it where there may be several."""
    return about if isinstance(about, list) else [about]
