"""Networks that predict x0 or v: trained, saved, taken up again and defended as those that predict noise are."""

import json

import pytest
from diffusers import DDPMPipeline
from runs import carry_out
from tiny import TINY

from bdiff.cli import main as cli

DEFENSE = ["defense=finetune", "defense.train.steps=2", "defense.train.epochs=null"]


@pytest.mark.parametrize("prediction", ["v_prediction", pytest.param("sample", marks=pytest.mark.slow)])
def test_a_model_of_any_prediction_goes_through_a_run_and_is_started_from(home, prediction, capsys):
    words = [f"model.prediction={prediction}", "attack.poison_rate=0.5", "train.precision=fp32"]
    code, record = carry_out(home, prediction, *TINY, *words, *DEFENSE)
    assert code == 0 and {"suspect/mse", "repaired/mse"} <= record["metrics"].keys()
    for stage in ("train", "repair"):
        folder = home / "outputs" / stage / record["keys"][stage] / "model"
        assert DDPMPipeline.from_pretrained(folder).scheduler.config.prediction_type == prediction
    code, again = carry_out(home, f"from {prediction}", *TINY, f"model.pretrained={record['model']}")
    saved = json.loads((home / "outputs" / "train" / again["keys"]["train"] / "model" / "scheduler" /
                        "scheduler_config.json").read_text())  # fmt: skip
    assert code == 0 and saved["prediction_type"] == prediction
    code, _ = carry_out(
        home, f"not {prediction}", *TINY, f"model.pretrained={record['model']}", "model.prediction=epsilon"
    )
    assert code == 2 and f"predicts {prediction}: leave model.prediction=auto" in capsys.readouterr().err


def test_another_prediction_is_refused(capsys):
    assert cli.command(["run", "model.prediction=flow"]) == 2
    assert "model.prediction=flow is not known" in capsys.readouterr().err
