"""Cubes of CTs: where they lie, the rule of air of Models Genesis, and their scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ark_hf.data.volumes.cubes import CubeRules, cube_at, draw_cubes, scale_window, tissue_share
from ark_hf.data.volumes.geometry import reorient
from ark_hf.data.volumes.volume import Volume
from tests.data.volumes.made import affine

ANYWHERE = CubeRules((3, 4, 2), (0, 0, 0), 8, most_tissue=None)


def numbered(shape=(12, 11, 10)) -> Volume:
    """A volume whose values tell their index: -1000 and more, LPS."""
    return Volume((np.arange(np.prod(shape)) - 1000).reshape(shape).astype(np.int16), affine(directions=np.eye(3)))


def start_of(cube: np.ndarray, shape) -> tuple[int, ...]:
    return np.unravel_index(int(round(float(cube[0, 0, 0]) * 2000)), shape)


@settings(max_examples=60)
@given(
    npst.arrays(
        np.int16, st.tuples(*[st.integers(1, 4)] * 2, st.integers(3, 6)), elements=st.sampled_from((-800, -150, 40))
    )
)
def test_the_rule_of_air_is_that_of_the_originals(block):
    """Written out as the specification has it: d = 1 - k/2, k the first of three slices that is dense, else 2."""
    depth = block.shape[2] - 2
    total = 0.0
    for x, y, z in np.ndindex(*block.shape[:2], depth):
        k = next((k for k in range(3) if block[x, y, z + k] >= -150), 2)
        total += 1 - k / 2
    assert tissue_share(block) == pytest.approx(total / (block[..., :depth].size))


def test_the_defaults_are_those_of_the_publication():
    rules = CubeRules()
    assert (rules.size, rules.border, rules.count, rules.most_tissue) == ((64, 64, 32), (100, 100, 30), 32, 0.15)
    voxels = np.full((280, 270, 100), -1000, np.int16)
    voxels[99], voxels[:, 99], voxels[:, :, 29] = 1000, 1000, 1000  # what lies before the borders
    voxels[180:], voxels[:, 170:], voxels[:, :, 70:] = 1000, 1000, 1000
    cubes = draw_cubes(Volume(voxels, affine(directions=np.eye(3))), np.random.default_rng(0))
    assert cubes.shape == (32, 64, 64, 32) and cubes.dtype == np.float32 and not cubes.any()


def test_cubes_lie_everywhere_within_the_borders():
    volume = numbered()
    rules = CubeRules((3, 4, 2), (2, 1, 3), 400, most_tissue=None)
    starts = np.array([start_of(cube, volume.shape) for cube in draw_cubes(volume, np.random.default_rng(1), rules)])
    np.testing.assert_array_equal(starts.min(0), [2, 1, 3])
    np.testing.assert_array_equal(starts.max(0), [12 - 2 - 3, 11 - 1 - 4, 10 - 3 - 2])


def test_cubes_with_too_much_tissue_are_drawn_anew():
    volume = numbered((12, 12, 12))
    dense = volume.voxels.copy()
    dense[:, :, 6:] = 100
    rules = CubeRules((3, 3, 3), (0, 0, 0), 50, most_tissue=0.15)
    cubes = draw_cubes(Volume(dense, volume.affine), np.random.default_rng(0), rules)
    assert len(cubes) == 50
    assert {start_of(cube, dense.shape)[2] for cube in cubes} == {0, 1, 2}  # from 3 on, half of a third is dense
    everywhere = Volume(np.full((12, 12, 12), 100, np.int16), volume.affine)
    assert draw_cubes(everywhere, np.random.default_rng(0), rules).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAR"])
def test_cubes_depend_on_the_body_and_not_on_how_it_is_stored(orientation):
    expected = draw_cubes(numbered(), np.random.default_rng(3), ANYWHERE)
    stored = reorient(numbered(), orientation)
    np.testing.assert_array_equal(draw_cubes(stored, np.random.default_rng(3), ANYWHERE), expected)
    turned = draw_cubes(stored, np.random.default_rng(3), ANYWHERE, "zyx")
    assert turned.shape == (8, 2, 4, 3)
    np.testing.assert_array_equal(turned, expected.transpose(0, 3, 2, 1))


@pytest.mark.parametrize(
    ("shape", "wanted"), [((263, 270, 100), "264 x 264 x 94"), ((300, 300, 93), "264 x 264 x 94")]
)
def test_volumes_too_small_are_refused_with_what_is_needed(shape, wanted):
    volume = Volume(np.broadcast_to(np.int16(0), shape), affine())
    with pytest.raises(
        ValueError, match=f"the volume has {' x '.join(map(str, shape))} voxels, and cubes .* {wanted}"
    ):
        draw_cubes(volume, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [{"size": (0, 1, 1)}, {"count": 0}, {"border": (-1, 0, 0)}, {"window": (5, 5)}])
def test_rules_that_make_no_cubes_are_refused(wrong):
    with pytest.raises(ValueError):
        CubeRules(**wrong)
    with pytest.raises(ValueError, match="use one of"):
        draw_cubes(numbered(), np.random.default_rng(0), ANYWHERE, "zxy")


@settings(max_examples=40)
@given(npst.arrays(np.int16, (2, 3, 4)))
def test_hounsfield_units_become_0_to_1(voxels):
    scaled = scale_window(voxels)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, (np.clip(voxels.astype(float), -1000, 1000) + 1000) / 2000, atol=1e-7)
    assert scale_window(np.array([-160.0, 40, 240]), (-160, 240)).tolist() == [0, 0.5, 1]


@settings(max_examples=25)
@given(st.tuples(st.integers(0, 11), st.integers(0, 10), st.integers(0, 9)))
def test_the_cube_around_a_place_keeps_every_voxel_in_its_place(index):
    volume = numbered()
    cube = cube_at(reorient(volume, "RAS"), (volume.affine @ [*index, 1])[:3], (6, 4, 8), outside=-1000)
    assert cube.shape == (6, 4, 8) and cube.voxels[3, 2, 4] == volume.voxels[index]
    for at in np.ndindex(cube.shape):
        there = np.rint(np.linalg.inv(volume.affine) @ cube.affine @ [*at, 1])[:3].astype(int)
        inside = (there >= 0).all() and (there < volume.shape).all()
        assert cube.voxels[at] == (volume.voxels[tuple(there)] if inside else -1000)


def test_a_place_beyond_the_volume_is_refused():
    with pytest.raises(ValueError, match="it lies outside the volume"):
        cube_at(numbered(), (500, 0, 0))
