"""GDN's two parametrisations, and the layers around it."""

import copy
import pickle
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import meon_ext
from meon_ext import reference
from meon_ext.modules import (
    GDN,
    PEDESTAL,
    Activation,
    Backend,
    ConvGDNPool,
    LinearGDN,
    Parametrization,
    lower_bound,
    project_gdn_,
    set_backend,
)

EPS = torch.finfo(torch.float32).eps
# Times C + 3: the relative difference of two float64 GDNs. The norm is a sum of positive terms, so each is off by one
# unit at most for every product and addition (2 C), half of it after the root, and 3 for root, division and result.
GDN_ROUNDING = 2 * torch.finfo(torch.float64).eps
BACKENDS = ["reference", "fused"]
PARAMETRIZATIONS = ["projected", "reparam"]
# torch.compile makes such an object itself when it meets an autograd.Function.
COMPILES_FUNCTION = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def reparam_rounding(value: Tensor) -> Tensor:
    """r is rounded once and its square twice as much again, the square is rounded, and so is the difference."""
    return 2 * EPS * (value + PEDESTAL) + EPS * value


def asymmetric(gdn: GDN, seed: int = 0) -> GDN:
    generator = torch.Generator().manual_seed(seed)
    beta = torch.rand(gdn.channels, generator=generator) + 0.5
    gdn.load_effective_(beta, torch.rand(gdn.channels, gdn.channels, generator=generator).triu() + 0.01)
    return gdn


def random(*shape: int, seed: int = 0, scale: float = 1) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_projection_is_the_nearest_allowed_point() -> None:
    gdn = GDN(3, "projected", beta_min=0.25, backend="reference")
    with torch.no_grad():
        gdn.beta.copy_(torch.tensor([-1.0, 0.25, 3.0]))
        gdn.gamma.copy_(torch.tensor([[-1.0, 4.0, 3.0], [-2.0, 0.5, -1.0], [5.0, -5.0, 0.0]]))
    gdn.project_()
    assert torch.equal(gdn.beta, torch.tensor([0.25, 0.25, 3.0]))
    # Off the diagonal the mean of both entries where it is positive; clamping first would give 2 for the first one.
    assert torch.equal(gdn.gamma, torch.tensor([[0.0, 1.0, 4.0], [1.0, 0.5, 0.0], [4.0, 0.0, 0.0]]))
    assert gdn.gamma.requires_grad
    before = copy.deepcopy(gdn.state_dict())
    gdn.project_()
    assert all(torch.equal(before[name], value) for name, value in gdn.state_dict().items())


def test_projection_leaves_gamma_asymmetric_where_asked() -> None:
    gdn = GDN(2, "projected", symmetric=False, backend="reference")
    with torch.no_grad():
        gdn.gamma.copy_(torch.tensor([[1.0, 2.0], [-3.0, 4.0]]))
    gdn.project_()
    assert torch.equal(gdn.gamma, torch.tensor([[1.0, 2.0], [0.0, 4.0]]))


def test_project_gdn_reaches_every_gdn_of_a_model() -> None:
    model = nn.Sequential(
        ConvGDNPool(3, 4, 3, backend="reference"), nn.ModuleDict({"head": LinearGDN(4, 5, backend="reference")})
    )
    parts = [part for part in model.modules() if isinstance(part, GDN)]
    assert len(parts) == 2
    with torch.no_grad():
        for part in parts:
            part.beta.fill_(-1)
            part.gamma.fill_(-1)
    project_gdn_(model)
    for part in parts:
        assert torch.equal(part.beta, torch.full((part.channels,), part.beta_min))
        assert not part.gamma.any()


def test_reparam_needs_no_projection() -> None:
    gdn = asymmetric(GDN(3, "reparam", backend="reference"))
    before = copy.deepcopy(gdn.state_dict())
    project_gdn_(gdn)
    assert all(torch.equal(before[name], value) for name, value in gdn.state_dict().items())


def test_lower_bound_gradient_rule() -> None:
    r = torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0], dtype=torch.float64, requires_grad=True)
    grad = torch.tensor([3.0, -3.0, 3.0, -3.0, 3.0, -3.0], dtype=torch.float64)
    y = lower_bound(r, 1.0)
    assert torch.equal(y, torch.tensor([1.0, 1, 1, 1, 2, 2], dtype=torch.float64))
    y.backward(grad)
    # Blocked only where r is below the bound and a descent step would lower it further.
    assert r.grad is not None
    assert torch.equal(r.grad, torch.tensor([0.0, -3, 3, -3, 3, -3], dtype=torch.float64))


