"""The engine: compiled mode gives what eager mode gives, for any batch; what fails goes on in eager mode."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor, nn

from bdiff.diffusion import engine as engines
from bdiff.diffusion.denoiser import Suspect
from bdiff.diffusion.engine import TOLERANCE, steady
from bdiff.diffusion.mode import Costs, Inference, Mode, Work, choose, without_torn

pytestmark = pytest.mark.usefixtures("kernels")

SHAPE = (2, 8, 8)


class Tiny(nn.Module):
    """A network of two layers that is called as diffusers' are."""

    def __init__(self, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.norm, self.last = (
            nn.Conv2d(2, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 2, 3, padding=1),
        )

    def forward(self, x: Tensor, t: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        h = torch.nn.functional.silu(self.norm(self.first(x))) + (t / 100).to(x)[:, None, None, None]
        return (self.last(h),)


def suspect(seed: int = 0, precision: str = "fp32") -> Suspect:
    return Suspect(Tiny(seed), toys.schedule(100), SHAPE, precision=precision)


def noise(count: int) -> Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_compiled_is_eager_within_the_tolerance_for_any_batch(precision: str) -> None:
    eager, compiled = suspect(precision=precision), suspect(precision=precision)
    compiled.engine.compile(4)
    for count in (1, 4, 5, 11):
        x = noise(count)
        with torch.inference_mode():
            expected, found = eager.eps(x, 50), compiled.eps(x, 50)
        assert found.shape == expected.shape and found.dtype == torch.float32
        assert (found - expected).norm() <= TOLERANCE[precision] * expected.norm()
    assert eager.evaluations == compiled.evaluations == 21


@pytest.mark.slow
def test_gradients_to_the_input_go_through_compiled_mode_and_recomputation(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls, compiled = [], [], engines.compiled

    def watched(evaluate: engines.Evaluate, graphs: bool) -> engines.Evaluate:
        calls.append(1)
        return compiled(evaluate, graphs)

    monkeypatch.setattr(engines, "compiled", watched)
    for recompute in (False, True):
        for batch in (None, 4):
            one = Suspect(Tiny(), toys.schedule(100), SHAPE, recompute=recompute)
            if batch:
                one.engine.compile(batch, gradients=True)
            x, before = noise(6).requires_grad_(), len(calls)
            (gradient,) = torch.autograd.grad(one.eps(x, torch.arange(6)).square().sum(), x)
            found.append(gradient)
            assert (len(calls) > before) == bool(batch) and one.engine.batch == batch
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-4, atol=1e-5)


def test_another_network_of_the_same_architecture_needs_no_compiling() -> None:
    first, second = suspect(0), suspect(1)
    for one in (first, second):
        one.engine.compile(4)
    with torch.inference_mode():
        first.eps(noise(4), 3)
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        found = second.eps(noise(4), 3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs
    torch.testing.assert_close(found, suspect(1).eps(noise(4), 3), rtol=1e-4, atol=1e-5)


def failing(*_: object, **__: object) -> Tensor:
    raise torch._dynamo.exc.InternalTorchDynamoError("no compiler here\nand more")


def test_what_fails_to_compile_is_done_anew_in_eager_mode(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, calls = suspect(), []
    one.engine.compile(4)
    monkeypatch.setattr(engines, "compiled", lambda evaluate, graphs: failing)

    def work() -> Tensor:
        calls.append(1)
        return one.eps(noise(4), 50)

    with caplog.at_level(logging.WARNING):
        found = steady(work)
    assert torch.equal(found, suspect().eps(noise(4), 50)) and len(calls) == 2
    assert one.engine.failure == "InternalTorchDynamoError: no compiler here"
    assert "no compiler here: going on in eager mode" in caplog.text


def test_an_error_of_the_network_is_no_failure_of_the_compiler() -> None:
    one = suspect()
    one.engine.compile(4)
    with pytest.raises(AssertionError):
        one.eps(torch.zeros(4, 3, 8, 8), 50)
    assert one.engine.failure is None and one.engine.batch == 4


def inputs(count: int) -> tuple[Tensor, Tensor]:
    return noise(count), torch.full((count,), 7)


def test_the_mode_is_compiled_where_it_is_asked_for(tmp_path: Path) -> None:
    one, costs = suspect(), Costs(tmp_path)
    mode = choose(True, one.engine, inputs(4), Work(8, 4), costs)
    assert mode.compiled and one.engine.batch == 4 and mode.difference is not None
    assert mode.difference <= TOLERANCE["fp32"] and "times as fast" in mode.reason
    (known,) = tmp_path.glob("*.json")
    assert {"cold", "gain"} == set(json.loads(known.read_text()))


def test_auto_compiles_where_the_work_pays_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = Costs(tmp_path)
    assert not choose("auto", suspect().engine, inputs(4), Work(8, 4), costs).compiled
    assert not any(tmp_path.iterdir())  # for so little, nothing is even measured
    little = choose("auto", suspect().engine, inputs(4), Work(400, 4), costs)
    assert not little.compiled and "compiling takes about 60 s" in little.reason
    engine = suspect().engine
    costs.keep(Inference(engine, inputs(4), Work(1, 4)), 1e-6, 2.0)  # as if it were known to cost nothing
    known = choose("auto", engine, inputs(4), Work(10**9, 4), costs)
    assert known.compiled or "times as fast" in known.reason  # compiled at any rate, and kept where it was faster


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, (60.0, 1.2)),  # what is assumed
        ({"cold": 40.0, "gain": 1.5}, (10.0, 1.5)),  # its kernels are on disk: a quarter of the time
        ({"cold": 40.0, "warm": 3.0, "gain": 1.5}, (3.0, 1.5)),
    ],
)
def test_kernels_that_are_on_disk_are_expected_to_take_less_time(tmp_path, known, expected) -> None:
    costs, subject = Costs(tmp_path), Inference(suspect().engine, inputs(4), Work(8, 4))
    costs.path(subject).write_text(json.dumps(known))
    assert costs.expected(subject) == expected


def test_what_a_killed_compiler_left_empty_is_removed_before_kernels_are_used(tmp_path: Path) -> None:
    whole, torn, new = (tmp_path / "kernels" / "ab" / f"{name}.main.so" for name in ("whole", "torn", "new"))
    whole.parent.mkdir(parents=True)
    for path, content in ((whole, b"ELF"), (torn, b""), (new, b"")):
        path.write_bytes(content)
    for path in (whole, torn):
        os.utime(path, (0, 0))
    without_torn(tmp_path / "kernels")
    assert {*whole.parent.iterdir()} == {whole, new}
    without_torn(tmp_path / "nowhere")


def test_a_compiled_network_that_is_off_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "compiled", lambda evaluate, graphs: lambda network, *x: evaluate(network, *x) + 0.1)
    one = suspect()
    mode = choose(True, one.engine, inputs(4), Work(8, 4), Costs(tmp_path))
    assert not mode.compiled and one.engine.batch is None and "off" in mode.reason


def test_a_compiler_that_fails_leaves_eager_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "compiled", lambda evaluate, graphs: failing)
    one = suspect()
    mode = choose(True, one.engine, inputs(4), Work(8, 4), Costs(tmp_path))
    assert mode == Mode(False, "the compiler failed: InternalTorchDynamoError: no compiler here", 4)
    assert one.engine.batch is None and not any(tmp_path.iterdir())
