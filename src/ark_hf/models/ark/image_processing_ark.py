"""Image processors of Ark: radiographs of 8 to 16 bits, and colours, to normalised 3-channel tensors."""

# transformers' own backends disagree with their base class on these
# mypy: disable-error-code="override, misc, attr-defined, arg-type"

import os

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature, get_size_dict
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs

from .masks_ark import label_maps
from .tasks_ark import DEFAULT_MODALITY, MODALITIES, check_modality, is_in_colour

BIT_DEPTHS = (8, 10, 12, 14, 15, 16)
CHANNEL_COUNTS = (1, 3, 4)
ROUNDING = 1e-4  # how far rounding, as of a resize in float32, may carry floats out of [0, 1]; of coarser ones an ulp
OF_A_MODALITY = ("image_mean", "image_std", "do_normalize", "resample")  # what may be another for each
DEEP_PIL_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")


class ArkImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    r"""
    intermediate_size (`int` or `dict[str, int]`, *optional*, defaults to `self.intermediate_size`):
        If set, the image is resized to this size first and to `size` afterwards.
    do_ten_crop (`bool`, *optional*, defaults to `self.do_ten_crop`):
        Whether to return ten crops of `crop_size` an image, instead of the image or its centre.
    modality (`str`, *optional*, defaults to `self.modality`):
        DICOM's code of what the images are taken with.
    modalities (`dict[str, dict]`, *optional*, defaults to `self.modalities`):
        Further modalities, and the settings that they have otherwise.
    """

    intermediate_size: int | list[int] | tuple[int, ...] | dict[str, int] | None
    do_ten_crop: bool | None
    modality: str | None
    modalities: dict | None


