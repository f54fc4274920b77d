"""What the pipeline itself reads of a request: the sections that name no part. Each class declares one of them."""

from dataclasses import dataclass
from typing import Annotated

from bdiff.config.rules import (
    at_least,
    auto_or_count,
    device,
    file_name,
    fraction,
    one_of,
    open_fraction,
    precision,
    some_of,
)
from bdiff.diffusion.training import LoopConfig, TrainConfig
from bdiff.metric.names import ALSO


@dataclass(frozen=True)
class Run:
    """What stands at the top of a request."""

    name: Annotated[str, file_name, "of the run; its folder bears it"]
    seed: Annotated[int, at_least(0), "of all randomness that has no seed of its own"]
    published: Annotated[dict | None, "figures that a row of conf/experiment aims at, with their source"]


@dataclass(frozen=True)
class Paths:
    """Where things are kept (conf/config.yaml: paths)."""

    outputs: Annotated[str, "folder of artifacts and runs"]
    cache: Annotated[str, "folder of decoded datasets and downloads"]


@dataclass(frozen=True)
class Runtime(LoopConfig):
    """Where and how a run is computed (conf/runtime); nothing of it is part of a key."""

    device: Annotated[str, device, "where to compute; auto takes a GPU if there is one"]
    threads: Annotated[int | str, auto_or_count, "threads of a CPU; auto: as many as cores are free"]
    plan: Annotated[bool, "print the stages, with estimates of time and memory, and start nothing"]
    memory: Annotated[float, at_least(0), "GiB; datasets up to this size are held in memory, larger ones streamed"]


@dataclass(frozen=True)
class Model:
    """The network, and what its training starts from (conf/model)."""

    pretrained: Annotated[str | None, "a diffusers folder or a hub id to start from; null: fresh weights"]
    prediction: Annotated[
        str, one_of("auto", "epsilon", "sample", "v_prediction"), "what the network predicts; auto: as pretrained says"
    ]


@dataclass(frozen=True)
class Pretrain:
    """A clean model that training starts from (conf/pretrain)."""

    train: Annotated[TrainConfig | None, "how the clean model is trained first; null: it is not"]


@dataclass(frozen=True)
class Classifier:
    """A classifier of the data (conf/classifier), the run's or the attacker's own."""

    seed: Annotated[int, at_least(0), "its own, so that runs with different seeds share a classifier"]
    val_fraction: Annotated[float, open_fraction, "fraction of the images kept for its accuracy"]
    label_smoothing: Annotated[float, fraction, "label smoothing"]
    random_crop_padding: Annotated[int, at_least(0), "px of random translation in training"]
    weights: Annotated[str | None, "a file of weights instead of training; null: trained"]
    train: Annotated[TrainConfig, "how it is trained"]


@dataclass(frozen=True)
class Sample:
    """How many images are drawn, and how (conf/sample)."""

    count: Annotated[int, at_least(2), "clean images"]
    triggered: Annotated[int, at_least(2), "images of any other kind; never more than count"]
    batch_size: Annotated[int, at_least(1), "images of each kind per batch"]
    steps: Annotated[int, at_least(1), "steps of the sampler"]
    clip: Annotated[bool, "clamp the predicted image to [-1,1] at every step"]
    precision: Annotated[str, precision, "auto is bf16 where the device has it"]


@dataclass(frozen=True)
class Step:
    """Further arguments of the scheduler's step()."""

    eta: Annotated[float, fraction, "of DDIM: 0 is deterministic, 1 ancestral"]


@dataclass(frozen=True)
class Sampler:
    """A sampler: a scheduler of diffusers and how it is used (conf/sampler)."""

    ode: Annotated[bool, "whether sampling is deterministic after the starting noise"]
    steps: Annotated[int, at_least(1), "steps that it is usually taken with, see sample.steps"]
    step: Annotated[Step, "further arguments of the scheduler's step()"]


@dataclass(frozen=True)
class Metric:
    """What is measured of samples (conf/metric)."""

    asr_threshold: Annotated[float | None, open_fraction, "MSE on [0,1] below which the target is hit; null: by size"]
    batch_size: Annotated[int, at_least(1), "images measured at once"]
    also: Annotated[list[str], some_of(*ALSO), "further measures"]
    lpips_weights: Annotated[str | None, "a file of torchvision's AlexNet; null: torch's hub cache, or downloaded"]
