"""transformers' own tests of models and configurations over Genesis, whose pixel values have five dimensions."""

import unittest

import pytest
import torch

from ark_hf.models.genesis.configuration_genesis import GenesisConfig
from ark_hf.models.genesis.modeling_genesis import (
    GenesisForImageClassification,
    GenesisForPreTraining,
    GenesisForSemanticSegmentation,
    GenesisModel,
)

from .fetch import add_transformers_tests_to_path

add_transformers_tests_to_path()

from transformers_tests.test_configuration_common import ConfigTester  # noqa: E402
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor  # noqa: E402


class GenesisModelTester:
    batch_size = 3
    size = (16, 8, 8)
    is_training = True

    def get_config(self) -> GenesisConfig:
        return GenesisConfig(**self.get_config_dict())

    def get_config_dict(self) -> dict:
        return {"width": 2, "depth": 3, "cube_size": list(self.size), "activation": "prelu"}

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": floats_tensor([self.batch_size, 1, *self.size])}


@pytest.mark.slow_ci  # ten seconds of them
class GenesisModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (
        GenesisModel,
        GenesisForPreTraining,
        GenesisForImageClassification,
        GenesisForSemanticSegmentation,
    )
    has_attentions = False
    test_resize_embeddings = False
    test_can_init_all_missing_weights_before_2023 = True

    def setUp(self):
        self.model_tester = GenesisModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """The mixin knows which labels a class takes by names of transformers' own, and of images alone."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is GenesisForPreTraining:
            inputs["labels"] = inputs["pixel_values"].clone()
        elif return_labels and model_class is GenesisForSemanticSegmentation:
            inputs["labels"] = torch.zeros((self.model_tester.batch_size, *self.model_tester.size), dtype=torch.long)
        return inputs

    def test_config(self):
        tester = ConfigTester(
            self,
            config_class=GenesisConfig,
            has_text_modality=False,
            common_properties=["width", "depth", "num_channels"],
            **self.model_tester.get_config_dict(),
        )
        tester.run_common_tests()

    def test_hidden_states_output(self):
        """The mixin looks for tokens; here they are the features of each level."""
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        expected = [(3, 4, 16, 8, 8), (3, 8, 8, 4, 4), (3, 16, 4, 2, 2)]
        for model_class in self.all_model_classes:
            for through_config in (False, True):
                with self.subTest(model=model_class.__name__, through_config=through_config):
                    config.output_hidden_states = through_config
                    arguments = {} if through_config else {"output_hidden_states": True}
                    with torch.no_grad():
                        hidden_states = model_class(config).eval()(**inputs, **arguments).hidden_states
                    self.assertEqual([tuple(each.shape) for each in hidden_states], expected)

    @unittest.skip("A model of volumes has no embedding layer of tokens")
    def test_model_get_set_embeddings(self):
        pass
