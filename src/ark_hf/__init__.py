"""
Ark, an open foundation model for chest radiographs, as a Hugging Face-native package.

All names in `__all__` are public; each is loaded when it is first used. Modules of the package are not.
"""

import importlib
import multiprocessing
import os
import sys
from typing import TYPE_CHECKING, Any

# Where each public name is: a module, and after a colon what it is called there, if that is something else
_EXPORTS = {
    "ArkConfig": ".models.ark.configuration_ark",
    "ArkTask": ".models.ark.configuration_ark",
    "SegmentationTask": ".models.ark.configuration_ark",
    "ArkForImageClassification": ".models.ark.modeling_ark",
    "ArkModel": ".models.ark.modeling_ark",
    "ArkForSemanticSegmentation": ".models.ark.modeling_ark_segmentation",
    "segmentation_loss": ".models.ark.masks_ark",
    "ArkImageProcessor": ".models.ark.image_processing_ark",
    "ArkImageProcessorPil": ".models.ark.image_processing_ark",
    "RELEASED_TASKS": ".models.ark.convert_ark_checkpoint",
    "convert_checkpoint": ".models.ark.convert_ark_checkpoint",
    "GenesisConfig": ".models.genesis.configuration_genesis",
    "GenesisForImageClassification": ".models.genesis.modeling_genesis",
    "GenesisForPreTraining": ".models.genesis.modeling_genesis",
    "GenesisForSemanticSegmentation": ".models.genesis.modeling_genesis",
    "GenesisModel": ".models.genesis.modeling_genesis",
    "GenesisImageProcessor": ".models.genesis.image_processing_genesis",
    "convert_genesis_checkpoint": ".models.genesis.convert_genesis_checkpoint",
    "normalise_label": ".labels:normalise",
    "read_synonyms": ".labels",
    "auroc": ".metrics.auroc",
    "bootstrap_aurocs": ".metrics.auroc",
    "evaluate_labels": ".metrics.auroc",
    "one_vs_rest": ".metrics.auroc",
    "cardiothoracic_ratio": ".metrics.anatomy",
    "image_statistics": ".metrics.shortcut",
    "volume_statistics": ".metrics.shortcut",
    "shortcut_baseline": ".metrics.shortcut",
    "compare_seeds": ".metrics.significance",
    "compare_overlap": ".metrics.overlap",
    "dice": ".metrics.overlap",
    "hausdorff_distance": ".metrics.overlap",
    "iou": ".metrics.overlap",
    "overlap_results": ".metrics.overlap",
    "read_input": ".data.inputs",
    "read_radiograph": ".data.radiograph",
    "read_volume": ".data.volumes.reading",
    "Volume": ".data.volumes.volume",
    "stored_volume": ".data.volumes.nifti",
    "write_nifti": ".data.volumes.nifti",
    "reorient": ".data.volumes.geometry",
    "resample": ".data.volumes.geometry",
    "in_space_of": ".data.volumes.geometry",
    "CubeRules": ".data.volumes.cubes",
    "draw_cubes": ".data.volumes.cubes",
    "scale_window": ".data.volumes.cubes",
    "InferenceSamples": ".data.loading",
    "dataset_statistics": ".data.image_statistics",
    "TaskDataset": ".data.open_dataset",
    "open_dataset": ".data.open_dataset",
    "open_images": ".data.open_dataset",
    "Unlabelled": ".data.unlabelled",
    "load_task_dataset": ".data.task_dataset",
    "read_task": ".data.task_dataset",
    "resolve_labels": ".data.task_dataset",
    "rows_per_class": ".data.subsets",
    "Release": ".data.rows",
    "Row": ".data.rows",
    "GenericSource": ".data.sources.generic",
    "read_generic": ".data.sources.generic",
    "read_unlabelled": ".data.sources.generic_images",
    "MaskedSource": ".data.sources.generic_masks",
    "read_masked": ".data.sources.generic_masks",
    "VolumeSource": ".data.sources.generic_volumes",
    "read_volumes": ".data.sources.generic_volumes",
    "HubSource": ".data.sources.hub_source",
    "read_hub": ".data.sources.hub_source",
    "read_release": ".data.sources.releases",
    "PHANTOM_SITES": ".data.sources.phantom:SITES",
    "PhantomSite": ".data.sources.phantom",
    "describe_phantom_image": ".data.sources.phantom",
    "draw_phantom_image": ".data.sources.phantom",
    "describe_phantom_volume": ".data.sources.phantom_volume",
    "draw_phantom_volume": ".data.sources.phantom_volume",
    "build_dataset": ".data.build.build",
    "build_phantom_masks": ".data.sources.phantom_sites",
    "build_phantom_sites": ".data.sources.phantom_sites",
    "build_phantom_volumes": ".data.sources.phantom_volumes",
    "phantom_release": ".data.sources.phantom_sites",
    "describe_datasets": ".data.report.numbers",
    "write_data_report": ".data.report.page",
    "load_ark": ".inference.load",
    "load_genesis": ".inference.load",
    "mean_probabilities": ".inference.predict",
    "predict_files": ".inference.predict",
    "predict_logits": ".inference.predict",
    "write_predictions": ".inference.prediction_files",
    "predict": ".inference.predictions",
    "ChestXrayClassificationPipeline": ".inference.pipeline",
    "ChestXraySegmentationPipeline": ".inference.segmentation_pipeline",
    "heat_maps": ".inference.heatmaps",
    "overlay": ".inference.overlays",
    "mask_overlay": ".inference.overlays",
    "label_masks": ".inference.masks",
    "segment_files": ".inference.segmentation",
    "segment_volume": ".inference.sliding_window",
    "classify_volume": ".inference.sliding_window",
    "VolumeSlices": ".inference.volume_slices",
    "match_dataset": ".inference.zeroshot",
    "match_label": ".inference.zeroshot",
    "zero_shot_scores": ".inference.zeroshot",
    "embed": ".inference.embeddings",
    "embed_rows": ".inference.embeddings",
    "open_store": ".inference.embeddings",
    "export_onnx": ".inference.export_onnx",
    "dense_features": ".inference.dense_features",
    "features_at": ".inference.dense_features",
    "whiten": ".inference.dense_features",
    "with_surroundings": ".inference.dense_features",
    "corresponding_places": ".inference.correspondence",
    "mutual_neighbours": ".inference.correspondence",
    "saliency": ".inference.correspondence",
    "co_segment": ".inference.feature_clusters",
    "project_features": ".inference.feature_clusters",
    "EvaluationArguments": ".evaluation.arguments",
    "CorrespondenceReport": ".evaluation.correspondence",
    "correspondence_errors": ".evaluation.correspondence",
    "correspondence_report": ".evaluation.correspondence",
    "pair_patients": ".evaluation.correspondence",
    "pair_views": ".evaluation.correspondence",
    "calibrate": ".evaluation.evaluate",
    "compare": ".evaluation.evaluate",
    "evaluate": ".evaluation.evaluate",
    "fit_probe": ".evaluation.probing.probe",
    "probe": ".evaluation.probing.probes",
    "PretrainingArguments": ".training.ark.recipe",
    "TaskSpec": ".training.ark.recipe",
    "parse_tasks": ".training.ark.recipe",
    "read_recipe": ".training.recipe",
    "load_tasks": ".training.ark.tasks",
    "CyclicPretrainer": ".training.ark.pretrainer",
    "load_encoder_weights": ".training.initial_weights",
    "PeacArguments": ".training.peac.arguments",
    "PeacPretrainer": ".training.peac.pretrainer",
    "load_images": ".training.peac.tasks",
    "GenesisArguments": ".training.genesis.arguments",
    "GenesisPretrainer": ".training.genesis.pretrainer",
    "load_volumes": ".training.genesis.tasks",
    "pretrain": ".training.pretrain",
    "FederatedArguments": ".federated.recipe",
    "SiteSpec": ".federated.recipe",
    "federate": ".federated.simulation",
    "parse_sites": ".federated.recipe",
    "read_federated_recipe": ".federated.recipe",
    "FinetuningArguments": ".training.finetune.arguments",
    "finetune": ".training.finetune.run",
    "sex_protocol": ".training.finetune.sex_protocol",
    "convert": ".hub.save",
    "save_conversion": ".hub.save",
    "push_model": ".hub.push_model",
    "push_dataset": ".hub.push_dataset",
    "build_page": ".serving.page",
    "VolumeReader": ".serving.volume_answer",
    "start_page": ".serving.page",
    "serve": ".serving.serve",
    "demo": ".demonstration",
    "train_demo": ".demonstration",
}
__all__ = ["__version__", *_EXPORTS]

