"""transformers' own tests of image processors over both of ours."""

import unittest

import ark_hf  # noqa: F401  (registers the processors)
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor, ArkImageProcessorPil

from .fetch import add_transformers_tests_to_path

add_transformers_tests_to_path()

from transformers_tests.test_image_processing_common import (  # noqa: E402
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)


class ArkImageProcessingTester(ImageProcessingTester):
    num_labels = 3

    def __init__(self, parent, **kwargs):
        kwargs.setdefault("size", {"height": 20, "width": 20})
        super().__init__(parent, **kwargs)

    def _get_image_processing_classes(self):
        # transformers looks them up by the name of the test's folder.
        return {"torchvision": ArkImageProcessor, "pil": ArkImageProcessorPil}


class ArkImageProcessingTest(PostProcessSemanticSegmentationTestMixin, ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ArkImageProcessingTester
    test_cast_dtype = True


class ArkCroppingImageProcessingTester(ArkImageProcessingTester):
    def __init__(self, parent):
        sizes = {"intermediate_size": {"height": 24, "width": 24}, "crop_size": {"height": 18, "width": 18}}
        super().__init__(parent, do_center_crop=True, **sizes)


class ArkCroppingImageProcessingTest(ArkImageProcessingTest):
    image_processor_tester_class = ArkCroppingImageProcessingTester
