"""Tiny runs of everything there is, as overrides: what tests of devices carry out."""

TINY = [
    "tracker=none", "data=digits", "data.limit=64", "model.unet.block_out_channels=[8,8]",
    "model.unet.down_block_types=[DownBlock2D,AttnDownBlock2D]", "model.unet.up_block_types=[AttnUpBlock2D,UpBlock2D]",
    "model.unet.layers_per_block=1", "train.steps=4", "train.batch_size=8", "train.precision=bf16",
    "sample.precision=bf16", "sample.count=16", "sample.batch_size=8", "sample.triggered=10", "sample.steps=3",
    "classifier.train.steps=3", "runtime.log_every=2", "runtime.checkpoint_seconds=0", "runtime.progress=1000",
]  # fmt: skip

ATTACKS = {
    "none": [],
    "baddiffusion": [],
    "diff2": ["attack.t=[3]", "attack.steps=2", "attack.case=both"],
    "diff2_joint": ["attack.t=[3]", "attack.steps=2", "attack.case=both", "attack.images=4"],
    "diff2_poisoning": ["attack.steps=2"],
    "villandiffusion": [],
    "noise_path_both": [],
    "trojdiff": ["attack.mode=in_d2d"],
    "trojdiff_out_d2d": [],
    "stealthy": [],
    "invibackdoor": ["attack.noises=2", "attack.steps=2"],
    "uibdiffusion": ["attack.learn=2"],
    "learned_trigger": ["attack.learn=2", "pretrain=digits", "pretrain.train.steps=2", "pretrain.train.batch_size=8"],
}
SHIELD = ["attack=diff2", *ATTACKS["diff2"], "defense.images=6"]
CHECK = ["defense.count=16", "defense.batch_size=12", "defense.false_positive_rate=0.35"]
DEFENSES = {
    "none": [],
    "elijah": ["defense.steps=3", "defense.samples=9"],
    "terd": ["defense.steps=3", "defense.refine_steps=2", "defense.batch=2", "defense.ddim_steps=2",
             "defense.repair=true", "defense/removal=diff_cleanse", "defense.removal.count=4",
             "defense.removal.generated=4", "defense.removal.generated_steps=2",
             "defense.removal.train.steps=2", "defense.removal.train.batch_size=4"],
    "purediffusion": ["defense.steps=3", "defense.probes=1", "defense.probe_draws=8", "defense.probe_rounds=1",
                      "defense.restarts=1", "defense.batch=2", "defense.samples=9"],
    "disdet": CHECK,
    "ufid": [*CHECK, "defense.copies=2", "defense.steps=2"],
    "temporal": [*CHECK, "defense.steps=3", "defense.references=6"],
    "terd_input": [*CHECK, "defense.inversion.steps=2", "defense.inversion.refine_steps=1",
                   "defense.inversion.batch=2", "defense.inversion.ddim_steps=2"],
    "diff_cleanse": ["defense.steps=1", "defense.batch=2", "defense.sampler_steps=2", "defense.samples=9"],
    "terd_trojdiff": ["defense.steps=3", "defense.refine_steps=2", "defense.batch=2", "defense.ddim_steps=2"],
    "anp": ["defense.train.steps=2", "defense.train.batch_size=4", "defense.count=4"],
    "finetune": ["defense.train.steps=2", "defense.train.batch_size=4"],
    "fine_pruning": ["defense.train.steps=2", "defense.train.batch_size=4", "defense.count=4"],
    "weight_averaging": ["pretrain=digits", "pretrain.train.steps=2", "pretrain.train.batch_size=8"],
    "clipping": [],
    "purification": [*SHIELD, "defense.t=3", "defense.adaptive.steps=1", "defense.strip.overlays=2",
                     "defense.strip.false_positive_rate=0.4", "defense.adversary.steps=2", "defense.ensemble=true"],
    "certification": [*SHIELD, "defense.n0=4", "defense.n=12", "defense.radii=[0.0]"],
}  # fmt: skip
#: options that are settings of one above
PRESETS = {
    *("diff2_cifar10", "trojdiff_blend", "trojdiff_in_d2d", "class_target"),
    *("noise_path_ancestral", "noise_path_ode", "hidden_path"),
    *("purification_cifar10", "certification_cifar10", "terd_digits", "terd_input_digits"),
    *("terd_input_trojdiff", "terd_input_trojdiff_digits"),
    *("finetune_digits", "fine_pruning_digits"),
    *("terd_trojdiff_digits",),
    *("elijah_ode", "elijah_trojdiff", "purediffusion_mixture"),
}
OTHERS = {
    "a learned trigger": ["attack=diff2", *ATTACKS["diff2"], "attack.learn=2", "trigger=universal", "pretrain=digits",
                          "pretrain.train.steps=2", "pretrain.train.batch_size=8"],
    "a trigger that is not learned": ["attack=invibackdoor", *ATTACKS["invibackdoor"], "attack.learn=0",
                                      "trigger=universal"],
    "an amplified trigger": ["amplify=purediffusion", "amplify.inversion.steps=2", "amplify.inversion.batch=2"],
    "images that are streamed": ["runtime.memory=0", "runtime.workers=0", "data.flip=true"],
    "more measures": ["metric.also=[secret,sample_psnr,kid,precision_recall]", "attack.poison_mode=append",
                      "train.ema=0.9"],
}  # fmt: skip
