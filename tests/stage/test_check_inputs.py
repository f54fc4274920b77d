"""Input checks in whole runs: the noises of every attack, or why there are none."""

import pytest
from runs import carry_out
from tiny import ATTACKS, DEFENSES, TINY

RATES = {"inputs/tpr", "inputs/auroc"}


@pytest.mark.slow
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_noises_of_every_attack_are_scored_or_it_is_said_why_not(home, attack):
    words = [f"attack={attack}", *ATTACKS[attack], "defense=disdet", *DEFENSES["disdet"], "metric/fid=none"]
    code, record = carry_out(home, f"inputs-{attack}", *TINY, *words)
    metrics, protocol = record["metrics"], record["protocol"]["inputs"]
    assert code == 0 and "inputs/fpr" in metrics and metrics["inputs/evaluations_per_input"] == 0
    starts = not attack.startswith("diff2")  # whose trigger is on images
    assert (metrics.keys() >= RATES) == starts and ("tpr" in protocol["absent"]) == (not starts)


@pytest.mark.slow
def test_the_inversion_of_a_check_is_that_of_the_detection_and_is_counted_apart(home):
    check = ["defense=terd_input", *DEFENSES["terd_input"]]
    alone = [word.replace(".inversion", "") for word in check[4:]]
    code, detected = carry_out(home, "detected", *TINY, "defense=terd", *alone)
    other, record = carry_out(home, "checked", *TINY, *check)
    assert (code, other) == (0, 0) and record["keys"]["audit"] == detected["keys"]["audit"]
    assert "audit" in record["reused"]
    costs = record["protocol"]["inputs"]["inversion"]
    assert costs["evaluations"] == detected["metrics"]["audit/evaluations"] > 0
    assert record["metrics"]["inputs/evaluations_per_model"] == costs["evaluations"]
    assert record["metrics"]["inputs/evaluations_per_input"] == 0
