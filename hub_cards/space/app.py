"""A Space with the page of `ark-hf serve`. The Space's variable MODEL names the model."""

import os

from transformers import pipeline

from ark_hf import ArkConfig, build_page, start_page  # registers the pipelines, too

MODEL = os.environ.get("MODEL", "someone/ark-cxr")
kind = "classification" if ArkConfig.from_pretrained(MODEL).segmentation is None else "segmentation"

page = build_page(pipeline(f"chest-xray-{kind}", model=MODEL), MODEL)

if __name__ == "__main__":
    start_page(page, "0.0.0.0", 7860).wait()
