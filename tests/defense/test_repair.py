"""Repairs: Elijah's loss against a computation by hand, what ANP perturbs and prunes, suspects left as they are."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import toys
from diffusers import UNet2DModel
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from bdiff.config.instantiate import make
from bdiff.defense.removal.anp import Anp, Perturbed, rises
from bdiff.defense.removal.diff_cleanse import keeping_loss
from bdiff.defense.removal.elijah import ElijahRemoval, removal_loss
from bdiff.defense.removal.pruning import convolutions, pruned
from bdiff.diffusion.batch import Batch, Loss
from bdiff.diffusion.denoiser import PREDICTIONS, Denoiser, Suspect
from bdiff.diffusion.objective import clean, denoising_loss
from bdiff.diffusion.training import TrainConfig, fit

SHAPE = (1, toys.SIZE, toys.SIZE)
LOOP = replace(toys.LOOP, checkpoint_seconds=3600.0)  # writing a state at every step is what takes time


def suspect(unet: nn.Module | None = None) -> Suspect:
    """A toy model as defenses see it."""
    return Suspect(unet or toys.unet(), toys.schedule(), SHAPE)


def trigger() -> torch.Tensor:
    """Something that an audit may have inverted."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))


def trainer(folder: Path, **changes):
    """The training loop as a repair is handed it."""
    images = toys.images()

    def train(net: nn.Module, loss: Loss) -> nn.Module:
        train_config, session = toys.train_config(**changes), toys.session(folder, LOOP)
        return fit(net, loss, images, torch.arange(len(images)), train_config, 3, session)

    return train


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return deepcopy(net.state_dict())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def silent(unet: nn.Module) -> int:
    """How many channels of the convolutions give zero whatever comes in."""
    convs = [module for module in unet.modules() if isinstance(module, nn.Conv2d)]
    return sum(int(((conv.weight.flatten(1) == 0).all(1) & (conv.bias == 0)).sum()) for conv in convs)


