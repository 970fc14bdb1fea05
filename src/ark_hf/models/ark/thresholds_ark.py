"""Operating points hold for the weights that they were found on alone: by which digest these are known again."""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import cached_file, logging

from .tasks_ark import ArkTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Model
else:
    _Model = object  # a mixin: the model's own base class comes beside it

logger = logging.get_logger(__name__)

CALIBRATION_FILE = "calibration.json"  # what a calibration did, beside the model that it gave


def weights_digests(weights: Mapping[str, torch.Tensor], config: Any) -> dict[str, str]:
    """
    Of each task with thresholds a sha256 over all that its probabilities come from.

    That is the encoder, the projector and the task's own head: names, shapes and values as float32; and what the
    config's `view` says. So it does not change with other heads, with the files that weights are stored in, nor by
    storing them in a wider type. 800 MB take less than a second on two cores.

    Args:
        weights: State dict of the classifier, on any device but "meta".
        config: Of the same model.
    """
    names = [task.name for task in config.tasks or [] if task.thresholds]
    if not names:
        return {}
    encoder = f"{config.model_type}."
    wanted = (encoder, *(f"heads.{name}." for name in names))
    chosen = sorted(key for key in weights if key.startswith(wanted))
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        lines = dict(zip(chosen, pool.map(lambda key: _line(key, weights[key]), chosen), strict=True))
    digests = {}
    for name in names:
        own = [line for key, line in lines.items() if key.startswith((encoder, f"heads.{name}."))]
        digests[name] = hashlib.sha256("\n".join([config.view, *own]).encode()).hexdigest()
    return digests


def _line(name: str, tensor: torch.Tensor) -> str:
    values = tensor.detach().to("cpu", torch.float32).reshape(-1).numpy()
    return f"{name} {tuple(tensor.shape)} {hashlib.sha256(values).hexdigest()}"


def _has_no_values(weights: Mapping[str, torch.Tensor]) -> bool:
    return any(tensor.is_meta for tensor in weights.values())


def _recorded_thresholds(name_or_path: Any, kwargs: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the last calibration found, by task, of models that were written before thresholds had digests."""
    names = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    path = name_or_path and cached_file(
        name_or_path,
        CALIBRATION_FILE,
        **{name: kwargs[name] for name in names if kwargs.get(name) is not None},
        **{f"_raise_exceptions_for_{what}": value for what, value in quiet.items()},
    )
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8")) if path else []
        return {entry["task"]: entry["thresholds"] for entry in entries}
    except (ValueError, KeyError, TypeError):  # of another kind: it shows nothing
        return {}


class BoundThresholdsMixin(_Model):
    """What loading, saving, training and casting do to the operating points of a classifier with named heads."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if not model._calibrated():
            return loaded
        stale = model._stale_thresholds()
        moved = {"dtype", "torch_dtype", "device_map", "quantization_config"} & set(kwargs)
        if stale and moved and pretrained_model_name_or_path is not None:  # other values, of perhaps the same weights
            plain = {name: value for name, value in kwargs.items() if name not in moved | {"output_loading_info"}}
            stale = super().from_pretrained(pretrained_model_name_or_path, *args, **plain)._stale_thresholds()
        unbound = [task for task in model._calibrated() if task.thresholds_digest is None]
        recorded = _recorded_thresholds(pretrained_model_name_or_path, kwargs) if unbound else {}
        kept = {task.name for task in unbound if task.thresholds == recorded.get(task.name)}
        model._forget_thresholds([name for name in stale if name not in kept])
        model._replace_tasks({name: {"thresholds_dtype": "float32"} for name in kept})  # calibrations knew no other
        if kept or moved:
            model._renew_digests(model._calibrated())
        model._warn_of_dtype()
        return loaded

    def save_pretrained(self, save_directory, is_main_process: bool = True, state_dict=None, **kwargs):
        """As of any model of transformers. Operating points that were found on other weights are dropped, aloud."""
        if is_main_process:
            self.drop_stale_thresholds(state_dict)
        super().save_pretrained(save_directory, is_main_process=is_main_process, state_dict=state_dict, **kwargs)

    def train(self, mode: bool = True):
        if mode:
            self.bind_thresholds()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        calibrated = self._calibrated() if hasattr(self, "heads") else []
        changes_dtype = calibrated and fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype != self.dtype
        if not changes_dtype:
            return super()._apply(fn, recurse)
        self.drop_stale_thresholds()
        super()._apply(fn, recurse)
        self._renew_digests(self._calibrated())
        self._warn_of_dtype()
        return self

    def bind_thresholds(self) -> None:
        """
        Binds operating points that are bound to nothing yet to the weights as they are, and to their type.

        Once these change, by training, merging or another size of the input, the operating points are dropped by
        [`drop_stale_thresholds`]. Keeping or adding heads, storing in other files, and
        casting keep them.
        """
        self._renew_digests([task for task in self._calibrated() if task.thresholds_digest is None])

    def drop_stale_thresholds(self, state_dict: dict[str, torch.Tensor] | None = None) -> list[str]:
        """
        Drops the operating points that were found on other weights than the present ones, and says so.

        Saving does so, and what reads operating points of a model in memory.

        Args:
            state_dict: The weights, where the model itself does not hold all of them.

        Returns:
            The names of the tasks that lost theirs.
        """
        if state_dict is None:
            self.bind_thresholds()
        stale = self._stale_thresholds(state_dict)
        self._forget_thresholds(stale)
        return stale

    def _calibrated(self) -> list[ArkTask]:
        return [task for task in self.config.tasks or [] if task.thresholds]

    def _stale_thresholds(self, state_dict: dict[str, torch.Tensor] | None = None) -> list[str]:
        if not self._calibrated():
            return []
        weights = self.state_dict() if state_dict is None else state_dict
        if _has_no_values(weights):
            return [task.name for task in self._calibrated()]
        digests = weights_digests(weights, self.config)
        return [task.name for task in self._calibrated() if task.thresholds_digest != digests[task.name]]

    def _forget_thresholds(self, names: list[str]) -> None:
        if not names:
            return
        logger.warning(
            f"The operating points of {', '.join(map(repr, names))} are dropped: nothing shows that they were found "
            "on these weights. Calibrate the model anew (ark-hf evaluate MODEL DATASET --calibrate NEW_FOLDER)."
        )
        self._replace_tasks({name: {"thresholds": None} for name in names})

    def _renew_digests(self, tasks: list[ArkTask]) -> None:
        if not tasks or _has_no_values(self.state_dict()):
            return
        digests = weights_digests(self.state_dict(), self.config)
        dtype = str(self.dtype).removeprefix("torch.")
        changes = {
            task.name: {
                "thresholds_digest": digests[task.name],
                "thresholds_dtype": task.thresholds_dtype or dtype,
            }
            for task in tasks
        }
        self._replace_tasks(changes)

    def _replace_tasks(self, changes: dict[str, dict[str, Any]]) -> None:
        # Set as a whole: the config checks its tasks when they are set, and not when one of them changes
        self.config.tasks = [replace(task, **changes.get(task.name, {})) for task in (self.config.tasks or [])]

    def _warn_of_dtype(self) -> None:
        dtype = str(self.dtype).removeprefix("torch.")
        others = {task.name: task.thresholds_dtype for task in self._calibrated() if task.thresholds_dtype != dtype}
        if others:
            logger.warning(
                f"The operating points of {', '.join(map(repr, others))} were found in {next(iter(others.values()))}, "
                f"and the model now computes in {dtype}: images close to them may be called otherwise."
            )
