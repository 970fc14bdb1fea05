"""Features of places: the grid of tokens, what lies between them, and the same place in another picture."""

import numpy as np
import pytest
import torch

from ark_hf import (
    ArkConfig,
    ArkForImageClassification,
    ArkImageProcessor,
    ArkModel,
    co_segment,
    corresponding_places,
    dense_features,
    draw_phantom_image,
    features_at,
    mutual_neighbours,
    project_features,
    saliency,
    whiten,
    with_surroundings,
)
from ark_hf.data.sources.phantom import SITES

WINDINGS = 3  # of the coordinates' features: many enough for places to differ, few enough for neighbours to be alike


@pytest.fixture(scope="module")
def processor():
    return ArkImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    kwargs = {"embed_dim": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
    config = ArkConfig(backbone="vit_tiny_patch16_224", backbone_kwargs=kwargs, image_size=32, projector_dim=None)
    return ArkModel(config).eval()


@pytest.fixture(scope="module")
def pictures():
    return [draw_phantom_image(SITES["phantom_coast"], "test", index, 48)["image"] for index in range(3)]


def coordinates(x, y):
    """Features that are places: two neighbours are like each other, and no two places are the same."""
    return np.stack([wave(angle) for angle in (x, y) for wave in (np.sin, np.cos)], axis=-1).astype(np.float32)


def map_of(rows, columns, moved=(0.0, 0.0)):
    """A picture (rows, columns, 4) whose places are those of another one, `moved` in its fractions."""
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return coordinates(WINDINGS * (x - moved[0]), WINDINGS * (y - moved[1]))


# Whitening -----------------------------------------------------------------------------------------------------------


def test_whitened_directions_all_vary_alike():
    drawn = np.random.default_rng(0).normal(size=(3, 5, 4, 6)) * [30, 10, 1, 1, 0.1, 1] + 7
    drawn[..., 5] = drawn[..., 0] - drawn[..., 1]  # says nothing new
    white = whiten(drawn.astype(np.float32))
    assert white.shape == (3, 5, 4, 5) and white.dtype == np.float32
    flat = white.reshape(-1, 5)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(5), atol=1e-3)


def test_whitening_does_not_depend_on_how_features_are_mixed():
    random = np.random.default_rng(1)
    drawn = random.normal(size=(2, 4, 4, 3)).astype(np.float32)
    mixed = drawn @ random.normal(size=(3, 3)).astype(np.float32) + 1
    products = [np.einsum("...c,dc->...d", each, each[0, 0]) for each in map(whiten, (drawn, mixed))]
    np.testing.assert_allclose(*products, atol=1e-3)


def test_places_are_found_by_directions_that_vary_little():
    moved = 0.15  # the second picture's anatomy lies further right; the frame, which varies more, stays
    frame, anatomy = map_of(12, 12), [map_of(12, 12), map_of(12, 12, (moved, 0))]
    pictures = np.stack([np.concatenate([10 * frame, each], axis=-1) for each in anatomy])
    pictures += np.random.default_rng(0).normal(0, 1e-3, pictures.shape).astype(np.float32)
    asked = np.array([[0.4, 0.5]])

    def found(features):
        return corresponding_places(features_at(features[0], asked), features[1])[0][0, 0]

    assert abs(found(pictures) - 0.4) < 0.03 < abs(found(whiten(pictures)) - 0.4)


@pytest.mark.parametrize(
    "features, message",
    [
        (np.zeros((3, 3, 4), np.float32), r"\(n, rows, columns, width\), not of shape \(3, 3, 4\)"),
        (np.full((2, 3, 3, 4), 0.1, np.float32), "All features are equal"),
    ],
)
def test_what_cannot_be_whitened(features, message):
    with pytest.raises(ValueError, match=message):
        whiten(features)


# Surroundings --------------------------------------------------------------------------------------------------------


