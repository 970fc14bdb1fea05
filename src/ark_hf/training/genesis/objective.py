"""What Models Genesis is taught by: the cube before it was deformed."""

import torch


def restoration_loss(
    logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, count: torch.Tensor
) -> torch.Tensor:
    """
    Mean squared error of the sigmoid of `logits` (specification of the originals, section 10).

    Args:
        logits: (batch, C, and three axes), of any float kind.
        target: The same shape, in [0, 1].
        weight: Float (batch,): 1, or 0 for a padding.
        count: Scalar, the sum of the weights of the global batch.

    Returns:
        Float32 scalar: this batch's share of the mean over the global batch, 0 with a gradient if nothing counts.
    """
    errors = (logits.float().sigmoid() - target.float()).square().flatten(1).mean(dim=1)
    return (errors * weight).sum() / count.clamp(min=1)