if TYPE_CHECKING:  # the same names, for type checkers and editors; a test compares the two lists
    from .data.build.build import build_dataset as build_dataset
    from .data.image_statistics import dataset_statistics as dataset_statistics
    from .data.inputs import read_input as read_input
    from .data.loading import InferenceSamples as InferenceSamples
    from .data.open_dataset import TaskDataset as TaskDataset
    from .data.open_dataset import open_dataset as open_dataset
    from .data.open_dataset import open_images as open_images
    from .data.radiograph import read_radiograph as read_radiograph
    from .data.report.numbers import describe_datasets as describe_datasets
    from .data.report.page import write_data_report as write_data_report
    from .data.rows import Release as Release
    from .data.rows import Row as Row
    from .data.sources.generic import GenericSource as GenericSource
    from .data.sources.generic import read_generic as read_generic
    from .data.sources.generic_images import read_unlabelled as read_unlabelled
    from .data.sources.generic_masks import MaskedSource as MaskedSource
    from .data.sources.generic_masks import read_masked as read_masked
    from .data.sources.generic_volumes import VolumeSource as VolumeSource
    from .data.sources.generic_volumes import read_volumes as read_volumes
    from .data.sources.hub_source import HubSource as HubSource
    from .data.sources.hub_source import read_hub as read_hub
    from .data.sources.phantom import SITES as PHANTOM_SITES  # noqa: F401
    from .data.sources.phantom import PhantomSite as PhantomSite
    from .data.sources.phantom import describe_phantom_image as describe_phantom_image
    from .data.sources.phantom import draw_phantom_image as draw_phantom_image
    from .data.sources.phantom_sites import build_phantom_masks as build_phantom_masks
    from .data.sources.phantom_sites import build_phantom_sites as build_phantom_sites
    from .data.sources.phantom_sites import phantom_release as phantom_release
    from .data.sources.phantom_volume import describe_phantom_volume as describe_phantom_volume
    from .data.sources.phantom_volume import draw_phantom_volume as draw_phantom_volume
    from .data.sources.phantom_volumes import build_phantom_volumes as build_phantom_volumes
    from .data.sources.releases import read_release as read_release
    from .data.subsets import rows_per_class as rows_per_class
    from .data.task_dataset import load_task_dataset as load_task_dataset
    from .data.task_dataset import read_task as read_task
    from .data.task_dataset import resolve_labels as resolve_labels
    from .data.unlabelled import Unlabelled as Unlabelled
    from .data.volumes.cubes import CubeRules as CubeRules
    from .data.volumes.cubes import draw_cubes as draw_cubes
    from .data.volumes.cubes import scale_window as scale_window
    from .data.volumes.geometry import in_space_of as in_space_of
    from .data.volumes.geometry import reorient as reorient
    from .data.volumes.geometry import resample as resample
    from .data.volumes.nifti import stored_volume as stored_volume
    from .data.volumes.nifti import write_nifti as write_nifti
    from .data.volumes.reading import read_volume as read_volume
    from .data.volumes.volume import Volume as Volume
    from .demonstration import demo as demo
    from .demonstration import train_demo as train_demo
    from .evaluation.arguments import EvaluationArguments as EvaluationArguments
    from .evaluation.correspondence import CorrespondenceReport as CorrespondenceReport
    from .evaluation.correspondence import correspondence_errors as correspondence_errors
    from .evaluation.correspondence import correspondence_report as correspondence_report
    from .evaluation.correspondence import pair_patients as pair_patients
    from .evaluation.correspondence import pair_views as pair_views
    from .evaluation.evaluate import calibrate as calibrate
    from .evaluation.evaluate import compare as compare
    from .evaluation.evaluate import evaluate as evaluate
    from .evaluation.probing.probe import fit_probe as fit_probe
    from .evaluation.probing.probes import probe as probe
    from .federated.recipe import FederatedArguments as FederatedArguments
    from .federated.recipe import SiteSpec as SiteSpec
    from .federated.recipe import parse_sites as parse_sites
    from .federated.recipe import read_federated_recipe as read_federated_recipe
    from .federated.simulation import federate as federate
    from .hub.push_dataset import push_dataset as push_dataset
    from .hub.push_model import push_model as push_model
    from .hub.save import convert as convert
    from .hub.save import save_conversion as save_conversion
    from .inference.correspondence import corresponding_places as corresponding_places
    from .inference.correspondence import mutual_neighbours as mutual_neighbours
    from .inference.correspondence import saliency as saliency
    from .inference.dense_features import dense_features as dense_features
    from .inference.dense_features import features_at as features_at
    from .inference.dense_features import whiten as whiten
    from .inference.dense_features import with_surroundings as with_surroundings
    from .inference.embeddings import embed as embed
    from .inference.embeddings import embed_rows as embed_rows
    from .inference.embeddings import open_store as open_store
    from .inference.export_onnx import export_onnx as export_onnx
    from .inference.feature_clusters import co_segment as co_segment
    from .inference.feature_clusters import project_features as project_features
    from .inference.heatmaps import heat_maps as heat_maps
    from .inference.load import load_ark as load_ark
    from .inference.load import load_genesis as load_genesis
    from .inference.masks import label_masks as label_masks
    from .inference.overlays import mask_overlay as mask_overlay
    from .inference.overlays import overlay as overlay
    from .inference.pipeline import ChestXrayClassificationPipeline as ChestXrayClassificationPipeline
    from .inference.predict import mean_probabilities as mean_probabilities
    from .inference.predict import predict_files as predict_files
    from .inference.predict import predict_logits as predict_logits
    from .inference.prediction_files import write_predictions as write_predictions
    from .inference.predictions import predict as predict
    from .inference.segmentation import segment_files as segment_files
    from .inference.segmentation_pipeline import ChestXraySegmentationPipeline as ChestXraySegmentationPipeline
    from .inference.sliding_window import classify_volume as classify_volume
    from .inference.sliding_window import segment_volume as segment_volume
    from .inference.volume_slices import VolumeSlices as VolumeSlices
    from .inference.zeroshot import match_dataset as match_dataset
    from .inference.zeroshot import match_label as match_label
    from .inference.zeroshot import zero_shot_scores as zero_shot_scores
    from .labels import normalise as normalise_label  # noqa: F401
    from .labels import read_synonyms as read_synonyms
    from .metrics.anatomy import cardiothoracic_ratio as cardiothoracic_ratio
    from .metrics.auroc import auroc as auroc
    from .metrics.auroc import bootstrap_aurocs as bootstrap_aurocs
    from .metrics.auroc import evaluate_labels as evaluate_labels
    from .metrics.auroc import one_vs_rest as one_vs_rest
    from .metrics.overlap import compare_overlap as compare_overlap
    from .metrics.overlap import dice as dice
    from .metrics.overlap import hausdorff_distance as hausdorff_distance
    from .metrics.overlap import iou as iou
    from .metrics.overlap import overlap_results as overlap_results
    from .metrics.shortcut import image_statistics as image_statistics
    from .metrics.shortcut import shortcut_baseline as shortcut_baseline
    from .metrics.shortcut import volume_statistics as volume_statistics
    from .metrics.significance import compare_seeds as compare_seeds
    from .models.ark.configuration_ark import ArkConfig as ArkConfig
    from .models.ark.configuration_ark import ArkTask as ArkTask
    from .models.ark.configuration_ark import SegmentationTask as SegmentationTask
    from .models.ark.convert_ark_checkpoint import RELEASED_TASKS as RELEASED_TASKS
    from .models.ark.convert_ark_checkpoint import convert_checkpoint as convert_checkpoint
    from .models.ark.image_processing_ark import ArkImageProcessor as ArkImageProcessor
    from .models.ark.image_processing_ark import ArkImageProcessorPil as ArkImageProcessorPil
    from .models.ark.masks_ark import segmentation_loss as segmentation_loss
    from .models.ark.modeling_ark import ArkForImageClassification as ArkForImageClassification
    from .models.ark.modeling_ark import ArkModel as ArkModel
    from .models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation as ArkForSemanticSegmentation
    from .models.genesis.configuration_genesis import GenesisConfig as GenesisConfig
    from .models.genesis.convert_genesis_checkpoint import convert_genesis_checkpoint as convert_genesis_checkpoint
    from .models.genesis.image_processing_genesis import GenesisImageProcessor as GenesisImageProcessor
    from .models.genesis.modeling_genesis import GenesisForImageClassification as GenesisForImageClassification
    from .models.genesis.modeling_genesis import GenesisForPreTraining as GenesisForPreTraining
    from .models.genesis.modeling_genesis import GenesisForSemanticSegmentation as GenesisForSemanticSegmentation
    from .models.genesis.modeling_genesis import GenesisModel as GenesisModel
    from .serving.page import build_page as build_page
    from .serving.page import start_page as start_page
    from .serving.serve import serve as serve
    from .serving.volume_answer import VolumeReader as VolumeReader
    from .training.ark.pretrainer import CyclicPretrainer as CyclicPretrainer
    from .training.ark.recipe import PretrainingArguments as PretrainingArguments
    from .training.ark.recipe import TaskSpec as TaskSpec
    from .training.ark.recipe import parse_tasks as parse_tasks
    from .training.ark.tasks import load_tasks as load_tasks
    from .training.finetune.arguments import FinetuningArguments as FinetuningArguments
    from .training.finetune.run import finetune as finetune
    from .training.finetune.sex_protocol import sex_protocol as sex_protocol
    from .training.genesis.arguments import GenesisArguments as GenesisArguments
    from .training.genesis.pretrainer import GenesisPretrainer as GenesisPretrainer
    from .training.genesis.tasks import load_volumes as load_volumes
    from .training.initial_weights import load_encoder_weights as load_encoder_weights
    from .training.peac.arguments import PeacArguments as PeacArguments
    from .training.peac.pretrainer import PeacPretrainer as PeacPretrainer
    from .training.peac.tasks import load_images as load_images
    from .training.pretrain import pretrain as pretrain
    from .training.recipe import read_recipe as read_recipe

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module(".provenance", __name__).package_version()
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(module, __name__), original or name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _is_command() -> bool:
    """
    Whether this process is `ark-hf`, or `python -m ark_hf`: of that, argv has only -m until the module is found. Those
    that it starts have its argv.
    """
    if multiprocessing.current_process().name != "MainProcess":
        return False
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return program == "ark-hf" or (program == "-m" and {"ark_hf", "ark_hf.cli"} & {*sys.orig_argv} != set())


# The command answers `--help` without loading torch; the verbs that need the models import them themselves. The
# processes that build a dataset never need them.
if not _is_command() and multiprocessing.current_process().name != "ark-hf build":
    from . import auto as _auto  # noqa: F401
