#!/usr/bin/env bash
# Fills a card of each kind anew, with the package's own commands on drawn phantoms: minutes on two cores, no network.
#
#     bash hub_cards/fill.sh WORK
#
# WORK, a new folder, gets data, runs and reports. Beside this file are then the cards: kinds/NAME/README.md, figures.
# Phantom data shows that the code runs and what a card looks like; it is no evidence about patients.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1" && cd "$1"
rm -rf "$here/kinds"

card() { # NAME MODEL REPORT: the card of a model as `push` would send it, and its figures
    ark-hf push "$2" "someone/$1" ${3:+--report "$3"} --card "cards/$1"
    mkdir -p "$here/kinds/$1"
    cp -r "cards/$1/README.md" $([ -d "cards/$1/figures" ] && echo "cards/$1/figures") "$here/kinds/$1"
}
dataset_card() { # NAME
    mkdir -p "$here/kinds/dataset_$1"
    sed "s|path/to/this/dataset|someone/$1|g" "$2/README.md" > "$here/kinds/dataset_$1/README.md"
}
network() { # What all networks of pictures have: small, without batch norm
    cat <<YAML
backbone: convnext_atto
backbone_kwargs: {depths: [1, 1, 1, 1], dims: [16, 32, 48, 64]}
image_size: 64
drop_path_rate: 0.0
batch_size: 16
optim: adamw
learning_rate: 2.0e-3
min_crop_scale: 0.7
YAML
}

# Datasets: four sites, of which the last is kept for fine-tuning; the first one's pictures in the colours of an eye; masks; volumes
python - <<'PYTHON'
from pathlib import Path

from PIL import Image, ImageOps

import ark_hf

counts = {"train": 80, "validation": 40, "test": 60}
ark_hf.build_phantom_sites(Path("sites"), counts, size=128)
for split, count in counts.items():
    for number in range(count):
        drawn = ark_hf.draw_phantom_image(ark_hf.PHANTOM_SITES["phantom_hill"], split, 1000 + number, size=128)
        folder = Path("raw", split, "healthy" if number % 2 else "ill")
        folder.mkdir(parents=True, exist_ok=True)
        tint = "orange" if number % 2 else "tomato"
        ImageOps.colorize(drawn["image"].convert("L"), "black", tint).convert("RGB").save(folder / f"{number}.png")
eyes = ark_hf.read_generic(ark_hf.GenericSource(Path("raw"), "phantom_eyes", modality="OP"))
eyes.facts["phantom"] = True  # its card says so
ark_hf.build_dataset(eyes, Path("eyes", "phantom_eyes"))
PYTHON
ark-hf data build phantom_masks --out masks --train 60 --validation 20 --test 40 --size 96
ark-hf data build phantom_volumes --out volumes --train 16 --validation 6 --test 10 --size 48
dataset_card phantom_city sites/phantom_city
dataset_card phantom_organs masks/phantom_organs
dataset_card phantom_ct_structures volumes/phantom_ct_structures

# Ark of several tasks
{ network; cat <<YAML
output_dir: several
projector_dim: 64
ema_mode: iteration
cycles: 6
tasks: [{dataset: phantom_city}, {dataset: phantom_coast}, {dataset: phantom_hill}]
YAML
} > several.yaml
ark-hf pretrain several.yaml --data_root sites
ark-hf evaluate several/ark-cxr sites/phantom_city sites/phantom_coast sites/phantom_hill --out several_report
card ark_several_tasks several/ark-cxr several_report

# Ark of one task: fine-tuned, its operating points chosen on validation
ark-hf finetune several/ark-cxr sites/phantom_lake --output_dir one --max_steps 40 --eval_steps 20 --learning_rate 1e-3 --batch_size 16
ark-hf evaluate one/seed-0/ark-cxr sites/phantom_lake --calibrate calibrated --out one_report
card ark_one_task calibrated one_report

# Ark of two modalities
{ network; cat <<YAML
output_dir: modalities
projector_dim: 64
ema_mode: iteration
cycles: 4
tasks: [{dataset: sites/phantom_hill}, {dataset: eyes/phantom_eyes}]
YAML
} > modalities.yaml
ark-hf pretrain modalities.yaml --data_root .
ark-hf evaluate modalities/ark-cxr sites/phantom_hill eyes/phantom_eyes --out modalities_report
card ark_two_modalities modalities/ark-cxr modalities_report

# A segmenter
ark-hf finetune several/ark-cxr masks/phantom_organs --output_dir organs --max_steps 60 --eval_steps 20 --learning_rate 4e-3 \
    --batch_size 8 --decoder_channels 32
ark-hf evaluate organs/seed-0/ark-cxr masks/phantom_organs --out organs_report
card segmenter organs/seed-0/ark-cxr organs_report

# An encoder without heads, by PEAC
cat > peac.yaml <<YAML
method: peac
output_dir: peac
backbone: vit_tiny_patch16_224
backbone_kwargs: {depth: 2, embed_dim: 48, num_heads: 3, patch_size: 8}
image_size: 64
drop_path_rate: 0.0
global_projector_dims: [64, 64, 32]
local_projector_dims: [32, 32, 32]
global_weight: 100.0
learning_rate: 0.01
epochs: 2
batch_size: 16
tasks: [{dataset: phantom_city}]
YAML
ark-hf pretrain peac.yaml --data_root sites
card encoder peac/ark-cxr ""

# Genesis: pretrained without labels, and fine-tuned to outline
cat > genesis.yaml <<YAML
method: genesis
output_dir: genesis
width: 4
depth: 3
cube_size: [16, 16, 16]
border: [0, 0, 0]
cubes_per_volume: 8
epochs: 2
patience: null
batch_size: 8
optim: adamw
learning_rate: 2.0e-3
tasks: [{dataset: phantom_ct_structures}]
YAML
ark-hf pretrain genesis.yaml --data_root volumes
card genesis genesis/genesis ""
ark-hf finetune genesis/genesis volumes/phantom_ct_structures --output_dir outlines --max_steps 60 --eval_steps 30 --learning_rate 2e-3 \
    --batch_size 8
ark-hf evaluate outlines/seed-0/genesis volumes/phantom_ct_structures --out outlines_report
card genesis_segmenter outlines/seed-0/genesis outlines_report

# The master of a federation of two sites
{ network; cat <<YAML
output_dir: federation
projector_dim: 64
ema_mode: iteration
rounds: 2
cycles_per_round: 1
publish_heads: true
sites:
  - {name: north, tasks: [{dataset: phantom_city}]}
  - {name: south, tasks: [{dataset: phantom_coast}]}
YAML
} > federation.yaml
ark-hf federate federation.yaml --data_root sites
ark-hf evaluate federation/ark-cxr sites/phantom_city sites/phantom_coast --out federation_report
card federated federation/ark-cxr federation_report

# Figures of few colours, which are a quarter of the size
cd "$here" && python - <<'PYTHON'
from pathlib import Path

from PIL import Image

for figure in Path("kinds").rglob("*.png"):
    Image.open(figure).convert("RGB").quantize(32).save(figure, optimize=True)
PYTHON
