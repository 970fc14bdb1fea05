"""Heat maps: right in every layout of timm, faithful, and on phantoms where the finding is."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap, spearmanr
from torch import nn

from ark_hf.data.sources.phantom import SITES, draw_phantom_image
from ark_hf.inference import heatmaps
from ark_hf.inference.heatmaps import ExplainedPass, heat_maps
from ark_hf.models.ark.configuration_ark import ArkConfig, ArkTask
from ark_hf.models.ark.image_processing_ark import ArkImageProcessor
from ark_hf.models.ark.modeling_ark import ArkForImageClassification

TASKS = [
    ArkTask("multi", ["a", "b", "c"]),
    ArkTask("single", ["normal", "bacterial", "viral"], "single_label_classification"),
]
LABELS = [4, 0, 5, 2]  # of both heads, not in order
SWIN = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
# Backbone, its arguments, side of the picture; side of the grid; the values of one place in the last spatial layer
LAYOUTS = {
    "resnet": ("test_resnet", {"output_stride": 8}, 32, 4, lambda features, row, column: features[:, :, row, column]),
    "convnext": ("test_convnext", None, 64, 2, lambda f, row, column: f[:, :, row, column]),
    "efficientnet": ("test_efficientnet", {"output_stride": 8}, 32, 4, lambda f, row, column: f[:, :, row, column]),
    "swin": ("swin_tiny_patch4_window7_224", SWIN, 32, 4, lambda f, row, column: f[:, row, column]),
    "vit, class token": ("test_vit", None, 64, 4, lambda f, row, column: f[:, 1 + 4 * row + column]),
    "vit, mean": ("test_vit2", None, 64, 4, lambda f, row, column: f[:, 1 + 4 * row + column]),
    "vit, attention pooling": ("test_vit3", None, 64, 4, lambda f, row, column: f[:, 1 + 4 * row + column]),
}


def make_model(backbone: str, kwargs: dict | None, image_size: int, **settings) -> ArkForImageClassification:
    torch.manual_seed(0)
    settings = {"projector_dim": 12, "tasks": TASKS, "drop_path_rate": 0.3, **settings}
    config = ArkConfig(backbone=backbone, backbone_kwargs=kwargs, image_size=image_size, **settings)
    return ArkForImageClassification(config).eval()


def pictures(model: ArkForImageClassification, count: int = 2) -> torch.Tensor:
    side = model.config.image_size
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1)).to(model.dtype)


def contributions(model: ArkForImageClassification, images: torch.Tensor, labels) -> torch.Tensor:
    """(pictures, labels, rows, columns) of the same labels in each picture."""
    return torch.stack(ExplainedPass(model, images).contributions([labels] * len(images)))


def pooled_layer(model: ArkForImageClassification, layout: str) -> nn.Module:
    """Found by hand, for comparison."""
    encoder = model.ark.encoder
    return {
        "resnet": lambda: encoder.layer4,
        "convnext": lambda: encoder.stages,
        "efficientnet": lambda: encoder.bn2,
        "vit, class token": lambda: encoder.blocks[-1].norm1,
    }.get(layout, lambda: encoder.norm)()


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(layout) -> ArkForImageClassification:
    """Random weights, but large ones, so that every block matters, and convolutions that see one place only."""
    model = make_model(*LAYOUTS[layout][:3]).double()
    with torch.no_grad():
        for module in model.ark.encoder.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(4)
            elif isinstance(module, nn.Conv2d) and module.kernel_size[0] > module.stride[0]:
                middle = torch.zeros_like(module.weight)
                middle[:, :, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
                module.weight.mul_(4 * middle)
            if isinstance(getattr(module, "gamma", None), nn.Parameter):
                module.gamma.fill_(0.5)
    return model


def test_a_place_contributes_what_the_score_gains_when_its_features_grow(model, layout):
    *_, side, place = LAYOUTS[layout]
    images = pictures(model)
    found = contributions(model, images, LABELS)
    assert found.shape == (2, len(LABELS), side, side) and found.dtype == torch.float32
    assert found.abs().amax(dim=(2, 3)).min() > 1e-3

    step = 0.01
    for row, column in np.ndindex(side, side):
        scores = []
        for factor in (1 + step, 1 - step):

            def grow(module, inputs, output, factor=factor, row=row, column=column):
                output = output.clone()
                place(output, row, column).mul_(factor)
                return output

            with pooled_layer(model, layout).register_forward_hook(grow), torch.no_grad():
                scores.append(model(images).logits[:, LABELS].double())
        expected = (scores[0] - scores[1]) / (2 * step)
        torch.testing.assert_close(found[:, :, row, column].double(), expected, rtol=0.01, atol=3e-5)


@pytest.mark.parametrize("bottom, right", [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_the_map_follows_the_picture(model, layout, bottom, right):
    """Something in one quarter of an empty picture changes the map most in that quarter."""
    half = model.config.image_size // 2
    blank = torch.zeros_like(pictures(model))
    image = blank.clone()
    image[:, :, bottom * half :, right * half :][:, :, :half, :half] = pictures(model)[:, :, :half, :half]
    change = (contributions(model, image, LABELS) - contributions(model, blank, LABELS)).abs().sum(dim=1)
    quarters = change.unflatten(2, (2, -1)).unflatten(1, (2, -1)).sum(dim=(2, 4))
    assert quarters.flatten(1).argmax(dim=1).tolist() == [2 * bottom + right] * 2


@pytest.mark.parametrize("name", ["resnet", "efficientnet", "swin"])
def test_all_places_together_are_the_logit_less_its_bias(name):
    """HiResCAM's guarantee where places are averaged and the rest is linear; of raw logits, a softmax's too."""
    model = make_model(*LAYOUTS[name][:3], tasks=TASKS[1:])
    images = pictures(model)
    with torch.no_grad():
        logits = model(images).logits
        bias = model.heads["single"](model.ark.projector(torch.zeros(1, model.ark.projector.in_features)))
    found = contributions(model, images, [0, 1, 2])
    torch.testing.assert_close(found.sum(dim=(2, 3)), logits - bias, rtol=1e-4, atol=1e-6)
    assert (logits - bias).abs().max() > 1e-4


def test_labels_and_pictures_do_not_mix_and_share_one_forward_pass(model):
    images = pictures(model, 3)
    passes = []
    with model.register_forward_hook(lambda *_: passes.append(1)):
        together = contributions(model, images, LABELS)
    assert len(passes) == 1
    for number, label in enumerate(LABELS):
        for picture in range(3):
            alone = contributions(model, images[picture : picture + 1], [label])
            torch.testing.assert_close(together[picture, number], alone[0, 0], rtol=1e-4, atol=1e-5)


def test_the_logits_come_first_and_then_the_maps_of_each_picture_s_own_labels(model, monkeypatch):
    images, labels = pictures(model, 3), [[5], LABELS, [0, 5]]
    with torch.no_grad():
        expected = model(images).logits.double()
    with model.register_forward_hook(lambda *_: passes.append(1)):
        passes: list[int] = []
        explained = ExplainedPass(model, images)
        torch.testing.assert_close(explained.logits, expected, rtol=1e-5, atol=1e-6)
        found = explained.contributions(labels)
        monkeypatch.setattr(heatmaps, "MAPS_AT_ONCE", 6)  # two labels of three pictures
        parts = explained.contributions(labels)
        maps = explained.heat_maps(labels)
    assert len(passes) == 1
    for number, each in enumerate(labels):
        alone = contributions(model, images[number : number + 1], each)[0]
        torch.testing.assert_close(found[number], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts[number], found[number], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(maps[number], heat_maps(model, images, each)[number], rtol=1e-4, atol=1e-5)


def test_heat_is_what_speaks_for_the_label_and_ends_at_one(model):
    images = pictures(model)
    signed, heat = contributions(model, images, LABELS).numpy(), heat_maps(model, images, LABELS)
    assert heat.dtype == np.float32 and heat.shape == signed.shape
    some = signed.max(axis=(2, 3)) > 0
    assert some.any() and np.all(heat.max(axis=(2, 3)) == some)
    for one, scaled in zip(signed[some], heat[some], strict=True):
        np.testing.assert_allclose(scaled, np.clip(one, 0, None) / one.max(), rtol=1e-6)


def test_where_nothing_speaks_for_the_label_the_map_is_empty():
    model = make_model(*LAYOUTS["resnet"][:3], projector_dim=None, tasks=TASKS[:1])
    with torch.no_grad():
        model.heads["multi"].weight[0] = -1  # after a ReLU no feature is negative
        model.heads["multi"].weight[1] = 1
    empty, full = heat_maps(model, pictures(model), [0, 1]).swapaxes(0, 1)
    assert np.all(empty == 0) and np.all(full.max(axis=(1, 2)) == 1)


@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["resnet", "swin", "vit, class token"])
def test_the_model_is_left_as_it_was(name, context):
    model = make_model(*LAYOUTS[name][:3])
    expected = heat_maps(model, pictures(model), LABELS)
    model.train().ark.projector.eval()  # partly frozen, as in fine-tuning, and with checkpointing
    frozen = [number % 2 == 0 for number, _ in enumerate(model.parameters())]
    for parameter, is_frozen in zip(model.parameters(), frozen, strict=True):
        parameter.requires_grad_(not is_frozen)
    model.activation_checkpointing_enable()
    modes = [(module.training, getattr(module, "grad_checkpointing", None)) for module in model.modules()]
    assert (True, True) in modes or (False, True) in modes
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with context():
        found = heat_maps(model, pictures(model), LABELS)
        assert torch.is_grad_enabled() == (context is torch.enable_grad)
        with pytest.raises((RuntimeError, AssertionError)):
            heat_maps(model, pictures(model)[:, :1], LABELS)  # one channel
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert modes == [(module.training, getattr(module, "grad_checkpointing", None)) for module in model.modules()]
    assert [not parameter.requires_grad for parameter in model.parameters()] == frozen
    assert all(parameter.grad is None for parameter in model.parameters())
    assert hooks == [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_half_precision_gives_nearly_the_same_map(model):
    images = pictures(model)
    expected = heat_maps(model, images, LABELS)
    half = type(model)(model.config).eval()
    half.load_state_dict(model.state_dict())
    found = heat_maps(half.to(torch.bfloat16), images, LABELS)
    assert found.dtype == np.float32
    assert np.abs(found - expected).mean() < 0.05


def test_an_ordinary_classifier_has_maps_of_its_raw_logits():
    model = make_model(*LAYOUTS["resnet"][:3], tasks=None, num_labels=2)
    found = contributions(model, pictures(model), [1])
    with torch.no_grad():
        logits = model(pictures(model)).logits[:, 1]
        bias = model.classifier(model.ark.projector(torch.zeros(1, model.ark.projector.in_features)))[0, 1]
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), logits - bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("labels", [[], [6], [0, -1], ["multi/a"]])
def test_labels_that_the_model_lacks_are_refused(labels):
    model = make_model(*LAYOUTS["resnet"][:3])
    with pytest.raises(ValueError, match="indices below 6"):
        heat_maps(model, pictures(model), labels)


@pytest.mark.parametrize(
    "backbone, kwargs, image_size",
    [
        ("mixer_s32_224", None, 64),  # tokens of an unknown order
        ("cait_xxs24_224", {"depth": 1, "embed_dim": 16, "num_heads": 2}, 32),  # class token joins after the blocks
        ("hiera_tiny_224", {"embed_dim": 8, "stages": [1, 1, 1, 1]}, 224),  # tokens in a shuffled order
    ],
)
def test_unknown_layouts_are_refused(backbone, kwargs, image_size):
    model = make_model(backbone, kwargs, image_size, drop_path_rate=0.0)
    with pytest.raises(ValueError, match="Heat maps know Swin, ConvNeXt"):
        heat_maps(model, pictures(model), [0])


# What the maps of a trained model show


def phantoms(split: str, count: int) -> list[dict]:
    """Pictures of as many patients."""
    return [draw_phantom_image(SITES["phantom_lake"], split, 3 * (i // 2) + 2 * (i % 2), 48) for i in range(count)]


def pixel_values(rows: list[dict]) -> torch.Tensor:
    processor = ArkImageProcessor(size={"height": 48, "width": 48})
    return processor([row["image"] for row in rows], return_tensors="pt")["pixel_values"]


@pytest.fixture(scope="module")
def trained() -> ArkForImageClassification:
    """A small network after some seconds of training on phantoms with three findings."""
    rows = phantoms("train", 150)
    task = ArkTask("lake", list(SITES["phantom_lake"].labels))
    model = make_model("test_resnet", {"output_stride": 8}, 48, projector_dim=None, tasks=[task], drop_path_rate=0.0)
    images, labels = pixel_values(rows), torch.tensor([row["labels"] for row in rows])
    labels[labels < 0] = torch.nan  # uncertain
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=40)
    model.train()
    for batch in torch.randint(len(rows), (40, 32), generator=torch.Generator().manual_seed(0)):
        model(images[batch], labels=labels[batch]).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def randomised(model: ArkForImageClassification, part: str, seed: int = 0) -> ArkForImageClassification:
    """The model with the weights of one part drawn anew."""
    torch.manual_seed(seed)
    copy, fresh = type(model)(model.config), type(model)(model.config)
    copy.load_state_dict(model.state_dict())
    copy.get_submodule(part).load_state_dict(fresh.get_submodule(part).state_dict())
    return copy.eval()


@pytest.mark.slow_ci
@pytest.mark.parametrize("part", ["heads", "ark.encoder.layer4", "ark.encoder.conv1.0", "ark"])
def test_maps_depend_on_the_weights(trained, part):
    """The sanity check of Adebayo et al. (2018), which edge detectors fail: new weights give another map."""
    images = pixel_values(phantoms("test", 20))
    maps = contributions(trained, images, range(3))
    assert rank_correlation(maps, maps) == pytest.approx(1)
    assert rank_correlation(maps, contributions(randomised(trained, part), images, range(3))) < 0.5


@pytest.mark.slow_ci
def test_maps_of_two_labels_differ(trained):
    maps = contributions(trained, pixel_values(phantoms("test", 20)), range(3))
    assert rank_correlation(maps, maps.roll(1, dims=1)) < 0.5


def rank_correlation(maps: torch.Tensor, others: torch.Tensor) -> float:
    """Spearman's, mean over pictures and labels."""
    pairs = zip(maps.flatten(0, 1).flatten(1), others.flatten(0, 1).flatten(1), strict=True)
    return float(np.mean([spearmanr(one, other).statistic for one, other in pairs]))


