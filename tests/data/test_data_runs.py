"""What a user starts from: archives in their official layouts, and any attack, defense and dataset together."""

from itertools import product
from pathlib import Path

import pytest
from data_archives import encode, noise, write
from runs import carry_out
from tiny import TINY

from bdiff.config.compose import group_options, jobs

#: a tiny network from scratch on images of 32 px, with the settings that each dataset comes with otherwise
SMALL = [word for word in TINY if word not in ("data=digits", "data.limit=64")]
SMALL += [
    "data.size=32",
    "model.unet.norm_num_groups=4",
    "model.pretrained=null",
    "metric/fid=none",
    "runtime.threads=1",
]


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """CelebAMask-HQ as it is unpacked: JPEGs, and masks of parts of the faces beside them."""
    root = tmp_path / "CelebAMask-HQ"
    for number, pixels in enumerate(noise(6, 40, 40, 3)):
        write(root / "CelebA-HQ-img" / f"{number}.jpg", encode(pixels, "JPEG"))
        write(root / "CelebAMask-HQ-mask-anno" / "0" / f"{number:05}_hair.png", encode(pixels[..., 0]))
    write(root / "CelebA-HQ-to-CelebA-mapping.txt", b"idx orig_idx orig_file\n")
    return tmp_path


@pytest.mark.parametrize(
    ("data", "archive", "count"),
    [
        ("cifar10", "cifar10_tar", 20),
        pytest.param("cifar100", "cifar100_tar", 6, marks=pytest.mark.slow),
        pytest.param("celebahq", "celeba", 6, marks=pytest.mark.slow),
        ("lsun_bedroom", "lsun", 7),
    ],
)
def test_an_official_archive_is_trained_on_and_the_same_request_again_makes_nothing_anew(
    data, archive, count, request, tmp_path
):
    words = [*SMALL, f"data={data}", f"data.path={request.getfixturevalue(archive)}"]
    code, record = carry_out(tmp_path, "first", *words)
    assert code == 0 and record["reused"] == []
    assert {"suspect/asr", "suspect/mse"} <= record["metrics"].keys()
    (decoded,) = (tmp_path / "cache" / "data").glob("*/manifest.json")
    assert f'"count": {count}' in decoded.read_text()
    code, again = carry_out(tmp_path, "again", *words)
    assert code == 0
    assert set(again["reused"]) == set(record["keys"]) and again["metrics"] == record["metrics"]


ATTACKS, DEFENSES, DATASETS = (list(group_options()[group]) for group in ("attack", "defense", "data"))
PAIRS = [*product(ATTACKS, DEFENSES)]
#: every option of the three groups at least once
FEW = [(ATTACKS[at % len(ATTACKS)], DEFENSES[at % len(DEFENSES)]) for at in range(max(len(ATTACKS), len(DEFENSES)))]


@pytest.mark.parametrize(
    ("attack", "defense"), [pair if pair in FEW else pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS]
)
def test_any_attack_defense_and_dataset_go_together(attack, defense):
    """Over all pairs, every two options of different groups meet in a sound request."""
    assert len(DATASETS) <= min(len(ATTACKS), len(DEFENSES))
    data = DATASETS[(ATTACKS.index(attack) + DEFENSES.index(defense)) % len(DATASETS)]
    words = [f"attack={attack}", f"defense={defense}", f"data={data}"]
    if defense == "weight_averaging":  # with what the suspect was not trained from
        words += ["defense.clean=google/ddpm-cifar10-32"]
    if (attack, data) == ("trojdiff_out_d2d", "letters"):  # whose other data are these
        words += ["attack.foreign=digits"]
    if attack == "learned_trigger":  # which is learned on a clean model
        words += ["pretrain=digits"]
    assert len(jobs(words, multirun=False)) == 1