def test_lower_bound_keeps_nan() -> None:
    assert torch.isnan(lower_bound(torch.tensor([torch.nan]), 1.0)).all()


def test_a_value_below_its_bound_can_come_back() -> None:
    gdn = GDN(1, "reparam", gamma_init=0.0, backend="reference")
    with torch.no_grad():
        gdn.gamma_root.fill_(-1e-3)
    assert gdn.effective()[1].item() == 0.0
    # A smaller output wants a larger gamma. r = 2^-18 at the bound, so its gradient is there, however small.
    gdn(torch.tensor([[100.0]])).sum().backward()
    assert gdn.gamma_root.grad is not None
    assert gdn.gamma_root.grad.item() < 0
    gdn.zero_grad()
    (-gdn(torch.tensor([[100.0]]))).sum().backward()
    assert gdn.gamma_root.grad is not None
    assert gdn.gamma_root.grad.item() == 0


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_initial_values(parametrization: Parametrization) -> None:
    beta, gamma = GDN(4, parametrization, gamma_init=0.25, backend="reference").effective()
    expected = 0.25 * torch.eye(4)
    assert ((beta - 1).abs() <= reparam_rounding(torch.ones(4))).all()
    assert ((gamma - expected).abs() <= reparam_rounding(expected)).all()
    assert torch.equal(gamma == 0, expected == 0)


def test_reparam_keeps_what_the_paper_keeps() -> None:
    """r = sqrt(v + 2^-36): a checkpoint's numbers mean the same elsewhere."""
    gdn = GDN(2, "reparam", gamma_init=2.0**-36, backend="reference")
    assert torch.equal(gdn.gamma_root, torch.tensor([[2.0**-17.5, 2.0**-18], [2.0**-18, 2.0**-17.5]]))


@given(st.lists(st.floats(0, 1e6, width=32), min_size=4, max_size=4))
def test_reparam_gives_back_what_was_loaded(values: list[float]) -> None:
    gdn = GDN(2, "reparam", backend="reference")
    gamma = torch.tensor(values).reshape(2, 2)
    beta = gamma.sum(dim=1) + 1e-6
    gdn.load_effective_(beta, gamma)
    for loaded, given_ in zip(gdn.effective(), (beta, gamma), strict=True):
        assert ((loaded - given_).abs() <= reparam_rounding(given_)).all()
        assert (loaded >= 0).all()


def test_reparam_raises_what_is_loaded_to_its_bounds() -> None:
    gdn = GDN(1, "reparam", beta_min=0.5, backend="reference")
    gdn.load_effective_(torch.tensor([0.1]), torch.tensor([[-2.0]]))
    beta, gamma = gdn.effective()
    assert (beta - 0.5).abs() <= reparam_rounding(torch.tensor(0.5))
    assert gamma.item() == 0.0


def test_projected_keeps_what_is_loaded() -> None:
    gdn = asymmetric(GDN(3, "projected", backend="reference"), seed=5)
    beta, gamma = gdn.effective()
    other = GDN(3, "projected", backend="reference")
    other.load_effective_(beta, gamma)
    assert torch.equal(other.beta, beta)
    assert torch.equal(other.gamma, gamma)
    with pytest.raises(ValueError, match=r"must be \(3,\)"):
        other.load_effective_(beta[:2], gamma)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 4, 3), (0, 5)])
