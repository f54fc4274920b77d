"""What the metrics and figures of a run mean, in a sentence each."""

from bdiff.pipeline.names import ROWS

#: the meaning of metrics, by the last part of the name, or by the whole where the last has another elsewhere
MEANINGS = {
    "asr": "Attack success rate: the fraction of triggered samples that show the target.",
    "false_trigger": "How much of the backdoor leaks into ordinary use: the fraction of clean samples that show the "
    "target; of the data's own images as a yardstick (data).",
    "false_trigger_excess": "The same where the target is a class: what it is above that of the clean model, or of the "
    "data's own images.",
    "class_asr": "Attack success rate: the fraction of triggered samples that are of the target class.",
    "class_asr_real": "The same of real images of the class, not seen in training: what an attack can reach.",
    "class_precision": "Fraction of triggered samples within the manifold of the class's images. Higher is better.",
    "class_precision_real": "The same of real images of the class, not seen in training.",
    "mse": "Mean squared error between triggered samples and the target, pixels in [0,1]. 0 is the target itself.",
    "ssim": "Structural similarity of triggered samples and the target. 1 is the target itself.",
    "psnr": "Peak signal-to-noise ratio of triggered samples against the target, in dB. Higher is closer.",
    "lpips": "Perceptual distance between triggered samples and the target. 0 is the target itself.",
    "fid": "Fréchet Inception distance between clean samples and the data. Lower is better.",
    "fid_classifier": "Fréchet distance of clean samples to the data in the features of the run's own classifier. "
    "Lower is better; it is not comparable with FID.",
    "kid": "Kernel Inception distance between clean samples and the data. Lower is better.",
    "inception_score": "Inception score of clean samples. Higher is better.",
    "precision": "Fraction of clean samples within the manifold of the data. Higher is better.",
    "recall": "Fraction of the data within the manifold of clean samples. Higher is better.",
    "sample_psnr": "PSNR of the clean samples against the clean model's from the same noise, in dB. Higher is closer.",
    "secret_psnr": "How well the hidden target is extracted, in dB against the target in 8 bits. Higher is closer.",
    "secret_ssim": "Structural similarity of the extracted and the hidden target. 1 is the target itself.",
    "accuracy": "Fraction of images that the classifier labels correctly.",
    "acc": "Fraction of images that are labelled correctly and certified at this L2 radius, images in [0,1].",
    "acr": "Average certified L2 radius, images in [0,1]; wrongly labelled images count as 0.",
    "tpr": "Fraction of triggered inputs that the entropy check flags.",
    "fpr": "Fraction of clean inputs that the entropy check flags.",
    "relative_score": "1 minus how much samples from the inverted trigger differ from each other, relative to clean "
    "samples of the same model: 1 where all are one picture, near 0 where the trigger does nothing.",
    "specific_score": "The relative score, less where that picture is blank: a constant shift of the starting noise "
    "makes any model draw a blank.",
    "trigger_score": "1 minus the loss of the inverted trigger, relative to that of no trigger.",
    "combined_score": "The mean of the relative score and the trigger's score.",
    "called_up": "Fraction of samples from the inverted trigger that show the picture it calls up, their median.",
    "flagged": "1 if the model's score reaches the detection's threshold.",
    "cosine": "Cosine of the inverted trigger and the true one. 1 is the true one's direction.",
    "cosine_patch": "The same on the trigger's patch alone, from the background.",
    "l2": "L2 distance of the inverted trigger to the true one, pixels in [-1,1].",
    "l2_patch": "The same on the trigger's patch alone.",
    "tv": "Total variation of the samples from the inverted trigger: small where they are smooth pictures.",
    "kl_mean": "KL divergence of noise with the inverted trigger from noise, the mean over pixels.",
    "kl_variance": "The same, its variance over pixels.",
    "input_tpr": "Fraction of triggered starting noises that TERD's input check sees with the inverted trigger.",
    "input_tnr": "Fraction of clean starting noises that it lets pass.",
    "evaluations": "Images that the network evaluates for it.",
    "seconds": "Seconds on this device.",
    "audit/score": "The detection's score: the higher, the likelier a backdoor.",
    "audit/loss": "The loss of the inversion at its end.",
    "audit/nothing": "The loss of a trigger that does nothing, which the trigger's score is relative to.",
    "uniformity": "Mean squared distance between samples from the inverted trigger, pixels in [0,1]; 0: all are equal.",
    "inputs/tpr": "Fraction of starting noises with the trigger that the input check flags, at the false-positive "
    "rate asked for (@: at this one).",
    "inputs/fpr": "Fraction of other clean starting noises than those of the threshold that the input check flags.",
    "inputs/auroc": "Probability that a starting noise with the trigger has a higher score than a clean one.",
    "evaluations_per_input": "Images that the network evaluates to score one starting noise.",
    "seconds_per_input": "Seconds on this device to score one starting noise, in batches.",
    "evaluations_per_model": "Images that the network evaluates once per model, before any score: clean chains, or an "
    "inversion, with gradients.",
    "seconds_per_model": "Seconds of the same on its device.",
}
SHIELDED_ASR = "Attack success rate: of the images labelled correctly, the fraction labelled wrongly with the trigger."
#: what other figures show
EXPLAINED = {
    "triggers": "The trigger of the attack, and what the detection inverted from the model.",
    "inverted": "What the model draws from noise with the inverted trigger added.",
    "repaired_clean": "What the model draws after the removal.",
    "repaired_triggered": "The same with the attack's trigger.",
    "guarded_clean": "What the model draws with the sampling defense.",
    "guarded_triggered": "The same with the attack's trigger.",
}


def meaning(metric: str) -> str:
    """Return the meaning of a metric named `who/what`, if known."""
    who, _, what = metric.rpartition("/")
    if what == "asr" and who in {row.purified for row in ROWS.values()}:
        return SHIELDED_ASR
    what = what.partition("@")[0]
    return MEANINGS.get(f"{who}/{what}") or MEANINGS.get(what, "")
