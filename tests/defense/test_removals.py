"""Fine-pruning, Diff-Cleanse's removal and weight averaging: each formula by hand, on copies of a toy suspect."""

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import toys
from omegaconf import OmegaConf
from torch import nn
from torch.nn.functional import conv2d, mse_loss

from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs
from bdiff.config.options import own_settings
from bdiff.data.base import to_float
from bdiff.defense.base import Detection, Removal, Suspect
from bdiff.defense.removal.diff_cleanse import DiffCleanseRemoval, generate, importance, keeping_loss
from bdiff.defense.removal.fine_pruning import FinePruning, activity
from bdiff.defense.removal.pruning import convolutions, drawn, largest, pruned
from bdiff.defense.removal.weight_averaging import WeightAveraging
from bdiff.diffusion.batch import Batch
from bdiff.diffusion.denoiser import Denoiser
from bdiff.pipeline.main import examine_clean_model, examine_requirements
from bdiff.pipeline.suspect import method

SHAPE = (1, toys.SIZE, toys.SIZE)
CLEANSE = partial(DiffCleanseRemoval, share=0.1, clean_importance=1.0, keep_weight=1.0, count=6, generated=0,
                  generated_steps=4)  # fmt: skip


class TwoLayers(nn.Module):
    """A denoiser of two convolutions, by hand what `conv2d` says."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in, self.conv_out = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 1, 1)

    def forward(self, x, t, return_dict=True):
        return (self.conv_out(self.conv_in(x)),)


def suspect(unet: nn.Module | None = None, seed: int = 0, prediction: str = "epsilon") -> Suspect:
    """A toy model as defenses see it, with weights moved by noise of a `seed`."""
    net = unet or toys.unet()
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in net.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return Suspect(net, toys.schedule(), SHAPE, prediction=prediction)


def descend(net, loss, images=None):
    """A training loop of two steps of Adam."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    images = images or toys.images()
    for step in range(2):
        rows = torch.arange(6)
        torch.manual_seed(step)
        optimizer.zero_grad()
        loss(net, Batch(images.take(rows), rows, slice(6), 6)).backward()
        optimizer.step()
    return net


def test_activity_is_the_mean_magnitude_of_a_channel_on_noised_images_relative_to_its_layer():
    frozen = suspect(TwoLayers())
    (found,) = activity(frozen, toys.images(), 6)
    conv, schedule = frozen.network.conv_in, frozen.schedule
    for batch in drawn(toys.images(), 6, torch.device("cpu"), "fine-pruning"):
        t, eps = torch.randint(20, (6,)), torch.randn(6, *SHAPE)
        abar = schedule.abar[t].view(-1, 1, 1, 1)
        x_t = abar.sqrt() * to_float(batch.pixels) + (1 - abar).sqrt() * eps
        size = conv2d(x_t, conv.weight, conv.bias, padding=1).abs().mean((0, 2, 3))
    torch.testing.assert_close(found, size / size.mean())
    assert not conv._forward_hooks


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_importance_is_the_sum_of_weights_times_gradients_at_the_end_of_the_schedule(shift):
    frozen = suspect(TwoLayers())
    (found,) = importance(frozen, toys.images(), torch.full(SHAPE, shift), 6)
    net = TwoLayers()
    net.load_state_dict(frozen.network.state_dict())
    for batch in drawn(toys.images(), 6, torch.device("cpu"), "diff-cleanse"):
        t, eps = 18 + torch.randint(2, (6,)), torch.randn(6, *SHAPE)  # a tenth of 20 timesteps
        abar = frozen.schedule.abar[t].view(-1, 1, 1, 1)
        x_t = abar.sqrt() * to_float(batch.pixels) + (1 - abar).sqrt() * (eps + shift)
        mse_loss(net(x_t, t)[0], eps).backward()
    by_hand = (net.conv_in.weight * net.conv_in.weight.grad).abs().sum((1, 2, 3))
    torch.testing.assert_close(found, by_hand / by_hand.mean())


def test_the_same_fraction_of_every_convolution_is_taken_rounded_up():
    scores = [torch.tensor([0.1, 3.0, 0.2]), torch.tensor([5.0, 1.0, 2.0, 9.0, 0.0])]
    assert largest(scores, 0.02).tolist() == [1, 6]
    assert largest(scores, 0.4).tolist() == [1, 2, 6, 3]
    assert largest([torch.arange(10.0)], 0.3).tolist() == [9, 8, 7]  # though 0.3 * 10 is a little more than 3


