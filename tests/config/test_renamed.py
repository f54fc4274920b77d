"""Old names of options and parts: they work, with a line that says the new one."""

import pytest
from omegaconf import OmegaConf

from bdiff.config.compose import jobs
from bdiff.config.parts import describe
from bdiff.config.renamed import OPTIONS, RENAMED, rename
from bdiff.config.words import normal


@pytest.mark.parametrize(
    ("words", "key", "value"),
    [
        (["defense=purification", "defense.votes=3"], "defense.copies", 3),
        (["defense=purification", "defense.at_once=7"], "defense.batch_size", 7),
        (["defense=purification", "defense.strip.blends=2"], "defense.strip.overlays", 2),
        (["classifier.hold_out=0.2"], "classifier.val_fraction", 0.2),
        (["classifier@surrogate=small_cnn", "surrogate.shift=2"], "surrogate.random_crop_padding", 2),
        (["defense.removal.keep=2.0"], "defense.removal.clean_weight", 2.0),
    ],
)
def test_an_old_name_sets_the_option_and_says_its_new_one(words, key, value, capsys):
    (config,) = jobs(words, multirun=False)
    assert OmegaConf.select(config, key) == value
    assert f"is now {key};" in capsys.readouterr().err


def test_every_new_name_is_an_option_and_no_old_one_is():
    (config,) = jobs(["defense=purification", "classifier@surrogate=small_cnn"], multirun=False)
    for old, new in OPTIONS.items():
        assert OmegaConf.select(config, new) is not None and OmegaConf.select(config, old) is None
    for target in RENAMED.values():
        assert describe(target).doc


def test_a_saved_config_has_its_options_renamed():
    defense = {"votes": 3, "removal": {"keep": 1.0}}
    config = OmegaConf.create({"classifier": {"hold_out": 0.1, "shift": 2}, "defense": defense})
    rename(config)
    assert config == {
        "classifier": {"val_fraction": 0.1, "random_crop_padding": 2},
        "defense": {"copies": 3, "removal": {"clean_weight": 1.0}},
    }


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("trigger.path=/tmp/ü x.png", 'trigger.path="/tmp/ü x.png"'),
        ('trigger.path="/tmp/ü.png"', 'trigger.path="/tmp/ü.png"'),
        ("name=ä,b", "name=ä,b"),
    ],
)
def test_letters_beyond_ascii_are_quoted_as_hydra_needs_them(typed, read):
    assert normal(typed) == read


def test_other_words_stay_as_they_are(capsys):
    for word in ("seed=3", "defense.copies=2", "~model.unet.dropout", "name=defense.votes"):
        assert normal(word) == word
    assert capsys.readouterr().err == ""