class ArkImageProcessingBase(BaseImageProcessor):
    """What the two backends of the Ark image processor share: the attributes, the accepted inputs, the views."""

    valid_kwargs = ArkImageProcessorKwargs

    do_convert_rgb = True
    do_resize = True
    intermediate_size = None
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BICUBIC
    do_center_crop = False
    do_ten_crop = False
    crop_size = {"height": 224, "width": 224}
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    modality = DEFAULT_MODALITY
    modalities: dict | None = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        if self.modality in (self.modalities or {}):
            raise ValueError(f"modalities: {self.modality} is the default one already; leave it out")

    @property
    def num_channels(self) -> int:
        """How many channels the images get, as many as `image_mean` has; 3 if it is one number for all."""
        return len(self.image_mean) if isinstance(self.image_mean, (list, tuple)) else 3

    @property
    def all_modalities(self) -> list[str]:
        """Codes of the modalities whose images it takes, the default first."""
        return [self.modality, *(self.modalities or {})]

    def of(self, modality: str):
        """The processor as it takes images of this modality, and of no other; of one that it lacks, by default."""
        if not self.modalities and modality == self.modality:
            return self
        settings = (self.modalities or {}).get(modality, {})
        return type(self).from_dict(self.to_dict() | settings | {"modality": modality, "modalities": {}})

    def preprocess(self, images: ImageInput, *args, **kwargs) -> BatchFeature:
        modality = kwargs["modality"] = kwargs.get("modality") or self.modality
        if not self.modalities:
            return super().preprocess(images, *args, **kwargs)
        features = super().preprocess(images, *args, **self.modalities.get(modality, {}) | kwargs)
        numbers = [MODALITIES.index(modality)] * len(features["pixel_values"])
        tensor_type = kwargs.get("return_tensors", self.return_tensors)
        return BatchFeature({**features, "modality": numbers}, tensor_type=tensor_type)

    def to_dict(self) -> dict:
        # Both classes stand in the saved file, so that remote code honours `backend`; transformers records one
        output = super().to_dict()
        if output["modality"] == DEFAULT_MODALITY:
            del output["modality"]
        if not output.get("modalities"):
            output.pop("modalities", None)
        output["auto_map"] = {
            "AutoImageProcessor": {
                "torchvision": "image_processing_ark.ArkImageProcessor",
                "pil": "image_processing_ark.ArkImageProcessorPil",
            }
        }
        return output

    def fetch_images(self, image_url_or_urls):
        # transformers opens files as 8-bit RGB, which clips deeper radiographs to white.
        if isinstance(image_url_or_urls, str) and os.path.isfile(image_url_or_urls):
            with PIL.Image.open(image_url_or_urls) as image:
                _check_that_no_bits_are_lost(image)
                return PIL.ImageOps.exif_transpose(image)
        return super().fetch_images(image_url_or_urls)

    def post_process_semantic_segmentation(
        self, outputs, target_sizes=None, return_segmentation_scores: bool = False
    ) -> list[torch.Tensor] | list[BatchFeature]:
        """Label maps of a segmenter's outputs; see [`label_maps`]. `target_sizes` are (height, width)."""
        return label_maps(outputs, target_sizes, return_segmentation_scores)

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3):
        return super()._prepare_images_structure(_add_missing_channel_axis(images), expected_ndims)

    def _standardize_kwargs(self, intermediate_size=None, **kwargs) -> dict:
        kwargs = super()._standardize_kwargs(**kwargs)
        check_modality(kwargs["modality"], "modality")
        _check_further(kwargs["modalities"] or {})
        if intermediate_size is not None and not isinstance(intermediate_size, SizeDict):
            intermediate_size = SizeDict(**get_size_dict(intermediate_size, param_name="intermediate_size"))
        kwargs["intermediate_size"] = intermediate_size
        for name in ("intermediate_size", "size", "crop_size"):
            size = kwargs[name]
            if size is not None and not (size.height and size.width):
                raise ValueError(f"`{name}` must give height and width, as the aspect ratio is not kept: {dict(size)}")
        return kwargs

    def _validate_preprocess_kwargs(self, do_center_crop=None, do_ten_crop=None, modality=None, **kwargs):
        if modality not in self.all_modalities:
            known = " and ".join(self.all_modalities)
            raise ValueError(f"this image processor is for images of modality {known}, not {modality}")
        if is_in_colour(modality) and self.num_channels != 3:
            raise ValueError(
                f"images of modality {modality} have colours, and the network sees {self.num_channels} channels"
            )
        super()._validate_preprocess_kwargs(do_center_crop=do_center_crop or do_ten_crop, **kwargs)

    def _preprocess(
        self,
        images: list,
        do_resize: bool,
        intermediate_size: SizeDict | None,
        resample,
        do_center_crop: bool,
        do_ten_crop: bool,
        crop_size: SizeDict,
        disable_grouping: bool | None,
        return_tensors: str | None,
        **kwargs,
    ) -> BatchFeature:
        if do_resize and intermediate_size is not None:
            images = [self.resize(image, intermediate_size, resample) for image in images]
        features = super()._preprocess(
            images,
            do_resize=do_resize,
            resample=resample,
            do_center_crop=do_center_crop and not do_ten_crop,
            crop_size=crop_size,
            # Groups are keyed by size alone, and stacking 8-bit with float images would mix their scales.
            disable_grouping=True if len({image.dtype for image in images}) > 1 else disable_grouping,
            return_tensors=None if do_ten_crop else return_tensors,
            **kwargs,
        )
        if do_ten_crop:
            crops = [self.ten_crop(image, crop_size) for image in features["pixel_values"]]
            features = BatchFeature({"pixel_values": crops}, tensor_type=return_tensors)
        return features

    def _five_crops(self, image, size: SizeDict) -> list:
        top, left = image.shape[-2] - size.height, image.shape[-1] - size.width
        if top < 0 or left < 0:
            raise ValueError(
                f"ten crops of {size.height}x{size.width} need an image of at least that size, "
                f"got {image.shape[-2]}x{image.shape[-1]}: set `size` to the size before cropping"
            )
        upper, lower = image[..., : size.height, :], image[..., top:, :]
        corners = [crop for half in (upper, lower) for crop in (half[..., : size.width], half[..., left:])]
        return [*corners, self.center_crop(image, size)]


