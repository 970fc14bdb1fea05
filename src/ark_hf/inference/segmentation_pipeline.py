"""The pipeline "chest-xray-segmentation": every mask of a radiograph, and what is measured on them."""

import math
from typing import Any

from transformers import ImageSegmentationPipeline

from .masks import check_segments
from .measurements import measure
from .overlays import check_whole_picture
from .radiograph_pipeline import RadiographPipeline


class ChestXraySegmentationPipeline(RadiographPipeline, ImageSegmentationPipeline):
    """
    Radiographs to the masks of all labels, also where these overlap, and to what is measured on them.

    ```python
    import ark_hf
    from transformers import pipeline

    pipe = pipeline("chest-xray-segmentation", model="organs")
    pipe("chest.dcm")["masks"]["heart"]  # {"mask": array(...), "score": 0.97, "pixels": 310442, "mm2": 7264.3}
    for result in pipe(paths, batch_size=16): ...
    ```

    It reads what [`read_input`] reads, and takes the arguments of every pipeline, as "chest-xray-classification" does.

    Raises:
        ValueError: The model has no named task, or the image processor cuts crops out of pictures.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_segments(self.model.config, self.model.name_or_path or type(self.model).__name__)
        check_whole_picture(self.image_processor, "Masks")

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Args:
            inputs: One radiograph or several, as in [`ChestXrayClassificationPipeline`].
            modality (`str`, *optional*):
                As there: it is needed where a DICOM header says another one than the model's.
            batch_size (`int`, *optional*, defaults to 1):
                Pictures a forward pass. They may differ in size, and do not influence each other.

        Returns:
            For one radiograph a dictionary; for a list or a folder a list of them in order; for what need not fit into
            memory (dataset, generator) an iterator.

            - **image** (`str` or `None`) -- The path or address.
            - **warnings** (`list[str]`) -- Reasons to doubt the picture, such as that it is in colour.
            - **masks** (`dict[str, dict]`) -- By label, in the task's order: `mask`, bool (height, width) of the
              picture; `score`, the mean probability within it, `None` if it is empty; its area in `pixels`, and in
              `mm2`, `None` where the file does not say how large its pixels are.
            - **cardiothoracic_ratio** (`float` or `None`) -- See [`cardiothoracic_ratio`]; `None` where the heart or a
              lung is absent, or the task has no such labels.

            One of several that cannot be read is a dictionary of **image** and **error**, the reason.

        Raises:
            UnreadableImageError: The only radiograph cannot be read.
        """
        return super().__call__(inputs, **kwargs)

    def _sanitize_parameters(self, modality: str | None = None) -> tuple[dict, dict, dict]:
        return self.modality_options(modality), {}, {}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        return {**model_inputs, "logits": self.model(model_inputs["pixel_values"]).logits}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, Any]:
        about, task = model_outputs["about"], self.model.config.segmentation
        if "error" in about:
            return about
        masks, measured = measure(model_outputs["logits"][0], task, **model_outputs["geometry"])
        ratio = measured.cardiothoracic_ratio
        return {
            **about,
            "masks": {
                label: {
                    "mask": masks[number],
                    "score": measured.scores[number] if measured.pixels[number] else None,
                    "pixels": measured.pixels[number],
                    "mm2": measured.mm2 and measured.mm2[number],
                }
                for number, label in enumerate(task.labels)
            },
            "cardiothoracic_ratio": None if ratio is None or math.isnan(ratio) else ratio,
        }