@pytest.mark.parametrize(("removal", "count"), [(FinePruning(share=0.2, count=6), None), (CLEANSE(generated=7), 7)])
def test_channels_stay_pruned_while_the_others_are_trained(removal, count):
    frozen, trained = suspect(), []
    before = deepcopy(frozen.network.state_dict())

    def train(net, loss, images=None):
        trained.append(images or toys.images())
        for conv in convolutions(net.network):
            gone.append((conv.weight.flatten(1) == 0).all(1) & (conv.bias == 0))
        return descend(net, loss, images)

    gone: list[torch.Tensor] = []
    copy = removal.remove(frozen, toys.images(), torch.full(SHAPE, 0.5), train)
    channels = sum(conv.out_channels for conv in convolutions(copy.network))
    pruned_now = sum(int(part.sum()) for part in gone)
    assert pruned_now >= round(removal.share * channels) > 0
    for conv, old, part in zip(convolutions(copy.network), convolutions(frozen.network), gone, strict=True):
        assert not conv.weight[part].any() and not conv.bias[part].any()
        assert (conv.weight != old.weight).flatten(1).any(1).all() or not part.all()
    assert all(torch.equal(before[name], value) for name, value in frozen.network.state_dict().items())
    assert any(not torch.equal(before[name], value) for name, value in copy.network.state_dict().items())
    assert len(trained[0]) == (count or len(toys.images()))


def test_fine_pruning_takes_the_least_active_channels():
    frozen = suspect()
    with torch.no_grad():
        for conv in convolutions(frozen.network)[:2]:
            conv.weight[3] *= 1e-4
            conv.bias[3] = 0
    share = 2 / sum(conv.out_channels for conv in convolutions(frozen.network))
    copy = FinePruning(share=share, count=6).remove(frozen, toys.images(), None, lambda net, loss, images=None: net)
    first, second = (conv.weight.flatten(1).any(1) for conv in convolutions(copy.network)[:2])
    assert not first[3] and not second[3] and first.sum() == second.sum() == 7


@pytest.mark.parametrize("weight", [0.0, -1.0])
def test_diff_cleanse_prunes_what_triggered_inputs_depend_on(weight):
    frozen, shift = suspect(TwoLayers()), torch.full(SHAPE, 3.0)
    ((triggered,), (clean,)) = (importance(frozen, toys.images(), one, 6) for one in (shift, 0 * shift))
    removal = CLEANSE(clean_importance=weight)
    copy = removal.remove(frozen, toys.images(), shift, lambda net, loss, images=None: net)
    gone = (copy.network.conv_in.weight.flatten(1) == 0).all(1)
    assert gone.nonzero().flatten().tolist() == [int((triggered + weight * clean).argmax())]


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
def test_diff_cleanse_trains_on_the_answer_and_the_suspects(prediction):
    frozen, net = suspect(prediction=prediction), suspect(seed=1, prediction=prediction)
    rows = torch.arange(6)
    batch = Batch(toys.images().take(rows), rows, slice(6), 6)
    torch.manual_seed(7)
    value = keeping_loss(frozen, False, 0.3)(net, batch)
    torch.manual_seed(7)
    t, eps = torch.randint(20, (6,)), torch.randn(6, *SHAPE)
    abar = frozen.schedule.abar[t].view(-1, 1, 1, 1)
    x_t = abar.sqrt() * to_float(batch.pixels) + (1 - abar).sqrt() * eps
    answer = net(x_t, t)
    right = eps if prediction == "epsilon" else to_float(batch.pixels)
    torch.testing.assert_close(value, mse_loss(answer, right) + 0.3 * mse_loss(answer, frozen(x_t, t)))


