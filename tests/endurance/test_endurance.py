"""The scripts of this folder, at a size that a test may take."""

import random

import pytest

from .jobs import JOBS, forks, make_jobs
from .kills import kill_at_random, table
from .soak import soak


@pytest.mark.slow
def test_a_killed_job_of_every_kind_ends_the_same(tmp_path):
    jobs, context, found = make_jobs(tmp_path), forks(), {}
    for name in JOBS:
        (tmp_path / "work" / name).mkdir(parents=True)
        found[name] = kill_at_random(context, jobs[name], tmp_path / "work" / name, 2, random.Random(name))
        assert found[name]["equal"] == found[name]["runs"] and len(found[name]["kills"]) == 2, name
    assert table(found).count("\n") == len(JOBS) + 1


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path):
    found = soak(tmp_path, 1.0, 0, lambda found: None)
    assert found["wrong"] == [] and found["done"]