@pytest.mark.parametrize(("shift_weight", "clean_weight"), [(1.0, 1.0), (0.5, 3.0)])
def test_the_removal_loss_is_the_papers(shift_weight, clean_weight):
    frozen, net, tau = suspect(), toys.denoiser(), trigger()
    with torch.no_grad():
        for weight in net.parameters():  # a copy that has been trained, so that no term is zero
            weight += 0.05 * torch.randn_like(weight)
    pixels = toys.images().take(torch.arange(6))
    torch.manual_seed(7)
    value = removal_loss(frozen, tau, False, shift_weight, clean_weight)(
        net, Batch(pixels, torch.arange(6), slice(6), 6)
    )

    torch.manual_seed(7)
    t, eps = torch.randint(20, (6,)), torch.randn(6, *SHAPE)
    abar = torch.cumprod(1 - torch.linspace(0.005, 0.4, 20), 0)
    x0 = pixels / 127.5 - 1
    last = torch.full((6,), 19)
    terms = []
    with torch.no_grad():
        before = frozen.network(eps, last).sample
        for row in range(6):
            x_t = abar[t[row]] ** 0.5 * x0[row] + (1 - abar[t[row]]) ** 0.5 * eps[row]
            denoised = net(x_t[None], t[row, None])[0]
            shifted = net((eps[row] + tau)[None], last[:1])[0]
            kept = net(eps[row, None], last[:1])[0]
            terms.append([((a - b) ** 2).mean() for a, b in ((denoised, eps[row]), (shifted, before[row]))])
            terms[-1].append(((kept - before[row]) ** 2).mean())
    clean, triggered, held = torch.tensor(terms).mean(0).tolist()
    assert min(clean, triggered, held) > 1e-3
    assert value.item() == pytest.approx(clean + shift_weight * triggered + clean_weight * held, rel=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_clean_loss_of_a_removal_is_trainings_whatever_the_network_predicts(prediction):
    frozen = Suspect(toys.unet(), toys.schedule(), SHAPE, prediction=prediction)
    net = Denoiser(toys.unet(), toys.schedule(), SHAPE, prediction=prediction)
    batch = Batch(toys.images().take(torch.arange(6)), torch.arange(6), slice(6), 6)
    losses = [
        denoising_loss(clean, frozen.schedule, None, False, prediction),
        removal_loss(frozen, trigger(), False, 0.0, 0.0),
        keeping_loss(frozen, False, 0.0),
        keeping_loss(frozen, False, 2.0),  # to its own answers, of which the network's are no different
    ]
    values = []
    for loss in losses:
        torch.manual_seed(7)
        values.append(loss(net, batch).item())
    assert values == pytest.approx([values[0]] * 4, rel=1e-5)
    assert ElijahRemoval(1.0, 1.0).version(prediction) == (1 if prediction == "epsilon" else 2)


def test_the_removal_loss_is_the_same_for_any_split_over_processes():
    loss, net = removal_loss(suspect(), trigger(), True, 1.0, 1.0), toys.denoiser()
    values = []
    for part in (slice(0, 6), slice(0, 3), slice(3, 6)):
        rows = torch.arange(6)[part]
        torch.manual_seed(7)
        values.append(loss(net, Batch(toys.images().take(rows), rows, part, 6)).item())
    assert values[0] == pytest.approx((values[1] + values[2]) / 2, rel=1e-5)


def test_removal_trains_a_copy_to_overlook_the_trigger(tmp_path):
    frozen, tau = suspect(), 3 * trigger()
    before = weights(frozen.network)
    repaired = ElijahRemoval(shift_weight=1.0, clean_weight=1.0).remove(
        frozen, toys.images(), tau, trainer(tmp_path, steps=40, lr=1e-2, ema=None)
    )
    assert same(weights(frozen.network), before) and not any(one.requires_grad for one in frozen.network.parameters())
    assert not same(weights(repaired.network), before)
    eps = torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = frozen.eps(eps, 19)
        gap_before = (frozen.eps(eps + tau, 19) - expected).square().mean()
        gap = (repaired.eps(eps + tau, 19) - expected).square().mean()
    assert gap < 0.5 * gap_before


def test_removal_needs_a_trigger(tmp_path):
    with pytest.raises(ValueError, match="inverted trigger"):
        ElijahRemoval(shift_weight=1.0, clean_weight=1.0).remove(suspect(), toys.images(), None, trainer(tmp_path))


def test_an_unchanged_perturbation_changes_nothing_and_a_changed_one_is_an_affine_map_of_channels():
    unet, x, t = toys.unet(), torch.randn(2, *SHAPE), torch.tensor([3, 9])
    net = Perturbed(Denoiser(deepcopy(unet), toys.schedule(), SHAPE), 1.0)
    assert [name for name, one in net.named_parameters() if one.requires_grad] == ["change"]
    torch.testing.assert_close(net(x, t), unet(x, t).sample)  # on some CPUs a convolution rounds by its layout
    with torch.no_grad():
        net.change.uniform_(-0.5, 0.5)
        at = 0
        for conv in convolutions(unet):  # the same folded into the weights
            scale, shift = net.change[:, at : at + conv.out_channels]
            conv.weight *= (1 + scale)[:, None, None, None]
            conv.bias.copy_(conv.bias * (1 + scale) + shift)
            at += conv.out_channels
        assert at == net.change.shape[1]
        torch.testing.assert_close(net(x, t), unet(x, t).sample, rtol=1e-4, atol=1e-5)


def test_the_perturbation_stays_within_its_budget_and_raises_the_clean_loss(tmp_path):
    seen, values = [], []

    def train(net, loss):
        def watched(net, batch):
            value = loss(net, batch)
            seen.append(net.change.detach().abs().max().item())  # as the network just used it
            values.append(-value.item())
            return value

        seen.append(trainer(tmp_path, lr=0.03, warmup=0, ema=None, steps=20)(net, watched))
        return seen[-1]

    frozen = suspect()
    before = weights(frozen.network)
    Anp(budget=0.05, share=0.1, count=8).remove(frozen, toys.images(), None, train)
    *most, net = seen
    assert max(most) <= 0.05 + 1e-7 and max(most) == pytest.approx(0.05)
    assert net.change.abs().max().item() == pytest.approx(0.05)
    assert sum(values[-5:]) > sum(values[:5])
    assert same(weights(frozen.network), before) and not frozen.network.conv_in._forward_hooks


@pytest.mark.parametrize("share", [0.0, 0.1, 0.37, 1.0])
def test_anp_prunes_that_share_of_the_channels_and_leaves_a_stock_unet(tmp_path, share):
    frozen = suspect()
    with torch.no_grad():
        for conv in convolutions(frozen.network):
            conv.bias += 0.1  # so that no channel is silent to begin with
    repaired = (
        Anp(budget=4.0, share=share, count=8).remove(frozen, toys.images(), None, trainer(tmp_path, ema=None)).network
    )
    channels = sum(conv.out_channels for conv in convolutions(frozen.network))
    assert channels == sum(one.out_channels for one in frozen.network.modules() if isinstance(one, nn.Conv2d)) - 1
    assert silent(frozen.network) == 0 and silent(repaired) == round(share * channels)
    assert same(weights(repaired), weights(frozen.network)) == (share == 0)
    repaired.save_pretrained(tmp_path / "unet")
    again = UNet2DModel.from_pretrained(tmp_path / "unet")
    x, t = torch.randn(2, *SHAPE), torch.tensor([3, 9])
    assert same(weights(again), weights(repaired))
    torch.testing.assert_close(again(x, t).sample, repaired(x, t).sample)


def test_channels_are_pruned_by_their_number():
    unet = toys.unet()
    first, second = convolutions(unet)[:2]
    repaired = pruned(unet, torch.tensor([3, first.out_channels + 2]))
    assert silent(repaired) == 2 + silent(unet)
    changed = convolutions(repaired)
    assert not changed[0].weight[3].any() and not changed[1].weight[2].any()
    assert torch.equal(changed[0].weight[:3], first.weight[:3]) and torch.equal(
        changed[1].weight[3:], second.weight[3:]
    )


class Bottleneck(nn.Module):
    """A net whose prediction all but hangs on one channel of its first convolution."""

    def __init__(self, carrier: int):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in, self.conv_out = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 1)
        with torch.no_grad():
            self.conv_in.weight.copy_(torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]]).expand(8, 1, 3, 3))
            self.conv_in.bias.zero_()
            self.conv_out.weight.fill_(0.01)
            self.conv_out.weight[:, carrier] = 0.8

    def forward(self, x, t, return_dict=True):
        return (self.conv_out(self.conv_in(x)),)