class ArkImageProcessor(ArkImageProcessingBase, TorchvisionBackend):
    r"""
    Image processor of Ark on torchvision, and the default one. [`ArkImageProcessorPil`] is its twin on Pillow.

    Input: one image, a list of images of any sizes and kinds, or a batch (4 dimensions). An image is a PIL image of
    any mode, or a NumPy array or tensor of shape (H, W), (1, H, W), (H, W, 1), (3, H, W), (H, W, 3), or with 4
    channels, whose alpha is dropped. Its values are

    - 8-bit integers, taken as they are;
    - other integers from 0 to 65535, which includes PIL's `I;16` and `I`, divided by 2^n - 1 with n the smallest of
      8, 10, 12, 14, 15 and 16 that holds the image's maximum, and resized in floating point;
    - floats in [0, 1] (0 black, 1 white), which are not rescaled again; what lies outside by rounding is clipped.

    Other values, NaN included, raise a `ValueError`.

    Output: `pixel_values`, float32, of shape (B, C, H, W), or (B, 10, C, H, W) with `do_ten_crop`. C is 3, or for a
    network of other `num_channels` as many as `image_mean` and `image_std` have; it then sees grey alone.

    The views of Ark, for R the size of the stored image and C that of the model:

    | view | arguments |
    |---|---|
    | inference (the default) | `size=C` |
    | the teacher's in pretraining | `intermediate_size=R, size=C` |
    | validation | `size=R, do_center_crop=True, crop_size=C` |
    | ten-crop test | `size=R, do_ten_crop=True, crop_size=C` |

    Args:
        size (`int` or `dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`):
            Size after resizing. The aspect ratio is not kept.
        intermediate_size (`int` or `dict[str, int]`, *optional*):
            If set, the image is resized to this size first and to `size` afterwards.
        resample (`PILImageResampling`, *optional*, defaults to `PILImageResampling.BICUBIC`):
            Filter of all resizing.
        do_center_crop (`bool`, *optional*, defaults to `False`):
            Whether to crop the centre to `crop_size` after resizing.
        do_ten_crop (`bool`, *optional*, defaults to `False`):
            Whether to return ten crops of `crop_size`: upper left, upper right, lower left, lower right and centre of
            the image, then the same five of its left-right mirror image. Takes precedence over `do_center_crop`.
        crop_size (`int` or `dict[str, int]`, *optional*, defaults to `{"height": 224, "width": 224}`):
            Size of the crops.
        image_mean (`list[float]`, *optional*, defaults to ImageNet's):
            Mean to subtract, on the scale [0, 1], of each channel.
        image_std (`list[float]`, *optional*, defaults to ImageNet's):
            Standard deviation to divide by, on the scale [0, 1], of each channel.
        modality (`str`, *optional*, defaults to `"CR"`):
            DICOM's code of what the images are taken with, unless the call tells it. It changes nothing of what is
            done to them, and images of another one are refused, but for those in `modalities`.
        modalities (`dict[str, dict]`, *optional*):
            Further modalities that a model has heads for, by DICOM's code, each with what is set otherwise for it:
            `image_mean`, `image_std`, `do_normalize` or `resample`. The output then has `modality` beside
            `pixel_values`, int64 (B,), numbers in `MODALITIES`, by which a model knows which heads to ask.

    The remaining arguments (`do_resize`, `do_rescale`, `rescale_factor`, `do_normalize`, `do_convert_rgb`, ...) are
    those of every image processor of transformers; `do_rescale` concerns 8-bit values only. All can be given at
    construction or in the call.

    Raises:
        ValueError: if an image has values, a dtype or a shape other than the above, or a size lacks height or width.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: "torch.device | str | None" = None,
        **kwargs,
    ) -> torch.Tensor:
        return _to_channels_first(image, do_convert_rgb, input_data_format, device, self.num_channels)

    def resize(self, image: torch.Tensor, size: SizeDict, resample=None, **kwargs) -> torch.Tensor:
        if tuple(image.shape[-2:]) == (size.height, size.width):
            return image
        planes = image[..., :1, :, :] if image.stride(-3) == 0 else image
        planes = super().resize(planes, size, resample, **kwargs)
        if planes.is_floating_point():
            planes = planes.clamp(0, 1)  # a bicubic filter overshoots; in 8 bits the values saturate
        return planes.contiguous().expand(*planes.shape[:-3], image.shape[-3], *planes.shape[-2:])

    def rescale_and_normalize(self, images: torch.Tensor, do_rescale: bool, *args, **kwargs) -> torch.Tensor:
        return super().rescale_and_normalize(images, do_rescale and images.dtype == torch.uint8, *args, **kwargs)

    def ten_crop(self, image: torch.Tensor, size: SizeDict) -> torch.Tensor:
        """The five crops of `size` of an image (C, H, W), then those of its mirror image: (10, C, h, w)."""
        return torch.stack([*self._five_crops(image, size), *self._five_crops(image.flip(-1), size)])


class ArkImageProcessorPil(ArkImageProcessingBase, PilBackend):
    r"""
    Image processor of Ark on Pillow, the library of the original code, whose numbers it gives to 1e-6; with a Pillow
    before 13, grey images differ by one grey level on up to 2 % of their pixels.

    Inputs, arguments and outputs are those of [`ArkImageProcessor`], which differs by a grey level on few pixels.
    """

    def process_image(
        self,
        image: ImageInput,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs,
    ) -> np.ndarray:
        return _to_channels_first(image, do_convert_rgb, input_data_format, "cpu", self.num_channels).numpy()

    def resize(self, image: np.ndarray, size: SizeDict, resample=None, **kwargs) -> np.ndarray:
        planes = image[:1] if image.strides[0] == 0 else image
        if planes.dtype == np.uint8:
            planes = super().resize(planes, size, resample, **kwargs)
        else:
            # Here transformers would quantise to 8 bits.
            resized = [PIL.Image.fromarray(plane).resize((size.width, size.height), resample) for plane in planes]
            planes = np.clip(np.stack(resized), 0, 1)
        return np.broadcast_to(planes, (image.shape[0], *planes.shape[1:]))

    def rescale(self, image: np.ndarray, scale: float, **kwargs) -> np.ndarray:
        return super().rescale(image, scale, **kwargs) if image.dtype == np.uint8 else image

    def normalize(self, image: np.ndarray, mean, std, **kwargs) -> np.ndarray:
        # In float64, as the original code.
        return super().normalize(image.astype(np.float64), mean, std, **kwargs).astype(np.float32)

    def ten_crop(self, image: np.ndarray, size: SizeDict) -> np.ndarray:
        """The five crops of `size` of an image (C, H, W), then those of its mirror image: (10, C, h, w)."""
        return np.stack([*self._five_crops(image, size), *self._five_crops(image[..., ::-1], size)])


def _check_further(modalities: dict) -> None:
    for name, settings in modalities.items():
        check_modality(name, "modalities:")
        unknown = sorted(set(settings) - set(OF_A_MODALITY))
        if unknown:
            raise ValueError(f"modalities: {name} sets {unknown}; what may be another for each is {OF_A_MODALITY}")


def _add_missing_channel_axis(images):
    if isinstance(images, (list, tuple)):
        return [_add_missing_channel_axis(image) for image in images]
    return images[None] if getattr(images, "ndim", None) == 2 else images


def _to_channels_first(image, do_convert_rgb, input_data_format, device, num_channels) -> torch.Tensor:
    """
    An image of any accepted kind as (C, H, W), uint8 or float32 in [0, 1].

    With `do_convert_rgb` C is `num_channels`. A grey image then is one plane seen several times (a channel stride of
    0), which lets `resize` do a part of the work. Colours go into three channels alone; PIL images are made grey for
    others.
    """
    if isinstance(image, PIL.Image.Image):
        _check_that_no_bits_are_lost(image)
        if do_convert_rgb and image.mode not in DEEP_PIL_MODES:
            # The original code drops transparency, too; transformers would lay the image on white.
            image = image.convert("RGB" if num_channels == 3 and image.mode not in ("1", "L", "LA") else "L")
        image = np.array(image)
        input_data_format = ChannelDimension.LAST
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(np.require(image, image.dtype.newbyteorder("="), ["C", "W"]))
    if not isinstance(image, torch.Tensor):
        raise ValueError(f"an image must be a PIL image, a NumPy array or a tensor, got {type(image)}")

    if image.ndim == 2:
        image, input_data_format = image[None], ChannelDimension.FIRST
    shape = tuple(image.shape)
    if image.ndim != 3 or image.numel() == 0:
        raise ValueError(f"an image must have 2 or 3 dimensions and at least one pixel, got shape {shape}")
    if input_data_format is None:
        input_data_format = ChannelDimension.FIRST if shape[0] in CHANNEL_COUNTS else ChannelDimension.LAST
    if input_data_format == ChannelDimension.LAST:
        image = image.permute(2, 0, 1)
    if image.shape[0] not in CHANNEL_COUNTS:
        raise ValueError(f"an image must have 1, 3 or 4 channels, first or last, got shape {shape}")

    image = _to_unit_range(image[:3].to(device) if do_convert_rgb else image.to(device))
    if not do_convert_rgb:
        return image
    if len(image) not in (1, num_channels):
        raise ValueError(f"an image must be grey for a network of {num_channels} channels, got {len(image)}")
    return image.expand(num_channels, -1, -1)


def _check_that_no_bits_are_lost(image: PIL.Image.Image) -> None:
    if image.mode not in DEEP_PIL_MODES and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise ValueError(
            "Pillow keeps 8 bits of this picture's colours of 16 bits: pass what ark_hf.read_radiograph gives for it"
        )


def _to_unit_range(image: torch.Tensor) -> torch.Tensor:
    """8-bit values unchanged, all others as float32 in [0, 1]."""
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool or image.is_complex():
        raise ValueError(f"an image must hold integers or floats, got {image.dtype}")
    values = image.to(torch.float32)
    low, high = (bound.item() for bound in values.aminmax())
    if image.is_floating_point():
        slack = max(ROUNDING, torch.finfo(image.dtype).eps)
        if not (-slack <= low and high <= 1 + slack):
            raise ValueError(
                f"float images must lie in [0, 1] (0 black, 1 white) without NaN, got values from {low} to {high}: "
                "scale the image, or pass the stored integers (uint8, or up to 16 bits)"
            )
        return values.clamp(0, 1)
    if not (0 <= low and high <= 65535):
        raise ValueError(f"integer images must lie in 0..65535, got values from {low:.0f} to {high:.0f}")
    white = next(2**depth - 1 for depth in BIT_DEPTHS if high < 2**depth)
    return image.to(torch.uint8) if white == 255 else values / white


__all__ = ["ArkImageProcessor", "ArkImageProcessorPil"]
