import math

import pytest
import torch

from cafe_cli.model.cafe import TrainingOutputs
from cafe_cli.training.losses import (
    contrast_loss,
    distillation_loss,
    pyramid_loss,
    training_loss,
    without_borders,
)
from tests.support.small_network import K, scene


def test_pyramid_loss_by_hand():
    labels = torch.full((1, 32, 32), 255)
    labels[0, 16, 16] = 2
    fine, coarse = torch.randn(1, K, 32, 32), torch.randn(1, K, 1, 1)
    expected = -(fine.log_softmax(1)[0, 2, 16, 16] + coarse.log_softmax(1)[0, 2, 0, 0]) / 2
    torch.testing.assert_close(pyramid_loss([coarse, fine], labels), expected)


def test_ignored_pixels_have_no_gradient():
    labels = scene()[1]
    student = torch.randn(2, K, 64, 64, requires_grad=True)
    teacher = torch.randn(2, K, 64, 64, requires_grad=True)
    outputs = TrainingOutputs(student=[student], teacher=[teacher])
    training_loss(outputs, labels, dice=1.0)["total"].backward()
    ignored = (labels == 255)[:, None].expand_as(student)
    for logits in (student, teacher):
        assert (logits.grad[ignored] == 0).all()
        assert (logits.grad[~ignored] != 0).any()


def test_distillation_by_hand_and_one_way():
    student = torch.tensor([0.3, 0.7]).log().view(1, 2, 1, 1).requires_grad_()
    teacher = torch.tensor([0.5, 0.5]).log().view(1, 2, 1, 1).requires_grad_()
    loss = distillation_loss(student, teacher, torch.zeros(1, 1, 1, dtype=torch.long))
    expected = 0.5 * torch.tensor(0.5 / 0.3).log() + 0.5 * torch.tensor(0.5 / 0.7).log()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad.flatten(), torch.tensor([-0.2, 0.2]))


def test_dice_of_a_perfect_prediction_is_0():
    labels = scene()[1]
    logits = torch.stack([(labels == k) * 50.0 for k in range(K)], dim=1)
    loss = training_loss(TrainingOutputs(student=[logits]), labels, dice=2.0)
    assert loss["student_dice"] == pytest.approx(0, abs=1e-5)
    wrong = training_loss(TrainingOutputs(student=[logits.roll(1, 1)]), labels, dice=2.0)
    assert wrong["student_dice"] == pytest.approx(2, abs=1e-5)


def test_label_smoothing_by_hand():
    labels, logits = torch.tensor([[[2, 255]]]), torch.randn(1, K, 1, 2)
    log = logits.log_softmax(1)[0, :, 0, 0]
    expected = -(0.7 * log[2] + 0.3 * log.mean())
    torch.testing.assert_close(pyramid_loss([logits], labels, smoothing=0.3), expected)


def test_contrast_by_hand():
    """Two categories with means (1, 0) and (0, 1), one of two pixels; the third does not occur."""
    x = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 0.5], [7.0, 7.0]])
    features = x.T.reshape(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 2, 255]]])
    expected = math.log(1 + math.exp(-10))  # cosines 1 and 0, temperature 0.1
    assert float(contrast_loss(features, labels)) == pytest.approx(expected, rel=1e-3)
    mixed = torch.tensor([[[0, 2, 2, 255]]])  # of category 2: (1, 0) and (0, 1), mean (1, 1)
    near = 10 * math.sqrt(0.5)
    first = math.log(1 + math.exp(near - 10))
    second, third = math.log(1 + math.exp(10 - near)), math.log(1 + math.exp(-near))
    expected = (first + second + third) / 3
    assert float(contrast_loss(features, mixed)) == pytest.approx(expected, rel=1e-4)


def test_contrast_without_labels_is_0():
    features = torch.randn(2, 4, 8, 8, requires_grad=True)
    loss = contrast_loss(features, torch.full((2, 32, 32), 255))
    loss.backward()
    assert loss == 0
    assert (features.grad == 0).all()


@pytest.mark.parametrize(
    ("width", "row"),
    [
        (0, [1, 1, 1, 1, 0, 0, 255, 255, 2, 2]),
        (1, [1, 1, 1, 255, 255, 0, 255, 255, 2, 2]),
        (2, [1, 1, 255, 255, 255, 255, 255, 255, 2, 2]),
        (3, [1, 255, 255, 255, 255, 255, 255, 255, 255, 2]),
    ],
)
def test_pixels_near_another_class_lose_their_label(width, row):
    labels = torch.tensor([[[1, 1, 1, 1, 0, 0, 255, 255, 2, 2]]])
    assert without_borders(labels, width).tolist() == [[row]]
    assert without_borders(labels.mT, width).tolist() == torch.tensor([[row]]).mT.tolist()
