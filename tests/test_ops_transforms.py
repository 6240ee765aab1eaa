"""The ops under torch.compile, torch.export and autocast."""

import io
from collections.abc import Iterator

import pytest
import torch
from ops_cases import (
    CROP,
    CROP_CASE,
    CROP_STRIDE,
    NAMES,
    Call,
    ConvCase,
    call,
    fresh_generator,
    image_and_boxes,
    leaves,
    run,
    same_bits,
    threads,
)
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from meon_ext import ops, reference
from meon_ext.modules import GDN, ConvGDNPool, Parametrization

BATCHED = ["gdn", "conv_gdn_pool", "crop_conv_gdn_pool"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# --- torch.compile ------------------------------------------------------------------------------------------------


def check_compiled(c: Call, backend: str) -> None:
    """Forward and backward without a graph break, to the bit what they are without the compiler."""
    y = c.function(*c.inputs)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    compiled = torch.compile(c.function, fullgraph=True, backend=backend)
    same_bits(backend, run(compiled, c.inputs, grad), run(c.function, c.inputs, grad))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_compile(name: str, dtype: torch.dtype) -> None:
    check_compiled(call(name, fresh_generator(), dtype), "aot_eager")


@pytest.mark.parametrize("name", NAMES)
def test_compile_dynamic(name: str) -> None:
    """One compilation serves every batch (of extract_crops: every height). The first is of a size that nothing else
    has: dynamo takes equal sizes for the same one."""
    generator = fresh_generator()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = None
    for batch in (6, 2, 7):
        c = call(name, generator, batch=batch)
        compiled = compiled or torch.compile(c.function, fullgraph=True, backend=counter, dynamic=True)
        same_bits(f"{name}, {batch}", run(compiled, c.inputs), run(c.function, c.inputs))
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # functorch's own
@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool", "extract_crops"])
def test_compile_with_forward_mode(name: str) -> None:
    """The derivative compiled, and the derivative of what is compiled."""
    generator = fresh_generator()
    c = call(name, generator, torch.float64)
    inputs = tuple(t.detach() for t in c.inputs)
    tangents = tuple(torch.randn(t.shape, generator=generator, dtype=t.dtype) for t in inputs)
    _, want = torch.func.jvp(c.reference, inputs, tangents)
    compiled = torch.compile(
        lambda inputs, tangents: torch.func.jvp(c.function, inputs, tangents), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(inputs, tangents)[1], want)
    of_compiled = torch.func.jvp(torch.compile(c.function, backend="aot_eager"), inputs, tangents)
    torch.testing.assert_close(of_compiled[1], want)


@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool of no stage of MEON"])
def test_compile_channels_last(name: str) -> None:
    c = call("gdn", generator := fresh_generator())
    if name != "gdn":
        case = ConvCase(3, 20, 9, 8, 24, (3, 3), padding=(1, 1))
        c = Call(case.function(ops), case.function(reference), case.inputs(generator))
    x = c.inputs[0].detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    check_compiled(Call(c.function, c.reference, [x, *c.inputs[1:]]), "aot_eager")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # inductor's own
def test_compile_inductor() -> None:
    """Through the default backend. Nothing around the op that it would call a C++ compiler for, which takes 20 s."""
    check_compiled(call("conv_gdn_pool", fresh_generator()), "inductor")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own, of any Function
@pytest.mark.parametrize("parametrization", ["projected", "reparam"])
def test_compile_module_without_input_gradient(parametrization: Parametrization) -> None:
    """The layer as it stands in a network's first stage: x needs no gradient."""
    generator = fresh_generator()
    module = ConvGDNPool(3, 8, 5, stride=2, padding=2, parametrization=parametrization)
    x = torch.randn(2, 3, 17, 19, generator=generator)
    parameters = list(module.parameters())
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    got = torch.autograd.grad(compiled(x).square().sum(), parameters)
    same_bits("gradients", got, torch.autograd.grad(module(x).square().sum(), parameters))


# --- torch.export -------------------------------------------------------------------------------------------------


class Exported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stage = ConvGDNPool(3, 8, 5, stride=2, padding=2)
        self.gdn = GDN(8)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.gdn(self.stage(x)).mean((2, 3))
        return y


def reloaded(program: torch.export.ExportedProgram) -> nn.Module:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    module: nn.Module = torch.export.load(buffer).module()
    return module


def ops_of(program: torch.export.ExportedProgram) -> set[str]:
    return {str(node.target) for node in program.graph.nodes if "meon_ext" in str(node.target)}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.11, reading what it wrote
def test_export() -> None:
    """Exported with a dynamic batch, saved, loaded, and run with other batches."""
    generator = fresh_generator()
    module = Exported().eval()
    x = torch.randn(3, 3, 17, 19, generator=generator)
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert ops_of(program) == {"meon_ext.conv_gdn_pool.default", "meon_ext.gdn.default"}
    again = reloaded(program)
    for batch in (3, 1, 5):
        x = torch.randn(batch, 3, 17, 19, generator=generator)
        same_bits(f"batch {batch}", [again(x).detach()], [module(x).detach()])


class ExportedCrops(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        _, *parameters = CROP_CASE.inputs(generator)
        self.parameters_ = nn.ParameterList(parameters)

    def forward(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        crops = ops.extract_crops(image, CROP, CROP_STRIDE)
        return crops, ops.crop_conv_gdn_pool(image, boxes, *self.parameters_, *CROP_CASE.options, crop=CROP)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_export_of_crops() -> None:
    generator = fresh_generator()
    module = ExportedCrops(generator)
    dynamic: tuple[dict[int, object], ...] = ({}, {0: torch.export.Dim.DYNAMIC})
    program = torch.export.export(module, image_and_boxes(generator, 3), dynamic_shapes=dynamic)
    assert ops_of(program) == {"meon_ext.extract_crops.default", "meon_ext.crop_conv_gdn_pool.default"}
    again = reloaded(program)
    for count in (3, 2, 6):
        inputs = image_and_boxes(generator, count)
        got, want = again(*inputs), module(*inputs)
        same_bits(f"{count} boxes", [t.detach() for t in got], [t.detach() for t in want])


# --- autocast -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["gdn", "conv_gdn_pool"])
def test_autocast_of_a_low_precision_input(name: str, low: torch.dtype) -> None:
    """x comes from a layer that autocast ran in bfloat16: the op runs in float32 on its values, and the gradients have
    the dtypes of the leaves."""
    c = call(name, fresh_generator())
    x = c.inputs[0].detach().to(low).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y, grad_x, *grads = run(c.function, [x, *c.inputs[1:]])
    widened = x.detach().float().requires_grad_()
    want_y, want_x, *want = run(c.function, [widened, *c.inputs[1:]])
    same_bits(name, [y, *grads], [want_y, *want])
    assert grad_x.dtype == low and torch.equal(grad_x, want_x.to(low))


@pytest.mark.parametrize("name", BATCHED)
def test_autocast_of_low_precision_parameters(name: str) -> None:
    c = call(name, fresh_generator())
    low = leaves(c.inputs, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        y, *grads = run(c.function, low)
    assert y.dtype == torch.float32
    assert {g.dtype for g in grads} == {torch.bfloat16}
    want, *_ = run(c.function, leaves(low, torch.float32))
    same_bits(name, [y], [want])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_leaves_float32_and_float64(name: str, dtype: torch.dtype) -> None:
    c = call(name, fresh_generator(), dtype)
    with torch.autocast("cpu", torch.bfloat16):
        got = run(c.function, c.inputs)
    assert got[0].dtype == dtype
    same_bits(name, got, run(c.function, c.inputs))


def test_autocast_of_a_network() -> None:
    """Between autocast's own convolutions, which are in bfloat16."""
    module = nn.Sequential(nn.Conv2d(3, 8, 3), GDN(8), nn.Conv2d(8, 4, 3), ConvGDNPool(4, 8, 3))
    x = torch.randn(2, 3, 16, 16, generator=fresh_generator())
    with torch.autocast("cpu", torch.bfloat16):
        assert module[0](x).dtype == torch.bfloat16
        y = module(x)
    y.sum().backward()
    assert y.dtype == torch.float32
    assert {p.grad.dtype for p in module.parameters() if p.grad is not None} == {torch.float32}
    assert all(p.grad is not None for p in module.parameters())
