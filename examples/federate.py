"""
Federated pretraining through the public API: what `ark-hf federate` does, here on the built-in phantom sites.

    python examples/federate.py runs/federation    # a minute or two on two cores

Each site trains on its own images, through heads of its own; encoder and projector are averaged after each round.
"""

import sys
from pathlib import Path

from ark_hf import FederatedArguments, SiteSpec, TaskSpec, build_phantom_sites, federate

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/federate.py FOLDER")
    folder = Path(sys.argv[1])
    counts = {"train": 100, "validation": 40, "test": 40}
    datasets = build_phantom_sites(folder / "sites", counts, size=64)
    args = FederatedArguments(
        output_dir=str(folder / "federation"),
        backbone="resnet10t",
        image_size=64,
        projector_dim=128,
        rounds=3,
        cycles_per_round=1,
        batch_size=32,
        optim="adamw",
        learning_rate=1e-3,
        ema_mode="iteration",
        min_crop_scale=0.5,
        publish_heads=True,  # in reality each site decides in its site.yaml
        share_metrics=True,
    )
    sites = [SiteSpec(name.removeprefix("phantom_"), [TaskSpec(str(data))]) for name, data in datasets.items()]
    model = federate(args, sites)
    print(f"The federation's model is in {model}, the report in {folder / 'federation' / 'report.html'}.")
