"""
Whether the same landmark has like features in different patients: t-SNE of the landmarks of many phantoms.

    python examples/peac/landmarks.py MODEL [MODEL ...] OUT.png

A panel a model, and one of an untrained encoder of the first one's architecture. t-SNE can show groups where there
are none; so every panel tells how often the most similar feature of another patient is of the same landmark, and how
often it would be by chance.
"""

import sys
from pathlib import Path

import figures
import numpy as np
import phantoms

import ark_hf

IMAGES = 12  # a site
LANDMARKS = [f"{side}_{place}" for side in ("right", "left") for place in ("apex", "hilum", "costophrenic_angle")]
LANDMARKS += ["right_rib_crossing_6_7", "right_rib_crossing_5_6", "left_rib_crossing_5_6"]


def main(models: list[str], out: Path) -> None:
    drawn = phantoms.draw(IMAGES)
    loaded = {figures.shown_name(each): ark_hf.load_ark(each, ark_hf.ArkModel) for each in models}
    model, processor = next(iter(loaded.values()))
    loaded["untrained"] = phantoms.untrained(model), processor
    figure, axes = figures.sheet(1, len(loaded), 3.6)
    for panel, (name, each) in zip(axes.flat, loaded.items(), strict=True):
        maps = ark_hf.dense_features(*each, [picture["image"] for picture in drawn], description=name)
        found, landmarks, patients = [], [], []
        for features, picture in zip(maps, drawn, strict=True):
            there = [landmark for landmark in LANDMARKS if landmark in picture["landmarks"]]
            found.append(ark_hf.features_at(features, [picture["landmarks"][landmark] for landmark in there]))
            landmarks += there
            patients += [picture["patient_id"]] * len(there)
        points = ark_hf.project_features(np.concatenate(found))
        for number, landmark in enumerate(LANDMARKS):
            chosen = np.array(landmarks) == landmark
            panel.scatter(*points[chosen].T, s=9, color=f"C{number}", label=landmark.replace("_", " "))
        right, chance = same_landmark(np.concatenate(found), np.array(landmarks), np.array(patients))
        panel.set_title(f"{name}\nnearest is the same landmark: {right:.0%} (chance {chance:.0%})", fontsize=9)
        print(f"{name:30} {right:.3f} (chance {chance:.3f})")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8, markerscale=2)
    figure.set_figheight(4.9)
    figures.save(figure, out)


def same_landmark(features: np.ndarray, landmarks: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """How often the nearest feature of another patient is of the same landmark, and of how many of them all."""
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    others, same = patients[:, None] != patients, landmarks[:, None] == landmarks
    nearest = np.where(others, directions @ directions.T, -np.inf).argmax(axis=1)
    return float(same[np.arange(len(same)), nearest].mean()), float(same[others].mean())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    main(sys.argv[1:-1], Path(sys.argv[-1]))
