"""A Space with the page of `ark-hf serve`. The Space's variable MODEL names the model."""

import os

from transformers import pipeline

from ark_hf import build_page, start_page  # registers the pipeline, too

MODEL = os.environ.get("MODEL", "someone/ark-cxr")

page = build_page(pipeline("chest-xray-classification", model=MODEL), MODEL)

if __name__ == "__main__":
    start_page(page, "0.0.0.0", 7860)
    page.block_thread()
