"""The verb `export`: a model as an ONNX file."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from .arguments import check_names, parse, quiet


@dataclass
class ExportArguments:
    out: str = field(
        default="ark-cxr-onnx",
        metadata={"help": "New folder for model.onnx, config.json and preprocessor_config.json, as optimum has them."},
    )
    opset: int = field(default=20, metadata={"help": "Version of ONNX's operators, 18 to 23."})


def export(argv: list[str]) -> int:
    """Write a model as ONNX, to predict without torch."""
    args, given = parse(
        ExportArguments,
        "export",
        argv,
        "Exports a model to ONNX. The file names its labels and thresholds, says how a picture is prepared, and is "
        "compared with the model on random pictures.",
        model={"help": "Folder or Hub id of an ark-cxr."},
    )
    check_names(given.model)
    quiet()
    from ..inference.export_onnx import MODEL_FILE, check_can_export, export_onnx
    from ..inference.load import load_ark
    from ..provenance import weights_sha256

    out = Path(args.out)
    check_can_export(out, args.opset)
    model, processor = load_ark(given.model)
    print(f"Exporting {given.model}; this takes up to some minutes.", file=sys.stderr)
    differences = export_onnx(model, processor, out, args.opset, weights_sha256(given.model))
    file = out / MODEL_FILE
    listed = ", ".join(f"{name} {difference:.1e}" for name, difference in differences.items())
    print(f"Largest difference from the model on random pictures: {listed}.")
    print(f"The ONNX model is in {file} ({file.stat().st_size / 1e6:.1f} MB).")
    return 0
