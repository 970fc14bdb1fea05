"""transformers' own tests of models and configurations over ours: a classifier, one with a task, a segmenter."""

import tempfile
import unittest
from unittest import mock

import pytest
import torch
from transformers import logging, set_seed
from transformers.testing_utils import CaptureLogger

from ark_hf.models.ark.configuration_ark import ArkConfig
from ark_hf.models.ark.modeling_ark import ArkForImageClassification, ArkModel, ArkPreTrainedModel
from ark_hf.models.ark.modeling_ark_segmentation import ArkForSemanticSegmentation

from .fetch import add_transformers_tests_to_path

add_transformers_tests_to_path()

from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor  # noqa: E402


class ArkModelTester:
    batch_size = 3
    image_size = 32
    is_training = True
    tasks = None

    def get_config(self) -> ArkConfig:
        return ArkConfig(**self.get_config_dict())

    def get_config_dict(self) -> dict:
        return {
            "backbone": "swin_tiny_patch4_window7_224",
            # The second block of the first stage is shifted, and the last stage is a single window.
            "backbone_kwargs": {"embed_dim": 16, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
            "image_size": self.image_size,
            "projector_dim": 12,
            "tasks": self.tasks,
        }

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}


class ArkSingleTaskModelTester(ArkModelTester):
    tasks = [{"name": "rsna", "labels": ["Normal", "Other", "Opacity"], "problem_type": "single_label_classification"}]


class ArkModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (ArkModel, ArkForImageClassification)
    model_tester_class = ArkModelTester
    has_attentions = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = self.model_tester_class()

    def test_config(self):
        tester = ConfigTester(
            self,
            config_class=ArkConfig,
            has_text_modality=False,
            common_properties=["backbone", "image_size", "num_channels", "projector_dim"],
            **self.model_tester.get_config_dict(),
        )
        tester.run_common_tests()

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            for through_config in (False, True):
                with self.subTest(model=model_class.__name__, through_config=through_config):
                    config.output_hidden_states = through_config
                    model = model_class(config).eval()
                    arguments = {} if through_config else {"output_hidden_states": True}
                    with torch.no_grad():
                        hidden_states = model(**inputs, **arguments).hidden_states
                    self.assertEqual([tuple(each.shape) for each in hidden_states], [(3, 64, 16), (3, 16, 32)])

    def test_checkpointing_keeps_the_gradients(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        inputs["labels"] = torch.tensor([0, 1, 1])
        model = ArkForImageClassification(config).train()
        gradients, runs = [], []
        model.ark.encoder.layers[0].blocks[0].register_forward_pre_hook(lambda *_: runs.append(len(gradients)))
        for checkpointing in (False, True):
            if checkpointing:
                model.activation_checkpointing_enable()
            model.zero_grad()
            set_seed(0)  # stochastic depth is active
            model(**inputs).loss.backward()
            gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
        self.assertEqual(runs, [0, 1, 1], "with checkpointing a block runs once more in the backward pass")
        for name, gradient in gradients[0].items():
            self.assertIsNotNone(gradient, name)
            torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-6, msg=name)

    # Whether checkpointing is supported depends on the encoder, so it is an attribute of the instance, while the mixin
    # asks the class and would pass over these two tests.
    @mock.patch.object(ArkPreTrainedModel, "supports_gradient_checkpointing", True)
    def test_gradient_checkpointing_backward_compatibility(self):
        super().test_gradient_checkpointing_backward_compatibility()

    @mock.patch.object(ArkPreTrainedModel, "supports_gradient_checkpointing", True)
    def test_peft_gradient_checkpointing_enable_disable(self):
        super().test_peft_gradient_checkpointing_enable_disable()

    @unittest.skip("A radiograph model has no embedding layer of tokens")
    def test_model_get_set_embeddings(self):
        pass

    @unittest.skip("timm returns copies of the intermediate features, which are not on the path of the output")
    def test_retain_grad_hidden_states_attentions(self):
        pass

    @unittest.skip("timm checkpoints its own blocks, not transformers' GradientCheckpointingLayer")
    def test_gradient_checkpointing_enable_disable(self):
        pass


@pytest.mark.slow_ci  # the same tests once more, ten seconds of them
class ArkSingleTaskModelTest(ArkModelTest):
    model_tester_class = ArkSingleTaskModelTester

    def test_can_load_ignoring_mismatched_shapes(self):
        """The mixin wants an error where other labels are asked for; here the caller wins and gets a fresh head."""
        model = ArkForImageClassification(self.model_tester.get_config())
        with tempfile.TemporaryDirectory() as folder, CaptureLogger(logging.get_logger("transformers")) as log:
            model.save_pretrained(folder)
            loaded = ArkForImageClassification.from_pretrained(folder, num_labels=42)
        self.assertIsNone(loaded.config.tasks)
        self.assertEqual(loaded.classifier.out_features, 42)
        self.assertIn("heads.rsna.weight", log.out)
        for name, parameter in model.ark.named_parameters():
            torch.testing.assert_close(loaded.ark.get_parameter(name), parameter, rtol=0, atol=0)


class ArkSegmentationModelTester(ArkModelTester):
    image_size = 64

    def get_config_dict(self) -> dict:
        task = {"name": "organs", "labels": ["lungs", "heart"], "overlapping": False}
        return {**super().get_config_dict(), "tasks": None, "segmentation": task, "decoder_channels": 16}


@pytest.mark.slow_ci  # as above
class ArkSegmentationModelTest(ArkModelTest):
    all_model_classes = (ArkForSemanticSegmentation,)
    model_tester_class = ArkSegmentationModelTester

    def test_hidden_states_output(self):
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        outputs = ArkForSemanticSegmentation(config).eval()(**inputs, output_hidden_states=True)
        self.assertEqual([tuple(each.shape) for each in outputs.hidden_states], [(3, 16, 16, 16), (3, 32, 8, 8)])
        self.assertEqual(tuple(outputs.logits.shape), (3, 3, 16, 16))

    @unittest.skip("Looked at above: the encoder is the same")
    def test_checkpointing_keeps_the_gradients(self):
        pass