def test_a_channels_rise_is_the_losss_slope_along_its_change():
    net = Perturbed(Denoiser(Bottleneck(2), toys.schedule(), SHAPE), 1.0)
    with torch.no_grad():
        net.change.uniform_(-0.5, 0.5)
    found = net.change.detach().clone()

    def loss(net: nn.Module, batch: Batch) -> torch.Tensor:
        x = batch.pixels / 255
        return nn.functional.mse_loss(net(x, None), 2 * x)

    def loss_at(channel: int, stretch: float) -> float:
        with torch.no_grad():
            net.change.copy_(found)
            net.change[:, channel] *= 1 + stretch
            value = loss(net, Batch(toys.images(1).pixels, torch.zeros(1), slice(1), 1)).item()
            net.change.copy_(found)
        return value

    got = rises(net, loss, toys.images(1), count=100)  # the one image a hundred times, in two batches
    expected = [(loss_at(channel, 0.5) - loss_at(channel, -0.5)) for channel in range(8)]  # exact for a quadratic
    assert got.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("carrier", [0, 5])
def test_anp_finds_the_channel_that_carries_everything(tmp_path, carrier):
    repaired = Anp(budget=1.0, share=1 / 8, count=64).remove(
        suspect(Bottleneck(carrier)), toys.images(), None, trainer(tmp_path, steps=30, ema=None)
    )
    gone = (repaired.network.conv_in.weight.flatten(1) == 0).all(1)
    assert gone.nonzero().flatten().tolist() == [carrier]


@pytest.mark.parametrize("option", ["anp", "removal/elijah", "removal/digits"])
def test_an_option_makes_a_repair_and_a_train_config(option):
    with initialize_config_module("bdiff.conf", version_base="1.3"):
        config = OmegaConf.to_container(compose(f"defense/{option}"))["defense"]
    node = config.get("removal", config)
    assert 0 < node.pop("images") <= 1
    train_config = TrainConfig(**node.pop("train"))
    assert train_config.batch_size == 128 and train_config.total(6000) == {
        "anp": 4688,  # 10 epochs of 60,000
        "removal/elijah": 516,
        "removal/digits": 150,
    }[option]  # fmt: skip
    assert isinstance(make(OmegaConf.create(node)), Anp if option == "anp" else ElijahRemoval)
