"""
Score a finding of a dataset that the model was not trained on: what `ark-hf evaluate --zero_shot` does for each label.

    python examples/zero_shot.py ark-cxr data/montgomery Tuberculosis

On what `ark-hf demo` left, though its model knows that site:

    python examples/zero_shot.py ark-cxr runs/demo/phantom/phantom_lake "Pleural Effusion"
"""

import sys

import ark_hf

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python examples/zero_shot.py MODEL DATASET LABEL")
    name, dataset, finding = sys.argv[1:]
    model, processor = ark_hf.load_ark(name)
    heads = model.config.tasks
    matches = ark_hf.match_label(finding, heads, ark_hf.read_synonyms())
    for match in matches:
        print(f"{finding} is scored by {match.task}/{match.label}: {match.reason}")
    data = ark_hf.open_dataset(dataset, ["test"])
    samples = ark_hf.InferenceSamples(data.splits["test"], data.task, processor)
    logits, _ = ark_hf.predict_logits([model], samples, batch_size=32, description=dataset, all_heads=True)
    scores = ark_hf.zero_shot_scores(ark_hf.mean_probabilities(logits, model.config), matches, heads)
    print(f"AUROC {ark_hf.auroc(data.targets('test')[:, data.task.labels.index(finding)], scores):.3f}")