def excess_on_findings(model: ArkForImageClassification, rows: list[dict]) -> np.ndarray:
    """Share of the heat that lies on a finding less the finding's share of the picture; a picture's mean."""
    maps = heat_maps(model, pixel_values(rows), range(3))
    excesses: list[list[float]] = [[] for _ in rows]
    for picture, row in enumerate(rows):
        for number, label in enumerate(SITES["phantom_lake"].labels):
            if label in row["masks"]:
                heat = maps[picture, number]
                mask = Image.fromarray(row["masks"][label].astype(np.float32))
                covered = np.asarray(mask.resize(heat.shape[::-1], Image.Resampling.BOX))
                excesses[picture].append(float((heat * (covered - covered.mean())).sum() / max(heat.sum(), 1)))
    return np.array([np.mean(each) for each in excesses])


@pytest.mark.slow_ci
def test_on_phantoms_heat_lies_on_the_finding(trained):
    rows = [row for row in phantoms("test", 100) if row["masks"].keys() & set(SITES["phantom_lake"].labels)]
    of_trained = excess_on_findings(trained, rows)
    networks = [randomised(randomised(trained, "ark", seed), "heads", seed) for seed in range(4)]
    of_random = np.mean([excess_on_findings(network, rows) for network in networks], axis=0)

    def lower_bound(values: np.ndarray) -> float:  # of the mean over patients
        return bootstrap((values,), np.mean, n_resamples=999, rng=0).confidence_interval.low

    assert lower_bound(of_trained) > 0
    assert lower_bound(of_trained - of_random) > 0
