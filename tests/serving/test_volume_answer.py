"""What the page answers of volumes: slices with sliders, millilitres, probabilities; nothing but the file is read."""

import json

import numpy as np
import pytest

from ark_hf.data.images.image_files import UnreadableImageError
from ark_hf.inference.measurements import measure_volume
from ark_hf.inference.sliding_window import classify_volume, segment_volume
from ark_hf.serving import volume_answer
from ark_hf.serving.volume_answer import VolumeReader
from tests.data.volumes.made import ct, metaimage, nifti
from tests.inference.genesis_models import ORGANS, genesis_classifier, genesis_segmenter
from tests.inference.test_sliding_window import smooth_ct
from tests.serving.test_page import Answer, picture_of

NAME = 'ct <b>"x".nii.gz'


def packed(volume) -> bytes:
    return nifti(volume.voxels, volume.affine, packed=True)


def test_a_segmenter_shows_slices_and_millilitres(monkeypatch):
    monkeypatch.setattr(volume_answer, "SLICES", 6)
    reader, volume = VolumeReader(*genesis_segmenter()), smooth_ct((13, 9, 5))
    html = reader.answer(NAME, packed(volume))
    answer = Answer(html)
    measured = measure_volume(segment_volume(*vars(reader).values(), volume), volume.affine, ORGANS)
    assert [each.strip() for each in answer.names] == ["All masks", *ORGANS.labels]
    assert [" ".join(each.split()) for each in answer.scores[1:]] == [
        f"{ml:,.2f} ml {voxels:,} voxels" if voxels else "not found"
        for voxels, ml in zip(measured.voxels, measured.ml, strict=True)
    ]
    assert "ct &lt;b&gt;&quot;x&quot;.nii.gz: 13 x 9 x 5 voxels of 0.7 x 0.8 x 2.5 mm" in html
    assert [each["alt"] for each in answer.images] == ["Axial slice", "Coronal slice", "Sagittal slice"]
    there = {number for number, voxels in enumerate(measured.voxels) if voxels}
    assert {int(each["value"]) for each in answer.choices[1:]} == there and len(there) >= 1
    sliders = [each for each in answer.sliders if "data-slices" in each]
    for plane, image, slider, count in zip(
        ("Axial", "Coronal", "Sagittal"), answer.images, sliders, (5, 9, 13), strict=True
    ):
        slices = json.loads(slider["data-slices"])
        assert slider["type"] == "range" and int(slider["max"]) == len(slices) - 1 <= 5
        assert image["src"] == slices[int(slider["value"])]["picture"]
        assert len({each["picture"] for each in slices}) == len(slices)
        for each in slices:
            assert each["picture"].startswith("data:image/jpeg;base64,")
            assert each["about"].startswith(f"{plane}, slice ") and each["about"].endswith(f" of {count}")
            assert {int(number) for number in each["layers"]} <= there
            size = picture_of(each["picture"]).shape
            assert all(picture_of(layer).shape == size for layer in each["layers"].values())
    assert answer.facts["rows"] == [
        {"task": ORGANS.name, "label": label, "voxels": voxels, "ml": pytest.approx(ml)}  # float32 in the file
        for label, voxels, ml in zip(ORGANS.labels, measured.voxels, measured.ml, strict=True)
    ]
    sides = np.array([[13 * 0.7, 9 * 0.8], [13 * 0.7, 5 * 2.5], [13 * 0.7, 5 * 2.5]]) * 320 / 12.5
    sizes = [picture_of(each["src"]).shape[1::-1] for each in answer.images]
    assert np.abs(np.array(sizes) - sides).max() <= 1  # the sagittal ones, which are narrower, have black beside them


def test_a_classifier_shows_slices_and_probabilities():
    reader, volume = VolumeReader(*genesis_classifier()), smooth_ct((13, 9, 5))
    html = reader.answer("ct.nii", nifti(volume.voxels, volume.affine))
    answer, probabilities = Answer(html), classify_volume(*vars(reader).values(), volume)
    assert answer.names == ["nodule", "emphysema"]
    assert [each.strip() for each in answer.scores] == [f"{100 * each:.1f}\xa0%" for each in probabilities]
    assert "The model sees the middle of the volume, 4 x 6 x 8 voxels." in html and not answer.choices
    assert len([each for each in answer.sliders if "data-slices" in each]) == 3
    assert [each["probability"] for each in answer.facts["rows"]] == [float(each) for each in probabilities]


def test_what_cannot_be_read_is_refused_in_a_line(tmp_path, monkeypatch):
    reader = VolumeReader(*genesis_segmenter())
    (tmp_path / "secret.raw").write_bytes(ct().voxels.tobytes(order="F"))
    monkeypatch.chdir(tmp_path)
    elsewhere = metaimage(ct(), data="secret.raw")
    for name, data, reason in (
        ("a.png", b"\x89PNG\r\n\x1a\n", "a.png: this is a 2D picture"),
        ("flat.nii", nifti(np.zeros((7, 6, 1), np.int16)), "it is 2D, 7 x 6"),
        ("empty.nii", b"", "no NIfTI file"),
        ("ct.mhd", elsewhere, "there is no secret.raw beside it"),
        (f"{tmp_path}/ct.mhd", elsewhere, "there is no secret.raw beside it"),
    ):
        with pytest.raises(UnreadableImageError, match=reason):
            reader.answer(name, data)
    assert "slice" in reader.answer("ct.mha", metaimage(ct()))
    with pytest.raises(UnreadableImageError, match="ct.nii: this model has no window of Hounsfield units"):
        VolumeReader(*genesis_segmenter(hu_window=None)).answer("ct.nii", packed(ct()))
    monkeypatch.setattr(volume_answer, "MAX_VOXELS", 100)
    with pytest.raises(UnreadableImageError, match="it has 210 voxels, and this page reads 100; crop it"):
        reader.answer("ct.nii", packed(ct()))


def test_reasons_for_doubt_come_first():
    html = VolumeReader(*genesis_classifier()).answer("a.nii", nifti(ct().voxels, qform_code=0, sform_code=0))
    assert "Reasons for doubt" in html and "Its header does not say how it is oriented" in html
