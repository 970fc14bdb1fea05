"""The four losses by their definition, on drawn outputs."""

import math

import pytest
import torch
from torch.nn import functional as F

from ark_hf.training.peac.heads import PeacEmbeddings, PeacOutput
from ark_hf.training.peac.objective import TERMS, Objective
from ark_hf.training.peac.samples import matched_cells

PICTURES, CELLS, WIDTH = 5, 9, 4


def embeddings():
    return PeacEmbeddings(torch.randn(PICTURES, 6), torch.randn(PICTURES, CELLS, WIDTH))


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    matches = torch.zeros(PICTURES, CELLS, dtype=torch.bool)
    others = torch.zeros_like(matches)
    for picture in range(PICTURES):  # as many in both crops, at other places
        matches[picture, torch.randperm(CELLS)[: picture + 1]] = True
        others[picture, torch.randperm(CELLS)[: picture + 1]] = True
    batch = {
        "target": torch.randn(PICTURES, 3, 6, 6),
        "permutation": torch.stack([torch.randperm(CELLS) for _ in range(PICTURES)]),
        "shuffled": torch.tensor([True, False, False, True, False]),
        "first_matches": matches,
        "second_matches": others,
        "weight": torch.ones(PICTURES),
    }
    student = PeacOutput(
        torch.randn(PICTURES, CELLS, CELLS), torch.randn(PICTURES, 3, 6, 6), embeddings(), embeddings()
    )
    return student, (embeddings(), embeddings()), batch


def seen(batch):
    """The batch as the objective takes it."""
    names = ("first_matches", "second_matches", "shuffled", "weight")
    return batch | matched_cells(*(batch[name] for name in names))


def losses(drawn, **settings):
    objective = Objective(dict.fromkeys(TERMS, 1.0), **settings)
    student, teacher, batch = drawn
    batch = seen(batch)
    return objective.losses(student, teacher, batch, objective.counts(batch)).tolist()


def test_losses_are_those_of_the_specification(drawn):
    student, (first, second), batch = drawn
    order, restoration, whole, local = losses(drawn)
    assert order == pytest.approx(F.cross_entropy(student.order_logits.flatten(0, 1), batch["permutation"].flatten()))
    assert restoration == pytest.approx(F.mse_loss(student.restored, batch["target"]))
    one, other = F.normalize(student.first.whole, dim=1), F.normalize(student.second.whole, dim=1)
    expected = F.mse_loss(one, F.normalize(second.whole, dim=1)) + F.mse_loss(other, F.normalize(first.whole, dim=1))
    assert whole == pytest.approx(expected)
    pairs = []
    for picture in (1, 2, 4):  # those in order
        places = zip(*(batch[f"{name}_matches"][picture].nonzero()[:, 0] for name in ("first", "second")), strict=True)
        pairs += [(picture, here, there) for here, there in places]
    forward = [student.first.cells[p, i] - second.cells[p, j] for p, i, j in pairs]
    backward = [student.second.cells[p, j] - first.cells[p, i] for p, i, j in pairs]
    squares = [torch.stack(each).square().mean().item() for each in (forward, backward)]
    assert local == pytest.approx(sum(squares) / 2)


def test_the_releases_validation_normalises_along_cells_and_counts_half_a_direction(drawn):
    student, (first, _), batch = drawn
    expected, count = 0.0, 0
    ours, theirs = F.normalize(student.second.cells, dim=1), F.normalize(first.cells, dim=1)
    for picture in (1, 2, 4):
        here, there = batch["first_matches"][picture], batch["second_matches"][picture]
        expected += (ours[picture][there] - theirs[picture][here]).square().sum().item()
        count += int(here.sum()) * WIDTH
    assert losses(drawn, release_validation=True)[3] == pytest.approx(expected / count / 2)


def test_shares_of_a_batch_add_up_and_a_padding_counts_for_nothing(drawn):
    student, teacher, batch = drawn
    objective = Objective(dict.fromkeys(TERMS, 1.0))

    def part(rows):
        def take(each):
            return PeacEmbeddings(each.whole[rows], each.cells[rows])

        cut = PeacOutput(student.order_logits[rows], student.restored[rows], take(student.first), take(student.second))
        return cut, tuple(map(take, teacher)), seen({key: value[rows] for key, value in batch.items()})

    batch["weight"][4] = 0
    counts = objective.counts(seen(batch))
    whole = objective.losses(student, teacher, seen(batch), counts)
    parts = [objective.losses(*part(rows), counts) for rows in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(sum(parts), whole)
    without = part(slice(0, 4))
    torch.testing.assert_close(objective.losses(*without, objective.counts(without[2])), whole)


def test_without_a_picture_in_order_the_cells_have_no_gradient(drawn):
    student, teacher, batch = drawn
    batch["shuffled"][:] = True
    batch = seen(batch)
    student.first.cells.requires_grad_()
    objective = Objective(dict.fromkeys(TERMS, 1.0))
    found = objective.losses(student, teacher, batch, objective.counts(batch))
    assert found[3] == 0 and not found[3].requires_grad and math.isfinite(objective.total(found))


def test_the_total_is_weighted():
    weights = {"order": 1.0, "restoration": 2.0, "global": 100.0, "local": 0.0}
    assert Objective(weights).total(torch.tensor([1.0, 2.0, 3.0, 4.0])) == 305
