"""Registers Ark and Genesis with transformers' Auto classes; Ark's code, too, to travel with all that is saved."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .inference.pipeline import ChestXrayClassificationPipeline
from .inference.segmentation_pipeline import ChestXraySegmentationPipeline
from .models.ark.configuration_ark import ArkConfig
from .models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil
from .models.ark.modeling_ark import ArkForImageClassification, ArkModel
from .models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation
from .models.genesis.configuration_genesis import GenesisConfig
from .models.genesis.image_processing_genesis import GenesisImageProcessor
from .models.genesis.modeling_genesis import (
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisModel,
)

AutoConfig.register("ark", ArkConfig)
AutoModel.register(ArkConfig, ArkModel)
AutoModelForImageClassification.register(ArkConfig, ArkForImageClassification)
AutoModelForSemanticSegmentation.register(ArkConfig, ArkForSemanticSegmentation)
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["ark"] = "ArkForSemanticSegmentation"  # what its pipeline looks up
AutoImageProcessor.register(
    ArkConfig, image_processor_classes={"torchvision": ArkImageProcessor, "pil": ArkImageProcessorPil}
)

AutoConfig.register("genesis", GenesisConfig)
AutoModel.register(GenesisConfig, GenesisModel)
AutoModelForPreTraining.register(GenesisConfig, GenesisForPreTraining)
AutoModelForImageClassification.register(GenesisConfig, GenesisForImageClassification)
AutoModelForSemanticSegmentation.register(GenesisConfig, GenesisForSemanticSegmentation)
# The one class for whichever backend is asked for
AutoImageProcessor.register(
    GenesisConfig, image_processor_classes=dict.fromkeys(("torchvision", "pil"), GenesisImageProcessor)
)

PIPELINE_REGISTRY.register_pipeline(
    "chest-xray-classification",
    pipeline_class=ChestXrayClassificationPipeline,
    pt_model=AutoModelForImageClassification,
    type="image",
)
PIPELINE_REGISTRY.register_pipeline(
    "chest-xray-segmentation",
    pipeline_class=ChestXraySegmentationPipeline,
    pt_model=AutoModelForSemanticSegmentation,
    type="image",
)

ArkConfig.register_for_auto_class()
ArkModel.register_for_auto_class("AutoModel")
ArkForImageClassification.register_for_auto_class("AutoModelForImageClassification")
ArkForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
ArkImageProcessor.register_for_auto_class()
ArkImageProcessorPil.register_for_auto_class()
