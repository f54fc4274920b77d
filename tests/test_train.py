"""The training loop: its rates, its order of rows, its average, exact resume, several processes, nan."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from torch import nn
from toys import Killed, weights

from bdiff.common.errors import RunError
from bdiff.diffusion import checkpointer, training
from bdiff.diffusion.batch import Batch, mirrored
from bdiff.diffusion.checkpointer import Checkpointer
from bdiff.diffusion.classification import shifted
from bdiff.diffusion.history import read_history
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import fit, row_stream


def trained(folder: Path, loss=None, **options) -> nn.Module:
    """A toy model trained in `folder`."""
    images, attack = toys.images(), toys.attack()
    index, poisoned = attack.rows(images.labels, 0)
    loss = loss or denoising_loss(attack.poison, toys.schedule(), poisoned, flip=True)
    recorder = {name: options.pop(name) for name in ("record", "settings") if name in options}
    session = replace(toys.session(folder, options.pop("loop", toys.LOOP)), **recorder)
    arguments = {"config": toys.TRAIN_CONFIG, "seed": 3} | options
    return fit(toys.denoiser(), loss, images, index, **arguments, session=session)


def test_warm_up_then_cosine():
    train_config = toys.train_config(lr=2.0, warmup=10)
    assert train_config.lr_at(0, 110) == pytest.approx(0.2)
    assert train_config.lr_at(9, 110) == pytest.approx(2.0)
    assert train_config.lr_at(10, 110) == pytest.approx(2.0)
    assert train_config.lr_at(60, 110) == pytest.approx(1.0)
    assert train_config.lr_at(109, 110) == pytest.approx(1 + math.cos(math.pi * 99 / 100))


def test_a_short_run_warms_up_for_a_tenth():
    train_config = toys.train_config(lr=1.0, warmup=500)
    assert train_config.lr_at(29, 300) == pytest.approx(1.0)
    assert train_config.lr_at(14, 300) == pytest.approx(0.5)


def test_steps_win_over_epochs():
    assert toys.train_config(steps=7, epochs=3, batch_size=10).total(95) == 7
    assert toys.train_config(steps=None, epochs=2, batch_size=10).total(95) == 19


def test_every_epoch_shows_every_row_once_whatever_the_batch():
    for batch in (1, 4, 7, 25):
        stream = row_stream(10, batch, seed=0)
        rows = torch.cat([next(stream) for _ in range(-(-40 // batch))])[:40]
        for epoch in rows.view(4, 10):
            assert sorted(epoch.tolist()) == list(range(10))


@pytest.mark.parametrize("start", [1, 3, 8])
def test_a_stream_that_starts_later_goes_on_where_the_first_would(start):
    whole, late = row_stream(10, 4, seed=5), row_stream(10, 4, seed=5, start=start)
    for _ in range(start):
        next(whole)
    for _ in range(9):
        assert torch.equal(next(whole), next(late))


def test_draws_are_shares_of_one_global_draw():
    pixels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    parts = []
    for start in (0, 2, 4):
        torch.manual_seed(1)
        parts.append(Batch(pixels, torch.arange(2), slice(start, start + 2), 6).draw(torch.randn, 3))
    torch.manual_seed(1)
    assert torch.equal(torch.cat(parts), torch.randn(6, 3))


def test_flips_and_shifts_move_whole_images():
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    batch = Batch(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40), slice(0, 40), 40)
    shown, which = mirrored(x, batch)
    assert [bool(torch.equal(image, x[0].flip(-1))) for image in shown] == which.tolist()
    assert [bool(torch.equal(image, x[0])) for image in shown] == (~which).tolist()
    assert 8 < sum(which) < 32
    moved = shifted(x, batch, 1)
    offsets = {(image[0, 3, 3] - x[0, 0, 3, 3]).item() for image in moved}
    assert offsets == {i * 8.0 + j for i in (-1, 0, 1) for j in (-1, 0, 1)}
    assert all((image[0, 3, 4] - image[0, 3, 3]).item() == 1 for image in moved)


class Scale(nn.Module):
    """One weight; the loss below pulls it with a gradient that does not depend on it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def test_the_average_is_the_hand_computed_one(tmp_path):
    """Adam with a constant gradient of -1 moves the weight by lr each step, so the average has a closed form."""
    train_config = toys.train_config(steps=6, warmup=0, ema=0.7, clip_norm=None)
    model = fit(
        Scale(),
        lambda net, batch: -net.weight.sum(),
        toys.images(),
        torch.arange(20),
        train_config,
        0,
        toys.session(tmp_path),
    )
    weight = average = 0.0
    for step in range(6):
        weight += train_config.lr_at(step, 6)
        decay = 0.0 if step == 0 else min(0.7, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert model.weight.item() == pytest.approx(average, rel=1e-4)


@pytest.mark.parametrize("moment", [1, 5, 6, 11])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, moment):
    whole = trained(tmp_path / "whole")
    attack, images = toys.attack(), toys.images()
    loss = denoising_loss(attack.poison, toys.schedule(), attack.rows(images.labels, 0)[1], flip=True)
    calls = 0

    def killing(net, batch):
        nonlocal calls
        calls += 1
        if calls > moment:
            raise Killed
        return loss(net, batch)

    with pytest.raises(Killed):
        trained(tmp_path / "killed", killing)
    resumed = trained(tmp_path / "killed")
    assert torch.equal(weights(whole), weights(resumed))
    rows = [[(row["step"], row["loss"]) for row in read_history(tmp_path / name / "history.jsonl")]
            for name in ("whole", "killed")]  # fmt: skip
    assert rows[0] == rows[1]
    assert [step for step, _ in rows[0]] == list(range(1, 13))