def test_surroundings_are_the_means_of_eight_squares():
    features = np.random.default_rng(0).normal(size=(2, 9, 9, 2)).astype(np.float32)
    found = with_surroundings(features)
    assert found.shape == (2, 9, 9, 18) and found.dtype == np.float32
    at = found[:, 4, 4].reshape(2, 3, 3, 2)
    squares = features.reshape(2, 3, 3, 3, 3, 2).mean(axis=(2, 4))
    squares[:, 1, 1] = features[:, 4, 4]
    np.testing.assert_allclose(at, squares, atol=1e-6)
    # beyond the border what is at it
    np.testing.assert_array_equal(with_surroundings(features, 1)[:, 0, 0].reshape(2, 9, 2)[:, 0], features[:, 0, 0])


def test_places_that_look_alike_are_told_apart_by_what_is_around():
    stripes = np.zeros((1, 12, 12, 2), np.float32)
    stripes[:, :, 1::4, 0] = 1  # three places alike
    stripes[:, :, 0, 1] = 1  # beside the first of them only
    asked = np.array([[5.5 / 12, 0.5]])  # the second
    for features, found in [(stripes, 1.5 / 12), (with_surroundings(stripes), 5.5 / 12)]:
        place, _ = corresponding_places(features_at(features[0], asked), features[0])
        assert abs(place[0, 0] - found) < 0.06


def test_sides_of_surroundings_are_odd():
    with pytest.raises(ValueError, match="odd number of tokens, not 2"):
        with_surroundings(np.zeros((1, 4, 4, 2), np.float32), 2)
    with pytest.raises(ValueError, match="not of shape"):
        with_surroundings(np.zeros((4, 4, 2), np.float32))


# The grid ------------------------------------------------------------------------------------------------------------


