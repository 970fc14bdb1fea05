"""`attn_implementation` of every training of pictures reaches student and teacher, and changes results by rounding."""

import pytest
import torch
from safetensors.torch import load_file

from ark_hf import FinetuningArguments, finetune
from ark_hf.data.open_dataset import open_images
from ark_hf.models.ark.swin_ark import ArkSwinBlock
from ark_hf.training.ark.pretrainer import CyclicPretrainer
from ark_hf.training.ark.recipe import PretrainingArguments

from .conftest import TINY, open_site
from .peac.conftest import trainer as peac_trainer

SWIN = {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_kwargs": {"depths": [2], "embed_dim": 8, "num_heads": [2], "window_size": 4},
    "image_size": 32,
}


def count_fused(model) -> int:
    return sum(isinstance(module, ArkSwinBlock) for module in model.modules())


def differ(one, other) -> bool:
    """Whether any weight does, if by rounding alone."""
    one, other = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-5)
    return any(not torch.equal(one[name], other[name]) for name in one)


def test_ark_trains_the_same_and_goes_on_so_alone(sites, tmp_path):
    def trainer(name: str, implementation: str | None) -> CyclicPretrainer:
        settings = {**TINY, **SWIN, "cycles": 1, "drop_path_rate": 0.0, "attn_implementation": implementation}
        data = [open_site(path) for path in list(sites.values())[:1]]
        return CyclicPretrainer(PretrainingArguments(str(tmp_path / name), **settings), data)

    for name, implementation in (("plain", None), ("fused", "sdpa"), ("broken", "sdpa")):
        run = trainer(name, implementation)
        if name == "broken":
            steps = run.cycle_steps()
            run.run.begin({})
            for _ in range(2):
                next(steps)
            run.run.save_checkpoint()
            run = trainer(name, implementation)
            assert run.state.step == 2
        assert count_fused(run.student) == count_fused(run.teacher) == (2 if implementation else 0)
        run.train()
    assert differ(tmp_path / "plain" / "ark-cxr", tmp_path / "fused" / "ark-cxr")
    assert not differ(tmp_path / "fused" / "ark-cxr", tmp_path / "broken" / "ark-cxr")
    with pytest.raises(ValueError, match="attn_implementation"):
        trainer("fused", None)


def test_peac_trains_with_fused_attention(sites, tmp_path):
    images = [open_images(str(next(iter(sites.values()))))]
    run = peac_trainer(tmp_path, images, epochs=1, attn_implementation="sdpa", **SWIN)
    assert count_fused(run.student) == count_fused(run.teacher) == 2


def test_fine_tuning_trains_the_same(sites, tmp_path):
    settings = {**SWIN, "projector_dim": 16, "batch_size": 8, "epochs": 1, "bootstrap": 0}
    for name, implementation in (("plain", None), ("fused", "sdpa")):
        args = FinetuningArguments(str(tmp_path / name), attn_implementation=implementation, **settings)
        finetune("none", str(sites["phantom_hill"]), args)
    assert differ(*(tmp_path / name / "seed-0" / "ark-cxr" for name in ("plain", "fused")))


def test_an_encoder_without_attention_is_refused(sites, tmp_path):
    settings = {**TINY, "attn_implementation": "sdpa"}
    with pytest.raises(ValueError, match="leave attn_implementation unset"):
        CyclicPretrainer(PretrainingArguments(str(tmp_path), **settings), [open_site(next(iter(sites.values())))])