def test_gdn_computes_the_formula(parametrization: Parametrization, backend: Backend, shape: tuple[int, ...]) -> None:
    gdn = asymmetric(GDN(5, parametrization, backend=backend).double())
    x = random(*shape).double()
    beta, gamma = gdn.effective()
    norm = torch.einsum("ij,nj...->ni...", gamma, x.square()) + beta.reshape(-1, *(1,) * (x.dim() - 2))
    torch.testing.assert_close(gdn(x), x / norm.sqrt(), rtol=GDN_ROUNDING * (5 + 3), atol=0)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_gradients_reach_the_parameters(parametrization: Parametrization) -> None:
    gdn = asymmetric(GDN(3, parametrization, backend="reference").double())
    names, values = zip(*gdn.named_parameters(), strict=True)
    x = random(2, 3, 2, 2).double()

    def call(*parameters: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(gdn, dict(zip(names, parameters, strict=True)), (x,))
        return result

    assert torch.autograd.gradcheck(call, values)


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
@COMPILES_FUNCTION
def test_gdn_compiles_and_exports_in_one_piece(parametrization: Parametrization, backend: Backend) -> None:
    gdn = asymmetric(GDN(3, parametrization, backend=backend))
    x = random(2, 3, 4, 4)
    expected = gdn(x)
    gradients = torch.autograd.grad(expected.square().sum(), list(gdn.parameters()))
    compiled = torch.compile(gdn, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(compiled, expected)
    for a, b in zip(torch.autograd.grad(compiled.square().sum(), list(gdn.parameters())), gradients, strict=True):
        assert torch.equal(a, b)
    exported = torch.export.export(gdn, (x,))
    assert torch.equal(exported.module()(x), expected)


STAGES = [
    {"kernel_size": 3, "stride": 1, "padding": 0, "pool": 2},
    {"kernel_size": (5, 3), "stride": (2, 1), "padding": (2, 0), "pool": 3},
    {"kernel_size": 1, "stride": 1, "padding": 1, "pool": 1},
]


@pytest.mark.parametrize("options", STAGES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_conv_gdn_pool_is_the_function_of_its_parameters(options: dict[str, int], backend: Backend) -> None:
    stage = ConvGDNPool(3, 4, **options, backend=backend).double()
    # Whole numbers, so that the convolution is exact and only the rounding of GDN is left.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        stage.weight.copy_(torch.randint(-3, 4, stage.weight.shape, generator=generator))
        stage.bias.copy_(torch.randint(-3, 4, stage.bias.shape, generator=generator))
    assert stage.gdn is not None
    asymmetric(stage.gdn)
    kernel = options["kernel_size"]
    assert stage.weight.shape[2:] == ((kernel, kernel) if isinstance(kernel, int) else kernel)
    rest = {name: value for name, value in options.items() if name != "kernel_size"}
    x = torch.randint(0, 256, (2, 3, 14, 12), generator=generator).double()
    expected = reference.conv_gdn_pool(x, stage.weight, stage.bias, *stage.gdn.effective(), **rest)
    torch.testing.assert_close(stage(x), expected, rtol=GDN_ROUNDING * (4 + 3), atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("activation", "batch_norm"), [("gdn", False), ("relu", False), ("relu", True)])
def test_forward_crops_equals_forward_of_the_crops(activation: Activation, batch_norm: bool, backend: Backend) -> None:
    torch.manual_seed(0)
    stage = ConvGDNPool(3, 8, 5, 2, 2, activation=activation, batch_norm=batch_norm, backend=backend).eval()
    image = torch.randint(0, 256, (40, 50, 3), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, 16, 12], [34, 28, 50, 40], [7, 9, 23, 21]])
    expected = stage(reference.gather_crops(image, boxes))
    assert torch.equal(stage.forward_crops(image, boxes), expected)
    assert torch.equal(stage.forward_crops(image, boxes, crop=(12, 16)), expected)
    assert stage.forward_crops(image, boxes[:0], crop=(12, 16)).shape == (0, *expected.shape[1:])


def test_relu_stands_in_for_gdn() -> None:
    torch.manual_seed(0)
    stage = ConvGDNPool(2, 3, 3, activation="relu")
    assert stage.gdn is None
    x = random(2, 2, 6, 6)
    conv = nn.functional.conv2d(x, stage.weight, stage.bias)
    assert torch.equal(stage(x), nn.functional.max_pool2d(conv.relu(), 2))
    layer = LinearGDN(4, 3, activation="relu")
    y = random(5, 4)
    assert torch.equal(layer(y), nn.functional.linear(y, layer.weight, layer.bias).relu())


def test_batch_norm_comes_before_the_relu() -> None:
    torch.manual_seed(0)
    stage = ConvGDNPool(2, 3, 3, pool=1, activation="relu", batch_norm=True)
    x = random(4, 2, 8, 8, scale=50) + 100
    conv = nn.functional.conv2d(x, stage.weight, stage.bias)
    mean, variance = conv.mean(dim=(0, 2, 3), keepdim=True), conv.var(dim=(0, 2, 3), keepdim=True, correction=0)
    expected = ((conv - mean) / (variance + 1e-5).sqrt()).relu()
    # The difference from the mean loses as many digits as the mean is larger than the deviation.
    tolerance = 8 * EPS * (mean.abs() / variance.sqrt() + 4).max().item()
    torch.testing.assert_close(stage(x), expected, rtol=0, atol=tolerance)
    layer = LinearGDN(4, 3, activation="relu", batch_norm=True)
    assert (layer(random(50, 4)) == 0).float().mean() > 0.2


@pytest.mark.parametrize("backend", BACKENDS)
def test_linear_gdn_is_linear_then_gdn(backend: Backend) -> None:
    layer = LinearGDN(4, 3, backend=backend).double()
    assert layer.gdn is not None
    asymmetric(layer.gdn)
    x = random(5, 4).double()
    expected = reference.gdn(nn.functional.linear(x, layer.weight, layer.bias), *layer.gdn.effective())
    torch.testing.assert_close(layer(x), expected, rtol=GDN_ROUNDING * (3 + 3), atol=0)


def test_initialisation_follows_the_generator() -> None:
    torch.manual_seed(3)
    a = ConvGDNPool(3, 64, 5, backend="reference")
    torch.manual_seed(3)
    b = ConvGDNPool(3, 64, 5, backend="reference")
    assert torch.equal(a.weight, b.weight)
    a.reset_parameters(torch.Generator().manual_seed(1))
    b.reset_parameters(torch.Generator().manual_seed(1))
    assert torch.equal(a.weight, b.weight)
    n = a.weight.numel()
    # The standard deviation of n draws is off by 1 / sqrt(2 n) of it, five times that is never seen.
    assert abs(a.weight.std().item() * 75**0.5 - 1) < 5 / (2 * n) ** 0.5
    relu = ConvGDNPool(3, 64, 5, activation="relu")
    assert abs(relu.weight.std().item() * (75 / 2) ** 0.5 - 1) < 5 / (2 * n) ** 0.5


def test_modules_copy_and_pickle() -> None:
    stage = ConvGDNPool(3, 4, 3, backend="reference")
    x = random(1, 3, 6, 6)
    for twin in (copy.deepcopy(stage), pickle.loads(pickle.dumps(stage))):
        assert torch.equal(twin(x), stage(x))


def test_set_backend_changes_every_gdn() -> None:
    model = nn.Sequential(
        ConvGDNPool(3, 4, 3, backend="reference"), nn.Flatten(), LinearGDN(16, 2, backend="reference")
    )
    set_backend(model, "fused")
    assert [part.backend for part in model.modules() if isinstance(part, GDN)] == ["fused", "fused"]
    with pytest.raises(ValueError, match="backend"):
        set_backend(model, "quick")  # type: ignore[arg-type]


def test_the_reference_backend_works_where_the_ops_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "meon_ext.ops", None)
    monkeypatch.delitem(vars(meon_ext), "ops", raising=False)
    x = random(1, 3, 6, 6)
    assert ConvGDNPool(3, 4, 3, backend="reference")(x).shape == (1, 4, 2, 2)
    with pytest.raises(ImportError):
        ConvGDNPool(3, 4, 3, backend="fused")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GDN(0), "channels"),
        (lambda: GDN(2, "other"), "parametrization"),
        (lambda: GDN(2, beta_min=0.0), "beta_min"),
        (lambda: GDN(2, beta_min=np.nan), "beta_min"),
        (lambda: GDN(2, gamma_init=-1.0), "gamma_init"),
        (lambda: GDN(2, backend="other"), "backend"),
        (lambda: ConvGDNPool(1, 2, 3, pool=0), "pool"),
        (lambda: ConvGDNPool(1, 2, 3, activation="tanh"), "activation"),
        (lambda: ConvGDNPool(1, 2, 3, batch_norm=True), "batch_norm"),
        (lambda: LinearGDN(1, 2, activation="relu", backend="other"), "backend"),
    ],
)
def test_wrong_arguments_are_named(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=message):
        call()
