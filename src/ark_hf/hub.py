"""Models as folders that the Hub understands: weights, configuration, image processor, code and a card."""

from pathlib import Path

import yaml

from .files import replace_folder
from .models.ark.configuration_ark import ArkConfig
from .models.ark.convert_ark_checkpoint import Conversion
from .models.ark.modeling_ark import ArkForImageClassification


def save_conversion(conversion: Conversion, output_dir: Path) -> None:
    """
    Writes a converted model with its processor and a first card, the folder whole or not at all.

    Raises:
        ValueError: `output_dir` exists and is not empty.
    """
    check_new_folder(output_dir)

    def write(folder: Path) -> None:
        conversion.model.save_pretrained(folder)
        conversion.processor.save_pretrained(folder)
        (folder / "README.md").write_text(_converted_card(conversion), encoding="utf-8")

    replace_folder(output_dir, write)


def check_new_folder(output_dir: Path) -> None:
    """Raises `ValueError` if the folder cannot be made without losing something."""
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not empty; delete it or choose another --out.")


def _converted_card(conversion: Conversion) -> str:
    config = conversion.model.config
    classifies = isinstance(conversion.model, ArkForImageClassification)
    header = {
        "library_name": "transformers",
        "pipeline_tag": "image-classification" if classifies else "image-feature-extraction",
        "license": "other",
        "license_name": "as-of-the-original-checkpoint",
        "tags": ["ark", "chest-x-ray", "radiology"],
    }
    auto_class = "AutoModelForImageClassification" if classifies else "AutoModel"
    return f"""---
{yaml.safe_dump(header, sort_keys=False)}---

# {"Ark" if classifies else "Encoder for Ark"}, converted from `{conversion.source}`

**Research use only. Not a medical device.** The weights are the original authors' and stay under their licence; that
of the Ark releases is non-commercial, and the method is the subject of patent applications.

```python
from transformers import AutoImageProcessor, {auto_class}

model = {auto_class}.from_pretrained("path/to/this/folder", trust_remote_code=True)
processor = AutoImageProcessor.from_pretrained("path/to/this/folder", trust_remote_code=True)
```

The input is the whole radiograph, resized to {config.image_size} x {config.image_size} pixels.

## Where it comes from

```
{conversion.summary()}
```

{_label_section(config)}
## What is not known

The file says nothing about its training data, its test results, or the groups of patients that it fails on. Measure
them on data of your own before you rely on a score.
"""


def _label_section(config: ArkConfig) -> str:
    if config.tasks is None:
        return ""
    lines = ["## Labels", "", "| task | kind | labels |", "|---|---|---|"]
    for task in config.tasks:
        kind = "several labels an image" if task.problem_type == "multi_label_classification" else "one class an image"
        lines.append(f"| {task.name} | {kind} | {', '.join(task.labels)} |")
    return "\n".join(lines) + "\n"
