"""
A Swin that moves its tokens once a block: timm's weights and names, and its results but for rounding.

timm brings the tokens of every block into windows and back, and in every other block shifts them there and back: four
passes over memory. Norms, MLPs and residuals treat each token alone, so that their order is free. Here a block leaves
the tokens in the order of its windows, and the next brings them from there into the order of its own.
"""

import functools
import math
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerBlock, SwinTransformerStage
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class ArkSwinBlock(SwinTransformerBlock):
    """
    timm's block on tokens (batch, tokens, width) in the order of its windows, row by row within each.

    `arrival` are the places (tokens,) of its tokens among those of the block before, `departure` the inverse; both
    None if the order is the same.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = permute_tokens(x, self.arrival, self.departure)
        if self._is_for_onednn(x):
            return self._forward_in_onednn(x)
        attn: Any = self.attn
        attended = self._attend(attn.qkv(self.norm1(x)))
        x = x + self.drop_path1(attn.proj_drop(attn.proj(attended)))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def _attend(self, qkv: torch.Tensor) -> torch.Tensor:
        """(batch, tokens, width) from queries, keys and values (batch, tokens, 3 * width)."""
        attn: Any = self.attn
        windows = qkv.view(-1, self.window_area, 3, attn.num_heads, qkv.shape[-1] // (3 * attn.num_heads))
        query, key, value = windows.permute(2, 0, 3, 1, 4).unbind(0)
        bias = attn._get_rel_pos_bias()
        if self.attn_mask is not None:
            bias = (bias + self.attn_mask[:, None]).repeat(len(qkv), 1, 1, 1)
        dropout = attn.attn_drop.p if self.training else 0.0
        return _attention(query, key, value, bias, dropout).transpose(1, 2).reshape(*qkv.shape[:2], -1)

    def _is_for_onednn(self, x: torch.Tensor) -> bool:
        """Whether this is plain inference on a CPU, of layers as timm builds them."""
        if x.device.type != "cpu" or torch.is_grad_enabled() or self.training or torch.is_autocast_enabled("cpu"):
            return False
        if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) is not torch.Tensor:
            return False  # a tensor without values, among others: torch cannot tell what these products give
        if x.dtype not in _onednn_dtypes():
            return False
        layers = self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2
        if any(each._forward_hooks or each._forward_pre_hooks for each in (self.mlp, self.mlp.act, *layers)):
            return False  # which nobody would call
        return isinstance(self.mlp.act, nn.GELU) and all(
            type(each) is nn.Linear and each.weight.dtype == x.dtype for each in layers
        )

    def _forward_in_onednn(self, x: torch.Tensor) -> torch.Tensor:
        """
        The same with what follows a product done in its own pass over memory: bias, GELU, residual.

        torch's `addmm` first fills the result with the bias, which on a CPU takes up to half of its time.
        """
        linear = torch.ops.mkldnn._linear_pointwise
        qkv, proj, fc1, fc2 = self.attn.qkv, self.attn.proj, self.mlp.fc1, self.mlp.fc2
        attended = self._attend(linear(self.norm1(x), qkv.weight, qkv.bias, "none", [], ""))
        x = linear.binary(attended, x, proj.weight, proj.bias, "add")
        hidden = linear(self.norm2(x), fc1.weight, fc1.bias, "gelu", [], self.mlp.act.approximate)
        return linear.binary(hidden, x, fc2.weight, fc2.bias, "add")


@functools.cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN computes in here. torch has its products under a name of its own, for compiled models."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return ()
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, dropout: float
) -> torch.Tensor:
    if bias.requires_grad and bias.device.type == "cpu":
        # torch has nothing fused there, and its own way guards against rows that are masked whole
        weights = ((query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1) + bias).softmax(dim=-1)
        return F.dropout(weights, dropout) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


class ArkSwinStage(SwinTransformerStage):
    """timm's stage, (batch, rows, columns, width) in and out, of [`ArkSwinBlock`]s."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        tokens = x.flatten(1, 2)
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return permute_tokens(tokens, self.arrival, self.departure).view(x.shape)

    def init_non_persistent_buffers(self) -> None:
        """Sets the orders in which the tokens come from block to block, and from the last into rows."""
        before = rows = torch.arange(math.prod(self.output_resolution), device="cpu")
        device = self.blocks[0].norm1.weight.device
        for block in self.blocks:
            after = in_windows(block)
            _set_orders(block, before, after, device)
            before = after
        _set_orders(self, before, rows, device)


def in_windows(block: SwinTransformerBlock) -> torch.Tensor:
    """The row-major numbers of a map's tokens, int64 (tokens,), in the order of the block's shifted windows."""
    (rows, columns), (high, wide), shift = block.input_resolution, block.window_size, block.shift_size
    numbers = torch.arange(rows * columns, device="cpu").view(rows, columns).roll((-shift[0], -shift[1]), (0, 1))
    return numbers.view(rows // high, high, columns // wide, wide).transpose(1, 2).flatten()


def _set_orders(module: nn.Module, before: torch.Tensor, after: torch.Tensor, device: torch.device) -> None:
    """`arrival` and `departure` of a module that wants tokens in the order `after` and is given them as `before`."""
    arrival = before.argsort()[after]
    same = torch.equal(before, after)
    for name, order in (("arrival", arrival), ("departure", arrival.argsort())):
        module.register_buffer(name, None if same else order.to(device), persistent=False)


class _Permutation(torch.autograd.Function):
    """The gradient of a permutation is its inverse; autograd, which does not know that, would scatter and add."""

    @staticmethod
    def forward(ctx, tokens, order, inverse):
        ctx.save_for_backward(order, inverse)
        return tokens.index_select(1, order)

    @staticmethod
    def backward(ctx, gradient):
        order, inverse = ctx.saved_tensors
        return _Permutation.apply(gradient, inverse, order), None, None


def permute_tokens(tokens: torch.Tensor, order: torch.Tensor | None, inverse: torch.Tensor | None) -> torch.Tensor:
    if order is None:
        return tokens
    if torch.is_grad_enabled():
        return _Permutation.apply(tokens, order, inverse)
    return tokens.index_select(1, order)


def fuse_swin(encoder: nn.Module, fuse: bool) -> None:
    """Makes the stages and blocks of a timm Swin ours, in place, or timm's own again."""
    for stage in encoder.modules():
        if not isinstance(stage, SwinTransformerStage) or any(block.dynamic_mask for block in stage.blocks):
            continue
        stage.__class__ = ArkSwinStage if fuse else SwinTransformerStage
        for block in stage.blocks:
            block.__class__ = ArkSwinBlock if fuse else SwinTransformerBlock
        if fuse:
            stage.init_non_persistent_buffers()