def test_tokens_lie_on_the_grid_of_their_patches(model, processor, pictures):
    found = dense_features(model, processor, pictures, batch_size=2)
    assert found.shape == (3, 4, 4, 16) and found.dtype == np.float32
    pixel_values = processor(pictures, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        tokens = model(pixel_values).last_hidden_state.numpy()
    np.testing.assert_allclose(found[2, 1, 3], tokens[2, 4 + 3], atol=1e-5)
    normalised = dense_features(model, processor, pictures, normalise=True)
    np.testing.assert_allclose(np.linalg.norm(normalised, axis=3), 1, atol=1e-5)
    np.testing.assert_allclose(normalised[1] * np.linalg.norm(found[1], axis=2)[..., None], found[1], atol=1e-4)


def test_models_with_heads_and_files_are_taken(model, processor, pictures, tmp_path):
    config = ArkConfig.from_dict({**model.config.to_dict(), "tasks": [{"name": "a", "labels": ["x"]}]})
    classifier = ArkForImageClassification(config).eval()
    classifier.ark.load_state_dict(model.state_dict())
    pictures[0].save(tmp_path / "chest.png")
    found = dense_features(classifier, processor, [tmp_path / "chest.png"])
    np.testing.assert_allclose(found, dense_features(model, processor, pictures[:1]), atol=1e-5)


class NoGrid(torch.nn.Module):
    """An encoder whose tokens are of no places."""

    device, dtype, config = torch.device("cpu"), torch.float32, ArkConfig(backbone="test_vit", image_size=32)

    def __init__(self, tokens, value=1.0):
        super().__init__()
        self.tokens, self.value = tokens, value

    @property
    def base_model(self):
        return self

    def forward(self, pixel_values):
        class Output:
            last_hidden_state = torch.full((len(pixel_values), self.tokens, 4), self.value)

        return Output


def test_what_has_no_dense_features_is_refused(model, processor, pictures):
    with pytest.raises(ValueError, match="'test_vit' gives 12 tokens, which are no square grid"):
        dense_features(NoGrid(12), processor, pictures)
    with pytest.raises(ValueError, match="NaN or infinite features for picture 0"):
        dense_features(NoGrid(16, float("nan")), processor, pictures)
    with pytest.raises(ValueError, match="no pictures"):
        dense_features(model, processor, [])
    with pytest.raises(ValueError, match="whole pictures"):
        dense_features(model, ArkImageProcessor(do_center_crop=True, crop_size=32), pictures)


# Places --------------------------------------------------------------------------------------------------------------


def test_features_between_tokens_are_interpolated():
    features = np.array([[[0.0], [1.0]], [[2.0], [3.0]]], np.float32)
    places = [(0.25, 0.25), (0.75, 0.25), (0.5, 0.25), (0.5, 0.5), (0, 0), (1, 1), (0.25, 0.625)]
    np.testing.assert_allclose(features_at(features, places)[:, 0], [0, 1, 0.5, 1.5, 0, 3, 1.5])
    wide = np.arange(6, dtype=np.float32).reshape(1, 6, 1)
    np.testing.assert_allclose(features_at(wide, [(0.5, 0.1), (3.5 / 6, 1)])[:, 0], [2.5, 3])


@pytest.mark.parametrize("place", [(1.01, 0.5), (0.5, -0.01), (float("nan"), 0.5)])
def test_places_outside_the_picture_are_refused(place):
    with pytest.raises(ValueError, match=r"in \[0, 1\], not \["):
        features_at(map_of(4, 4), [(0.5, 0.5), place])


def test_shapes_that_do_not_fit_are_refused():
    features = map_of(4, 4)
    with pytest.raises(ValueError, match=r"\(rows, columns, width\), not of shape \(1, 4, 4, 4\)"):
        features_at(features[None], [(0.5, 0.5)])
    with pytest.raises(ValueError, match=r"places must be \(k, 2\)"):
        features_at(features, [0.5, 0.5])
    with pytest.raises(ValueError, match=r"features must be \(k, 4\)"):
        corresponding_places(np.ones((2, 5), np.float32), features)
    with pytest.raises(ValueError, match="of one width, not 4 and 3"):
        mutual_neighbours(features, features[..., :3])
    with pytest.raises(ValueError, match=r"in \(0, 1\], not 0"):
        mutual_neighbours(features, features, 0)


@pytest.mark.parametrize("rows, columns", [(14, 14), (10, 16)])
def test_places_are_found_again_to_a_part_of_a_token(rows, columns):
    places = np.random.default_rng(0).uniform(0.2, 0.8, (200, 2))
    moved = np.array([0.11, -0.07])
    found, similarity = corresponding_places(features_at(map_of(14, 14), places), map_of(rows, columns, moved))
    errors = np.abs(found - places - moved) * [columns, rows]
    assert errors.max() < 0.35 and errors.mean() < 0.15  # the nearest token alone: 0.5 and 0.25
    assert similarity.min() > 0.98


def test_the_place_depends_neither_on_the_features_lengths_nor_on_a_share_that_all_have():
    places = np.random.default_rng(1).uniform(0, 1, (50, 2))
    asked, target = features_at(map_of(8, 8), places), map_of(8, 8)
    found, _ = corresponding_places(asked, target)
    lengths = np.random.default_rng(2).uniform(0.5, 2, (8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(corresponding_places(3 * asked, lengths * target)[0], found, atol=1e-5)
    shared = [
        np.concatenate([each, np.full((*each.shape[:-1], 1), 5, np.float32)], axis=-1) for each in (asked, target)
    ]
    lengths = np.linalg.norm(asked, axis=1)  # shorter between tokens
    shared[0][:, -1] *= lengths / np.sqrt(2)
    np.testing.assert_allclose(corresponding_places(*shared)[0], found, atol=1e-3)


def test_a_picture_of_one_grey_has_a_place_for_everything():
    found, similarity = corresponding_places(np.ones((1, 4), np.float32), np.ones((3, 3, 4), np.float32))
    assert np.isfinite(found).all() and similarity == pytest.approx(1)
    zero, _ = corresponding_places(np.zeros((1, 4), np.float32), np.zeros((3, 3, 4), np.float32))
    assert np.isfinite(zero).all()


# Mutual neighbours ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def spotted():
    """Two pictures of background, but for three places that stand out, elsewhere in the second."""
    random, spots = np.random.default_rng(0), np.eye(8, dtype=np.float32)[:3]
    background = np.eye(8, dtype=np.float32)[7]
    maps, places = [], [[(0, 0), (1, 3), (4, 2)], [(2, 2), (3, 0), (0, 4)]]
    for where in places:
        features = background + random.normal(0, 0.01, (5, 5, 8)).astype(np.float32)
        for spot, (row, column) in zip(spots, where, strict=True):
            features[row, column] = spot
        maps.append(features)
    return maps, np.array(places)


def test_what_stands_out_is_salient(spotted):
    (first, _), (places, _) = spotted
    found = saliency(first)
    assert found.shape == (5, 5) and found.min() >= 0
    assert {tuple(each) for each in np.argwhere(found > np.sort(found.ravel())[-4])} == {
        tuple(each) for each in places
    }


def test_mutual_neighbours_are_the_places_that_both_have(spotted):
    maps, places = spotted
    first, second, similarity = mutual_neighbours(*maps, salient=3 / 25)
    assert len(first) == 3 and similarity == pytest.approx(1)
    pairs = {(tuple(one), tuple(other)) for one, other in zip(first.round(3), second.round(3), strict=True)}
    centres = (places[..., ::-1] + 0.5) / 5
    assert pairs == {(tuple(one), tuple(other)) for one, other in centres.round(3).swapaxes(0, 1)}


def test_neighbours_that_are_not_mutual_do_not_count(spotted):
    (first, second), _ = spotted
    lone = first.copy()
    lone[0, 1] = lone[0, 0] + 0.3 * lone[2, 2]  # as near to the spot as any but the spot itself
    kept, _, similarity = mutual_neighbours(lone, second, 1.0)
    assert [0.1, 0.1] in kept.round(3).tolist() and [0.3, 0.1] not in kept.round(3).tolist()
    assert (np.diff(similarity) <= 0).all()
    assert len(mutual_neighbours(lone, second, 0.2)[0]) < len(kept)


# Clusters ------------------------------------------------------------------------------------------------------------


def test_the_same_cluster_is_the_same_kind_of_place_in_all_pictures():
    kinds = np.array([[0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
    features = np.stack([np.eye(4, dtype=np.float32)[each] for each in (kinds, kinds[:, ::-1])])
    first, second = co_segment(features, 3, [(40, 80), (8, 8)])
    assert first.shape == (80, 40) and second.shape == (8, 8)
    # The middles of tokens have their cluster, the largest of which is 0
    np.testing.assert_array_equal(first[10::20, 5::10], np.array([0, 2, 1])[kinds])
    assert second[4, 7] == second[4, 5] == 0 and second[4, 0] == 1
    assert first[30, 19] == 0 and first[30, 21] == 1  # a border half-way between the tokens


def test_pictures_too_few_for_the_clusters_are_refused():
    features = map_of(2, 2)[None]
    with pytest.raises(ValueError, match="between 2 and 4, the tokens of the pictures, not 5"):
        co_segment(features, 5, [(8, 8)])
    with pytest.raises(ValueError, match="fewer than 3 different features"):
        co_segment(np.ones((2, 3, 3, 4), np.float32), 3, [(8, 8)] * 2)
    with pytest.raises(ValueError, match="sizes n, not"):
        co_segment(features, 2, [])


def test_like_features_lie_close_in_the_plane():
    random = np.random.default_rng(0)
    features = np.repeat(np.eye(3, 6), 8, axis=0) + random.normal(0, 0.02, (24, 6))
    points = project_features(features.astype(np.float32))
    groups = np.repeat(range(3), 8)
    distances = np.linalg.norm(points[:, None] - points, axis=2) + np.diag([np.inf] * 24)
    assert points.shape == (24, 2) and (groups[distances.argmin(axis=1)] == groups).all()
    assert np.array_equal(points, project_features(features.astype(np.float32)))
    with pytest.raises(ValueError, match="at least four points"):
        project_features(features[:3])
