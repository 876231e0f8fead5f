import copy
import logging

import pytest
import torch
from torch import nn

from cafe_cli.inference.engines.torch import fold_batchnorm
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import TOLERANCE, example_inputs


def network(encoder, **changes):
    torch.manual_seed(0)
    made = CaFE(Architecture(3, 4, optical_encoder=encoder, width=8, **changes))
    made.set_statistics([100.0] * 4, [50.0] * 4, [10.0], [5.0])
    return stirred(made).deployed()


def stirred(model):
    """Give BatchNorm statistics and weights as after a training: folding wrongly would be seen."""
    for norm in norms(model):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.3, 3)
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.3)
    return model


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def largest_error(model, other, *inputs):
    with torch.no_grad():
        wanted, found = model(*inputs), other(*inputs)
    return float((found - wanted).abs().max() / wanted.abs().max())


class Net(nn.Module):
    """Conv, BatchNorm, and what comes of both."""

    def __init__(self, norm=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3), norm or nn.BatchNorm2d(4)
        stirred(self)

    def forward(self, x):
        return self.norm(self.conv(x))


class Skip(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Between(Net):
    def forward(self, x):
        return self.norm(self.conv(x).relu_())


class Twice(Net):
    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x))[:, :2]))


class Hidden(Net):
    """Uses the convolution where nobody sees it."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y.numpy().sum()


class Weighed(Net):
    """Uses the weights of the convolution for something else."""

    def forward(self, x):
        return super().forward(x) + 10 * self.conv.weight.sum()


class Looked(Net):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if y.ndim == 4 and y.shape[1] == 4 and y.size(0) else y


# --- Networks -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "left"),
    [
        ("resnet18", 0),
        ("resnet50", 0),
        ("mobilenet_v2", 0),
        ("efficientnet-b0", 1),  # of its classifier, which is not run
        ("tu-regnetx_004", 0),  # BatchNorm and activation in one module
        ("tu-tf_efficientnet_lite0", 0),  # pads its convolutions itself
        ("tu-test_convnext", 0),  # only those of the head
    ],
)
def test_encoders_give_the_same_without_batchnorm(encoder, left):
    model = network(encoder, heights=False)
    folded = fold_batchnorm(copy.deepcopy(model), *example_inputs(model, 1, 64, 64))
    assert len(norms(model)) > left == len(norms(folded))
    assert largest_error(model, folded, *example_inputs(model, 2, 90, 70)) < 2e-5


@pytest.mark.slow
def test_both_streams_and_the_head_are_folded_and_channels_last_is_kept():
    model = network("resnet18").to(memory_format=torch.channels_last)
    folded = fold_batchnorm(copy.deepcopy(model), *example_inputs(model, 1, 64, 64))
    assert norms(folded) == []
    assert largest_error(model, folded, *example_inputs(model, 1, 64, 96)) < 2e-5
    first = folded.optical_encoder.layer1[0].conv1.weight
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_the_example_has_no_heights_for_a_network_without():
    optical, valid, *heights = example_inputs(network("resnet18", heights=False), 2, 32, 64)
    assert optical.shape == (2, 4, 32, 64)
    assert valid.shape == (2, 32, 64)
    assert valid.any()
    assert heights == [None, None]


# --- What cannot be folded ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Skip, Between, Twice, Hidden])
def test_nothing_is_folded_where_the_convolution_does_more(kind, caplog):
    caplog.set_level(logging.INFO, "cafe")
    model = kind().eval()
    x = torch.randn(1, 2, 9, 9)
    assert norms(fold_batchnorm(model, x)) == [model.norm]
    assert "left as it is" not in caplog.text  # seen beforehand, not by the results


def test_a_network_that_cannot_be_traced_is_folded_in_parts():
    class Parts(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Net(), Looked()
            self.second.conv = nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.second(self.first(x))

    model, x = Parts().eval(), torch.randn(1, 2, 9, 9)
    folded = fold_batchnorm(model, x)
    assert norms(folded) == [folded.second.norm]
    assert largest_error(model, folded, x) < 1e-5


def test_what_tracing_does_not_see_the_results_do(caplog):
    caplog.set_level(logging.INFO, "cafe")
    model, x = Weighed().eval(), torch.randn(1, 2, 9, 9)
    before = copy.deepcopy(model)
    assert fold_batchnorm(model, x) is model
    assert norms(model) == [model.norm]
    with torch.no_grad():
        assert torch.equal(model(x), before(x))
    assert "BatchNorm is left as it is" in caplog.text


def test_a_kind_of_batchnorm_that_is_not_known_stays():
    class Own(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    assert len(norms(fold_batchnorm(Net(Own(4)).eval(), torch.randn(1, 2, 9, 9)))) == 1


def test_a_convolution_that_does_more_with_its_weights_stays():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight / self.weight.std(dim=(1, 2, 3), keepdim=True)
            return nn.functional.conv2d(x, weight, self.bias)

    model = Net()
    model.conv = Standardised(2, 4, 3)
    assert norms(fold_batchnorm(model.eval(), torch.randn(1, 2, 9, 9))) == [model.norm]


def test_batchnorm_without_running_statistics_stays():
    class Instance(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))

    model = Instance().eval()
    assert fold_batchnorm(model, torch.randn(1, 2, 9, 9)) is model


def test_the_network_given_is_not_changed():
    model, x = Net().eval(), torch.randn(1, 2, 9, 9)
    folded = fold_batchnorm(model, x)
    assert norms(folded) == []
    assert norms(model) == [model.norm]


def test_batchnorm_without_weights_and_a_convolution_in_groups_are_folded():
    class Grouped(Net):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3, groups=2, bias=False)
            self.norm = nn.BatchNorm2d(4, affine=False)
            self.norm.running_var.uniform_(0.3, 3)

    model, x = Grouped().eval(), torch.randn(1, 2, 9, 9)
    folded = fold_batchnorm(copy.deepcopy(model), x)
    assert norms(folded) == []
    assert largest_error(model, folded, x) < 1e-5


def test_results_that_are_not_finite_leave_the_network_alone():
    model = Net().eval()
    model.norm.running_var.fill_(float("nan"))
    assert norms(fold_batchnorm(model, torch.randn(1, 2, 9, 9))) == [model.norm]


def test_the_tolerance_tells_rounding_from_a_batchnorm_in_the_wrong_place():
    model, x = Net().eval(), torch.randn(1, 2, 9, 9)
    wrong = copy.deepcopy(model)
    wrong.norm = nn.Identity()
    assert largest_error(model, wrong, x) > 100 * TOLERANCE
