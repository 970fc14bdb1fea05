"""
Score a finding of a dataset that the model was not trained on: what `ark-hf evaluate --zero_shot` does for each label.

    python examples/zero_shot.py ark-cxr data/montgomery Tuberculosis
"""

import sys


from ark_hf import (
    InferenceSamples,
    auroc,
    load_ark,
    load_task_dataset,
    match_label,
    mean_probabilities,
    predict_logits,
    read_synonyms,
    read_task,
    zero_shot_scores,
)

if __name__ == "__main__":
    name, dataset, finding = sys.argv[1:4]
    model, processor = load_ark(name)
    matches = match_label(finding, model.config.tasks, read_synonyms())
    for match in matches:
        print(f"{finding} is scored by {match.task}/{match.label}: {match.reason}")
    task = read_task(dataset)
    samples = InferenceSamples(load_task_dataset(dataset, "test"), task, processor)
    logits, targets = predict_logits([model], samples, 32, description=dataset, all_heads=True)
    scores = zero_shot_scores(mean_probabilities(logits, model.config), matches, model.config.tasks)
    print(f"AUROC {auroc(targets[:, task.labels.index(finding)], scores):.3f}")
