"""What the published code makes of the values in its lists, to the last random digit (specification, section 4)."""

import math
import random
from collections.abc import Callable, Sequence

from ark_hf.data.sources.original_lists import FORMATS, ListedImage

POLICIES: dict[str, Callable[[random.Random], float]] = {
    "Ones": lambda generator: 1.0,
    "Zeros": lambda generator: 0.0,
    "LSR-Ones": lambda generator: generator.uniform(0.55, 0.85),
    "LSR-Zeros": lambda generator: generator.uniform(0, 0.3),
}
# What the classes of the published code do with an uncertain label unless told, and so in all of their pretraining
DEFAULT_POLICIES = {"chexpert": "LSR-Ones", "mimic_cxr": "Ones"}


def original_targets(
    images: Sequence[ListedImage],
    task: str,
    policy: str | None = None,
    generator: random.Random | None = None,
    unknown: float = 0.0,
) -> list[list[float]]:
    """
    The targets that the published code trains on, in the order of the list.

    Args:
        images: The lines of one list, in its order, on which the random numbers depend.
        task: A key of `FORMATS`; classes become one-hot.
        policy: What becomes of an uncertain label, a key of `POLICIES`; by default as in `DEFAULT_POLICIES`.
        generator: Python's generator, from which soft labels are drawn in reading order.
        unknown: What a blank becomes.
    """
    generator = generator or random.Random()
    draw = POLICIES[policy or DEFAULT_POLICIES.get(task, "Ones")]

    def target(value: float) -> float:
        if math.isnan(value):
            return unknown
        return draw(generator) if value == -1 else value

    targets = []
    for image in images:
        if isinstance(image.labels, int):
            targets.append([float(image.labels == index) for index in range(FORMATS[task].num_labels)])
        else:
            targets.append([target(value) for value in image.labels])
    return targets


def original_subset(count: int, percent: float) -> list[int]:
    """
    Which of `count` lines the published code keeps when it trains on `percent` percent of a list, in its order.

    (It shuffles all of them with Python's `random.Random(99)` and takes the first; 100 percent are not shuffled.)
    """
    indices = list(range(count))
    if percent >= 100:
        return indices
    random.Random(99).shuffle(indices)
    return indices[: int(count * percent / 100.0)]
