"""The verb `evaluate`: a model on task datasets, by group, against another model, and calibrated."""

from pathlib import Path

from ..evaluation.arguments import EvaluationArguments
from .arguments import check_names, parse, quiet


def evaluate(argv: list[str]) -> int:
    """Test a model on task datasets."""
    args, given = parse(
        EvaluationArguments,
        "evaluate",
        argv,
        "AUROC per label with patient-clustered intervals, beside what ten global image numbers (of volumes eleven) "
        "reach; of a segmenter Dice, IoU and the distance of borders, beside what the mean mask of training reaches.",
        model={"help": "Folder or Hub id of an ark-cxr, or of a Genesis, whose datasets have volumes."},
        datasets={
            "nargs": "+",
            "help": "Folders or Hub ids of task datasets, each for its task's head, or HEAD=DATASET.",
        },
    )
    datasets = [each if Path(each).exists() else each.rpartition("=")[2] for each in given.datasets]
    check_names(given.model, datasets)
    if args.against is not None:
        check_names(args.against)
    quiet()
    from ..evaluation.evaluate import evaluate as run

    evaluation = run(given.model, given.datasets, args)
    print(evaluation.text)
    if args.out is not None:
        print(f"The report is in {evaluation.page}.")
    if args.calibrate is not None:
        print(f"The calibrated model is in {args.calibrate}.")
    return 0