def test_generated_images_are_ddims_and_the_same_for_any_number_of_them():
    """A network that answers x / o says that there is nothing but noise, so every image is 0, mid-grey."""

    class Noise(nn.Module):
        def forward(self, x, t, return_dict=True):
            return (x / (1 - toys.schedule().abar[t]).sqrt().view(-1, 1, 1, 1),)

    grey = generate(Suspect(Noise(), toys.schedule(), SHAPE), toys.images(), 3, 5)
    assert grey.pixels.shape == (3, *SHAPE) and set(grey.pixels.flatten().tolist()) <= {127, 128}
    few, more = (generate(suspect(), toys.images(), count, 4).pixels for count in (5, 6))
    assert torch.equal(few[:5], more[:5]) or (few[:5].int() - more[:5].int()).abs().max() <= 1
    with pytest.raises(ValueError, match="generated_steps=21"):
        generate(suspect(), toys.images(), 1, 21)


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_the_mean_of_both_models_is_taken_of_every_weight(weight):
    frozen, clean = suspect(), suspect(seed=1)
    removal = WeightAveraging(weight=weight)
    with pytest.raises(ValueError, match="needs a clean model"):
        removal.remove(frozen, toys.images(), None, descend)
    removal.clean = clean
    mean = removal.remove(frozen, toys.images(), None, descend).network.state_dict()
    for name, value in frozen.network.state_dict().items():
        expected = (1 - weight) * value + weight * clean.network.state_dict()[name]
        torch.testing.assert_close(mean[name], expected)


@pytest.mark.parametrize(
    ("clean", "message"),
    [
        (lambda: Suspect(TwoLayers(), toys.schedule(), SHAPE), "of another architecture"),
        (lambda: Suspect(toys.unet(3), toys.schedule(), SHAPE), r"is \(8, 3, 3, 3\) there and \(8, 1, 3, 3\)"),
        (lambda: Suspect(toys.unet(), toys.schedule(), SHAPE, prediction="sample"), "predicts sample"),
    ],
)
def test_a_clean_model_of_another_kind_is_refused(clean, message):
    removal = WeightAveraging(weight=0.5)
    removal.clean = clean()
    with pytest.raises(RequestError, match=message):
        removal.remove(suspect(), toys.images(), None, descend)


def test_pruning_keeps_what_is_not_pruned_to_the_bit():
    unet = toys.unet()
    x, t = torch.randn(2, *SHAPE), torch.tensor([3, 9])
    same = Denoiser(pruned(unet, torch.tensor([], dtype=torch.int64)), toys.schedule(), SHAPE)
    assert torch.equal(same(x, t), Denoiser(unet, toys.schedule(), SHAPE)(x, t))


@pytest.mark.parametrize(
    ("detection", "removal"), [("terd", "diff_cleanse"), ("purediffusion", "anp"), ("elijah", "weight_averaging")]
)
def test_every_removal_follows_every_detection(detection, removal):
    words = [f"defense={detection}", "defense.repair=true", f"defense/removal={removal}", "pretrain=digits"]
    (config,) = jobs(words, multirun=False)
    assert isinstance(method(config.defense), Detection) and isinstance(method(config.defense.removal), Removal)


def test_a_clean_model_of_another_architecture_is_refused_before_anything_is_trained(tmp_path):
    toys.unet().save_pretrained(tmp_path / "unet")
    words = ["defense=weight_averaging", f"defense.clean={tmp_path}", f"data.size={toys.SIZE}"]
    with pytest.raises(RequestError) as caught:
        jobs(words, multirun=False)
    (line, *_) = caught.value.problems
    assert line.startswith(f"defense.clean={tmp_path} has block_out_channels=[8, 8] and the suspect [16, 64, 64]")


@pytest.mark.parametrize("setting", ["defense", "defense.removal"])
def test_a_clean_model_on_the_hub_is_fetched_before_anything_is_trained(setting, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    removal = OmegaConf.merge(own_settings("defense", "weight_averaging"), {"clean": "nobody/none"})
    detection = OmegaConf.merge(own_settings("defense", "elijah"), {"repair": True, "removal": removal})
    config = OmegaConf.create({"defense": removal if setting == "defense" else detection})
    planning = SimpleNamespace(planning=True)
    diffusion = SimpleNamespace(schedule=toys.schedule())
    run = SimpleNamespace(config=config, stages=planning, diffusion=diffusion, attack=toys.attack())
    examine_clean_model(run)  # of a plan, nothing is
    run.stages = SimpleNamespace(planning=False)
    with pytest.raises(RequestError) as caught:
        examine_requirements(run)
    first, second = caught.value.problems
    assert first.startswith(f"{setting}.clean=nobody/none cannot be fetched") and "model.pretrained" not in second
