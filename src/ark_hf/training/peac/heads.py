"""
The network that PEAC trains: an encoder and, on its patch tokens, four heads (specification of the originals, 9).

The heads serve the training alone. What is kept of it is the encoder, an ordinary [`ArkModel`]; the heads lie beside
it in a file of their own, for whoever goes on with the training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from ...models.ark.configuration_ark import ArkConfig
from ...models.ark.modeling_ark import ArkModel
from ...weights import UnreadableWeightsError, check_tensors, read_weights_file

HEADS_FILE = "peac_heads.safetensors"


@dataclass
class PeacEmbeddings:
    """Of a crop of each picture: `whole` (batch, width of the global projector), `cells` (batch, tokens, width)."""

    whole: torch.Tensor
    cells: torch.Tensor


@dataclass
class PeacOutput:
    """
    Args:
        order_logits: For each cell of the first crop where it belongs, (batch, tokens, tokens).
        restored: The first crop as it is without distortion and in order, normalised, (batch, channels, H, W).
        first, second: Embeddings of the two crops.
    """

    order_logits: torch.Tensor
    restored: torch.Tensor
    first: PeacEmbeddings
    second: PeacEmbeddings


class PeacHeads(nn.Module):
    """
    Args:
        width: Of the encoder's tokens.
        tokens: Their number; they are the cells of a square, row by row.
        cell: Side of a cell in pixels.
        channels: Of the pictures.
        global_dims, local_dims: Widths of the three layers of the projectors of whole pictures and of cells.
    """

    def __init__(
        self,
        width: int,
        tokens: int,
        cell: int,
        channels: int = 3,
        global_dims: Sequence[int] = (8192, 8192, 8192),
        local_dims: Sequence[int] = (512, 512, 512),
    ):
        super().__init__()
        self.cell = cell
        self.order = nn.Linear(width, tokens)
        self.restoration = nn.Conv2d(width, channels * cell * cell, 1)
        self.global_projector = projector(width, global_dims)
        self.local_projector = projector(width, local_dims)

    def restore(self, tokens: torch.Tensor) -> torch.Tensor:
        """Pictures (batch, channels, H, W) of tokens (batch, tokens, width)."""
        side = round(tokens.shape[1] ** 0.5)
        return F.pixel_shuffle(self.restoration(tokens.transpose(1, 2).unflatten(2, (side, side))), self.cell)

    def embed(self, tokens: torch.Tensor) -> PeacEmbeddings:
        return PeacEmbeddings(self.global_projector(tokens.mean(dim=1)), self.local_projector(tokens))


def projector(width: int, dims: Sequence[int]) -> nn.Sequential:
    first, second, last = dims
    return nn.Sequential(
        nn.Linear(width, first), nn.LayerNorm(first), nn.ReLU(),
        nn.Linear(first, second), nn.LayerNorm(second), nn.ReLU(),
        nn.Linear(second, last, bias=False),
    )  # fmt: skip


class PeacModel(nn.Module):
    """
    Args:
        ark: The encoder; a projector of its own is not used.
        heads: Of its width and number of tokens.
    """

    def __init__(self, ark: ArkModel, heads: PeacHeads):
        super().__init__()
        self.ark, self.heads = ark, heads

    @property
    def config(self) -> ArkConfig:
        return self.ark.config

    def forward(self, first: torch.Tensor, second: torch.Tensor, permutation: torch.Tensor) -> PeacOutput:
        """
        Args:
            first, second: Crops, normalised, (batch, channels, H, W).
            permutation: Which cell of the first crop comes to each place, int64 (batch, tokens).
        """
        of_first, of_second = self._tokens(first, second, permutation)
        heads = self.heads
        return PeacOutput(
            heads.order(of_first), heads.restore(of_first), heads.embed(of_first), heads.embed(of_second)
        )

    def embeddings(
        self, first: torch.Tensor, second: torch.Tensor, permutation: torch.Tensor
    ) -> tuple[PeacEmbeddings, PeacEmbeddings]:
        """Those of [`PeacOutput`] alone, which is all that a teacher is asked for."""
        return tuple(map(self.heads.embed, self._tokens(first, second, permutation)))  # type: ignore[return-value]

    def _tokens(
        self, first: torch.Tensor, second: torch.Tensor, permutation: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        return self.ark(torch.cat([self.permuted(first, permutation), second])).last_hidden_state.chunk(2)

    def permuted(self, first: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
        """First crops as the encoder sees them, see [`permute_cells`]."""
        return permute_cells(first, permutation, self.heads.cell)


def permute_cells(pictures: torch.Tensor, permutation: torch.Tensor, cell: int) -> torch.Tensor:
    """
    Pictures whose cells have changed places: place number k, counted row by row, receives cell `permutation[k]`.

    Args:
        pictures: (batch, channels, H, W).
        permutation: int64 (batch, cells).
        cell: Side of a cell in pixels.
    """
    batch, channels, height, width = pictures.shape
    rows, columns = height // cell, width // cell
    cells = pictures.reshape(batch, channels, rows, cell, columns, cell).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = cells[torch.arange(batch, device=cells.device)[:, None], permutation]
    return moved.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(pictures.shape)


def save_heads(heads: PeacHeads, folder: Path) -> None:
    """Writes them beside a model."""
    weights = {key: value.detach().cpu().contiguous() for key, value in heads.state_dict().items()}
    save_file(weights, folder / HEADS_FILE, {"format": "pt"})


def load_heads(heads: PeacHeads, folder: Path) -> list[str]:
    """
    Fills heads with those that lie beside a model.

    Returns:
        Names of the heads that the file lacks, and which stay as they are.

    Raises:
        ValueError: The file cannot be read, or its heads are of another size.
    """
    try:
        weights = read_weights_file(folder / HEADS_FILE)
        check_tensors(weights, str(folder / HEADS_FILE))
    except UnreadableWeightsError as error:
        raise ValueError(f"init: {error}") from None
    ours = heads.state_dict()
    wrong = [
        f"{key} {tuple(value.shape)} instead of {tuple(ours[key].shape) if key in ours else 'none'}"
        for key, value in weights.items()
        if key not in ours or value.shape != ours[key].shape
    ]
    names = dict.fromkeys(key.partition(".")[0] for key in ours)
    missing = [name for name in names if not any(key.startswith(f"{name}.") for key in weights)]
    lost = [key for key in ours if key.partition(".")[0] not in missing and key not in weights]
    if wrong or lost:
        raise ValueError(
            f"{folder / HEADS_FILE} is of other heads: {', '.join((wrong or lost)[:3])}. Set global_projector_dims "
            "and local_projector_dims as they were, and image_size; or remove the file to begin with fresh heads."
        )
    heads.load_state_dict(weights, strict=False)
    return missing