def test_a_half_written_history_line_is_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 0.5}) + '\n{"step": 2, "lo')
    assert read_history(path) == [{"step": 1, "loss": 0.5}]


def test_only_so_many_checkpoints_are_kept(tmp_path):
    trained(tmp_path)
    assert len(list((tmp_path / "state").glob("*.pt"))) == toys.LOOP.keep


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, bad):
    calls = 0

    def loss(net, batch):
        nonlocal calls
        calls += 1
        return net(torch.zeros(6, 1, 8, 8), 0).square().mean() * (bad if calls == 8 else 1.0)

    with pytest.raises(RunError, match=r"at step 7 \(learning rate .*last good checkpoint: step 7") as caught:
        trained(tmp_path, loss)
    assert "\n" not in str(caught.value)
    parts = torch.load(max((tmp_path / "state").glob("*.pt")), weights_only=True)
    assert parts["step"] == 7
    assert all(value.isfinite().all() for value in parts["model"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_too(tmp_path):
    def loss(net, batch):
        value = net(torch.zeros(6, 1, 8, 8), 0).square().mean()
        value.register_hook(lambda slope: slope * math.inf)
        return value

    with pytest.raises(RunError, match=r"the gradient became .* Lower surrogate.train.lr or use surrogate.train.prec"):
        trained(tmp_path, loss, settings="surrogate.train")
    assert not (tmp_path / "state").exists()


def test_streams_of_rows_are_recorded(tmp_path):
    rows = []
    trained(tmp_path, record=rows.append)
    assert rows == read_history(tmp_path / "history.jsonl")
    assert set(rows[0]) == {"step", "loss", "lr", "grad_norm", "images_per_second"}


class Learned:
    """What changes along with the model, by what it sees of it and by its own random numbers."""

    def __init__(self):
        self.sum = torch.zeros(())

    def update(self, model, draw):
        self.sum = self.sum + weights(model).sum() * torch.rand((), generator=draw)

    def state_dict(self):
        return {"sum": self.sum}

    def load_state_dict(self, state):
        self.sum = state["sum"]


def test_what_is_learned_with_the_model_is_in_its_checkpoints(tmp_path):
    whole, killed, resumed = Learned(), Learned(), Learned()
    trained(tmp_path / "whole", companion=whole)
    attack, images = toys.attack(), toys.images()
    loss, calls = denoising_loss(attack.poison, toys.schedule(), attack.rows(images.labels, 0).poisoned, flip=True), []

    def killing(net, batch):
        calls.append(batch)
        if len(calls) > 7:
            raise Killed
        return loss(net, batch)

    with pytest.raises(Killed):
        trained(tmp_path / "killed", killing, companion=killed)
    trained(tmp_path / "killed", companion=resumed)
    assert torch.equal(resumed.sum, whole.sum) and not torch.equal(killed.sum, whole.sum)


class Slow(Checkpointer):
    """Checkpoints that take their time to be written."""

    def write(self, step, parts):
        time.sleep(0.3)
        super().write(step, parts)


def test_a_checkpoint_is_written_while_training_goes_on_and_holds_what_was(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Checkpointer", Slow)
    seen = {}
    attack, images = toys.attack(), toys.images()
    loss = denoising_loss(attack.poison, toys.schedule(), attack.rows(images.labels, 0)[1], flip=True)

    def watched(net, batch):
        seen[len(seen)] = weights(net).clone()
        return loss(net, batch)

    began = time.monotonic()
    trained(tmp_path, watched, loop=replace(toys.LOOP, checkpoint_seconds=0.01, keep=100))
    assert time.monotonic() - began < 0.3 * toys.TRAIN_CONFIG.steps  # a checkpoint at each of them would take longer
    for path in (tmp_path / "state").glob("*.pt"):
        parts = torch.load(path, weights_only=True)
        kept = torch.cat([value.flatten() for value in parts["model"].values()])
        assert parts["step"] == int(path.stem)
        if parts["step"] in seen:  # the weights that the next step began with
            assert torch.equal(kept, seen[parts["step"]])


def test_a_late_checkpoint_waits_for_no_logged_loss(tmp_path, monkeypatch):
    saved, save = [], Checkpointer.save
    monkeypatch.setattr(Checkpointer, "save", lambda self, step: saved.append(step) or save(self, step))
    late, never = (replace(toys.LOOP, checkpoint_seconds=seconds, log_every=1000) for seconds in (1e-9, 1e9))
    one, other = (trained(tmp_path / name, loop=loop, config=toys.train_config(steps=3))
                  for name, loop in (("late", late), ("never", never)))  # fmt: skip
    assert torch.equal(weights(one), weights(other))
    assert saved[0] == read_history(tmp_path / "late" / "history.jsonl")[0]["step"] == 1


def test_a_checkpoint_that_cannot_be_written_ends_the_training(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpointer.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        trained(tmp_path)


KILLED = """
import os, signal, sys, time, torch, toys
from pathlib import Path
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import fit
save = torch.save
def dying(parts, path):
    if parts["step"] == 7:
        Path(path).write_bytes(b"half a checkpoint")
        os.kill(os.getpid(), signal.SIGKILL)
    save(parts, path)
torch.save = dying
images, attack = toys.images(), toys.attack()
index, poisoned = attack.rows(images.labels, 0)
loss = denoising_loss(attack.poison, toys.schedule(), poisoned, True)
fit(toys.denoiser(), loss, images, index, toys.TRAIN_CONFIG, 3, toys.session(Path(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_kill_while_a_checkpoint_is_written_costs_what_came_after_the_one_before(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "killed")], env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert max((tmp_path / "killed" / "state").glob("*.pt")).stem == f"{6:08d}"
    assert torch.equal(weights(trained(tmp_path / "killed")), weights(trained(tmp_path / "whole")))


WORKER = """
import sys, torch, toys
from pathlib import Path
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import fit
images, attack = toys.images(), toys.attack()
index, poisoned = attack.rows(images.labels, 0)
accelerator = toys.accelerator()
loss = denoising_loss(attack.poison, toys.schedule(), poisoned, True)
session = toys.session(Path(sys.argv[1]), processes=accelerator)
model = fit(toys.denoiser(), loss, images, index, toys.train_config(lr=1e-4), 3, session)
torch.save(model.state_dict(), f"{sys.argv[1]}/rank{accelerator.process_index}.pt")
"""


def test_two_processes_train_what_one_does_average_included(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", str(tmp_path / "worker.py"), str(tmp_path)],
        check=True, env=environment, capture_output=True, timeout=300,
    )  # fmt: skip
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    alone = trained(tmp_path / "alone", config=toys.train_config(lr=1e-4)).state_dict()
    for name, value in alone.items():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_on_a_gpu_lowers_the_loss(tmp_path, precision):
    from bdiff.common.device import open_device

    images, attack = toys.images(), toys.attack()
    index, poisoned = attack.rows(images.labels, 0)
    accelerator = open_device("cuda")
    device = accelerator.device
    loss = denoising_loss(attack.poison, toys.schedule().to(device), poisoned.to(device), flip=True)
    train_config = toys.train_config(steps=200, precision=precision)
    denoiser = toys.denoiser().to(device)
    fit(denoiser, loss, images.to(device), index, train_config, 3, toys.session(tmp_path, processes=accelerator))
    losses = [row["loss"] for row in read_history(tmp_path / "history.jsonl")]
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def half_trained(folder: Path) -> list[Path]:
    """Train half of the way into `folder`; returns its checkpoints, oldest first."""
    attack, steps = toys.attack(), iter(range(8))
    _, poisoned = attack.rows(torch.zeros(20), 0)
    loss = denoising_loss(attack.poison, toys.schedule(), poisoned, flip=True)

    def until(net, batch):
        if next(steps) == 7:
            raise Killed
        return loss(net, batch)

    with pytest.raises(Killed):
        trained(folder, until)
    return sorted((folder / "state").glob("*.pt"))


def flipped_bit(path: Path) -> None:
    """Change a bit among the weights, where torch alone sees nothing."""
    content = bytearray(path.read_bytes())
    content[content.find(b"data/0") + 3000] ^= 16
    path.write_bytes(content)


def truncated(part: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])


DAMAGES = {
    "nothing": truncated(0),
    "a byte": lambda path: path.write_bytes(b"P"),
    "a half": truncated(0.5),
    "nearly all": truncated(0.999),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a flipped bit": flipped_bit,
    "text": lambda path: path.write_text("no space left on device"),
    "json": lambda path: path.write_text("{}"),
    "another thing": lambda path: torch.save([1, 2], path),
    "another model": lambda path: torch.save({"model": {}, "optimizer": {}, "ema": {}, "step": 7}, path),
    "no step": lambda path: torch.save({"model": toys.unet().state_dict()}, path),
}


OFTEN = ("a half", "a flipped bit", "another model")


@pytest.mark.parametrize(
    "damage", [pytest.param(one, marks=() if one in OFTEN else pytest.mark.slow) for one in DAMAGES]
)
def test_a_damaged_checkpoint_costs_the_way_from_the_one_before(damage, tmp_path, caplog):
    caplog.set_level("INFO")
    before, newest = half_trained(tmp_path / "damaged")
    DAMAGES[damage](newest)
    again = trained(tmp_path / "damaged")
    assert f"{newest} is ignored" in caplog.text and f"resuming from step {int(before.stem)}" in caplog.text
    assert torch.equal(weights(again), weights(trained(tmp_path / "whole")))
    assert [int(path.stem) for path in sorted((tmp_path / "damaged" / "state").glob("*.pt"))] == [11, 12]


def test_where_all_checkpoints_are_damaged_training_begins_again(tmp_path, caplog):
    for path in half_trained(tmp_path / "damaged"):
        path.write_bytes(b"")
    assert torch.equal(weights(trained(tmp_path / "damaged")), weights(trained(tmp_path / "whole")))
    assert caplog.text.count("is ignored: it is damaged") == 2


def test_a_file_that_is_no_checkpoint_is_passed_over(tmp_path):
    half_trained(tmp_path / "damaged")
    (tmp_path / "damaged" / "state" / "copy of 00000007.pt").write_bytes(b"")
    assert torch.equal(weights(trained(tmp_path / "damaged")), weights(trained(tmp_path / "whole")))


def test_damaged_lines_of_a_history_are_dropped_and_reported(tmp_path, caplog):
    path = tmp_path / "history.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 0.5}\n\0\0\0\n{"step": 2, "lo\n[]\n\xff\n{"step": 3, "loss": 0.1}\n')
    assert [row["step"] for row in read_history(path)] == [1, 3]
    assert f"{path}: 4 damaged lines" in caplog.text
