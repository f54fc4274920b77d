"""Wrong requests, through the installed script: exit 2, a few plain lines, nothing started and nothing left behind."""

import gzip
import json
import os
import re
import resource
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from bdiff.common.errors import RequestError
from bdiff.config.compose import jobs, override_problems
from bdiff.config.environment import TORCHRUN

BDIFF = Path(sys.executable).with_name("bdiff")

UNET = {"in_channels": 1, "out_channels": 1, "sample_size": 16}
NOISE = OmegaConf.to_container(OmegaConf.load(Path(__file__).parents[1] / "conf" / "schedule" / "digits.yaml"))

#: a command line, and words that the answer must hold; {files} is the folder of the fixture `files`
WRONG = [
    ("rum", "rum is not a command", "did you mean run?"),
    ("run attack._target_=my.package.Attack", "attack: my.package.Attack is refused", "diffusers"),
    # names
    ("run atack=none", "atack is not known", "did you mean attack?", "classifier, data"),
    ("run attack=badiffusion", "attack=badiffusion is not known", "did you mean baddiffusion?", "none"),
    ("run sampler=foo", "sampler=foo is not known", "ddim, ddpm"),
    ("run experiment=baddifusion/box14", "did you mean baddiffusion/box_14-", "baddiffusion/hat-p5"),
    ("run experiment=nothing", "experiment=nothing is not known", "clipping/box_14-corner-p90-on"),
    ("run experiment/clipping=x", "experiment/clipping is a folder of options", "write experiment=clipping/x"),
    ("run -m experiment=glob(nothing*)", "matches nothing", "experiment=baddiffusion/"),
    ("run metric/fid=incept", "metric/fid=incept is not known", "did you mean inception?", "classifier"),
    ("run metric.fid=inception", "metric.fid is a group", "metric/fid="),
    ("run sed=3", "sed is not known", "did you mean seed?"),
    ("run attack.poison_rat=0.1", "did you mean attack.poison_rate?", "(attack has poison_mode, poison_rate)"),
    ("run atack.poison_rate=0.1", "did you mean attack.poison_rate?"),
    ("run model.unet.layer_per_block=2", "did you mean model.unet.layers_per_block?"),
    ("run nothing.like=it", "nothing.like is not known", "attack, classifier, data"),
    ("run model.unet=3", "model.unet holds settings"),
    ("run tracker=none tracker.mode=offline", "not known with tracker=none", "belongs to tracker=wandb"),
    ("run metric.fid.weights=x", "not known with metric/fid=classifier", "belongs to metric/fid=inception"),
    ("run ~attack", "~attack removes what a run needs"),
    ("run data@other=digits", "data@other", "data"),
    # shapes
    ("run --foo", "--foo is not an option", "bdiff run --help"),
    ("run --cfg everything", "'everything'", "job"),
    ("run -m --cfg job", "Only one of"),
    ("run foo", "'foo' cannot be read", "key=value"),
    ("run =3", "'=3' cannot be read", "key=value"),
    ("run a=[", "'a=[' cannot be read", "quote"),
    ("run trigger=box,glasses", "trigger=box,glasses has several values", "bdiff run -m"),
    ("run -m attack.poison_rate=0.1,1.5", "attack.poison_rate=1.5 is not a fraction"),
    ("run -m trigger=box,bx", "trigger=bx is not known", "did you mean box?"),
    ("run -m seed=interval(0,1)", "seed=interval(0,1)", "seed=1,2,3"),
    ("run seed=${sead}", "seed", "'sead' not found"),
    # values
    ("run attack.poison_rate=1.5", "attack.poison_rate=1.5", "from 0 to 1"),
    ("run attack.poison_rate=-0.1", "attack.poison_rate=-0.1", "from 0 to 1"),
    ("run attack.poison_rate=abc", "attack.poison_rate=abc must be a number"),
    ("run attack.poison_rate=null", "attack.poison_rate cannot be null", "0.1"),
    ("run attack.poison_mode=swap", "attack.poison_mode=swap is not known", "append, replace"),
    ("run train.batch_size=0", "train.batch_size=0 must be at least 1"),
    ("run train.steps=-5", "train.steps=-5 must be at least 0"),
    ("run train.steps=1.5", "train.steps=1.5 must be a whole number"),
    ("run train.steps=null train.epochs=null", "train.steps and train.epochs are both null"),
    ("run train.lr=inf", "train.lr=inf must be a number"),
    ("run train.precision=fp8", "train.precision=fp8 is not known", "auto, bf16, fp32"),
    ("run train.optimizer=sgdd", "train.optimizer=sgdd is not known", "adam, adamw"),
    ("run tracker=wandb tracker.mode=of", "tracker.mode=of is not known", "offline"),
    ("run -m nosuch.key=3", "nosuch.key"),
    ("run data=digits -m train.stepz=3", "train.stepz", "train.steps"),
    ("run runtime.compile=maybe", "runtime.compile=maybe must be auto, true or false"),
    ("run classifier.train.lr=abc", "classifier.train.lr=abc must be a number"),
    ("run model.unet.layers_per_block=two", "model.unet.layers_per_block=two must be a whole number"),
    ("run model.unet.block_out_channels=32", "model.unet.block_out_channels=32 must be a list"),
    ("run paths.outputs=3", "paths.outputs=3 must be text"),
    ("run data.limit=0", "data.limit=0 must be at least 2"),
    ("run data.limit=few", "data.limit=few must be a whole number"),
    ("run runtime.device=gpu", "runtime.device=gpu is not known", "cuda:N"),
    ("run runtime.device=cuda:x", "runtime.device=cuda:x is not known", "cuda:N"),
    ("run metric.also=kid", "metric.also=kid must be a list"),
    ("run metric.also=[kid,lpps]", "holds lpps, which is not known", "did you mean lpips?", "precision_recall"),
    ("run metric.fid.protocol=bddiffusion", "metric.fid.protocol=bddiffusion is not known", "baddiffusion?"),
    ("run metric/fid=none metric.fid.protocol=bdiff", "not known with metric/fid=none", "classifier or inception"),
    ("run metric.fid.reference=x.npz", "not known with metric/fid=classifier", "belongs to metric/fid=inception"),
    ("run defense=nosuch", "defense=nosuch is not known", "anp, ", "clipping, diff_cleanse", "purediffusion"),
    ("run amplify=nosuch", "amplify=nosuch is not known", "none, purediffusion"),
    ("run defense=elijah defense.steps=0", "defense.steps=0 must be at least 1"),
    (
        "run defense=purediffusion defense.law=nosuch",
        "defense.law=nosuch is not known",
        "ancestral, each, ode",
        "a number",
    ),
    (
        "run defense=purediffusion defense.timesteps=[0.2,0.5]",
        "[0.2, 0.5] must be decreasing fractions",
    ),
    ("run defense=elijah defense.removal.images=2", "defense.removal.images=2 is not a fraction"),
    ("run classifier@surrogate=resnet18 surrogate.val_fraction=2", "surrogate.val_fraction=2 must lie between 0 and 1"),
    ("run classifier@surrogate=resnet18 surrogate.weights=5", "surrogate.weights=5 must be text"),
    ("run attack=diff2 attack.mode=turn attack.eps=0", "mode=turn is not known", "attack.eps=0 must be above 0"),
    # what does not fit together
    ("run sampler=dpm_solver defense=clipping", "defense=clipping works with sampler=ddpm and sampler=ddim only"),
    ("run defense=elijah defense.samples=4", "defense.samples=4 is too few to trim 4 at both ends: set 9 or more"),
    ("run defense=elijah sample.count=12", "defense.samples=16 is more than the 12 that are drawn"),
    ("run metric.asr_threshold=1", "metric.asr_threshold=1 must lie between 0 and 1"),
    ("run trigger=noise trigger.cell=0", "trigger.cell=0 must be at least 1"),
    ("run metric.also=[lpips]", "lpips, which needs images of 31 px or more", "data.size=16"),
    ("run metric/fid=none metric.also=[kid]", "kid, which needs features", "metric/fid=inception or classifier"),
    ("run trigger.side=40", "trigger.side=40 does not fit", "1 to 30"),
    ("run trigger.side=0", "trigger.side=0 must be at least 1"),
    ("run data.size=15", "data.size=15 is no multiple of 4"),
    ("run sample.clip=true sampler=dpm_solver", "sample.clip=true", "sampler=ddpm and sampler=ddim"),
    ("run sample.steps=5000", "sample.steps=5000 is more than", "100"),
    ("run sampler=dpm_solver sample.steps=100", "sample.steps=100 is too many", "at most 99"),
    ("run sampler=ddim sample.steps=60", "sample.steps=60 is not valid", "divide the schedule's 100", "use 50 or 100"),
    ("run sampler=pndm sample.steps=100", "must divide half of the schedule's 100", "use 50"),
    ("run sampler=ddpm sample.steps=1", "sample.steps=1 is too few"),
    ("run sampler=ddpm sampler.scheduler.timestep_spacing=leading sample.steps=60", "sample.steps=60", "50 or 100"),
    ("run sampler=unipc sampler.scheduler.timestep_spacing=trailing", "timestep_spacing=trailing", "needs linspace"),
    ("run sampler=pndm schedule.beta_schedule=squaredcos_cap_v2", "sampler=pndm diverges", "sampler=ddim"),
    ("run schedule.beta_schedule=cosine", "schedule.beta_schedule=cosine is not known", "squaredcos_cap_v2"),
    ("run schedule.beta_end=2", "schedule.beta_end=2 must lie between 0 and 1"),
    ("run schedule.beta_start=0.2 schedule.beta_end=0.1", "schedule.beta_start=0.2 is above schedule.beta_end=0.1"),
    ("run schedule.beta_schedule=nosuch defense=purification", "schedule.beta_schedule=nosuch is not known"),
    ("run model.unet.norm_num_groups=5", "norm_num_groups=5 does not divide 16"),
    ("run model.unet.block_out_channels=[16,32]", "names 3 blocks", "has 2"),
    ("run model.unet.block_out_channels=[]", "block_out_channels=[] must be whole numbers"),
    ("run model.unet.layers_per_block=0", "layers_per_block=0 must be a whole number"),
    ("run model.unet.dropout=1", "dropout=1 must be"),
    ("run model.unet.norm_num_groups=0", "norm_num_groups=0 must be a whole number"),
    # keys that no part takes
    ("run ++attack.note=text", "attack.note is not known", "(attack has poison_mode, poison_rate)"),
    ("run +train.stesp=1", "train.stesp is not known; did you mean train.steps?"),
    ("run +metric.foo=1", "metric.foo is not known", "(metric has also, "),
    ("run +classifier.train={stesp:1}", "classifier.train.stesp is not known; did you mean classifier.train.steps?"),
    ("run +model.unet.drop_out=0.1", "model.unet.drop_out is not known; did you mean dropout?"),
    ("run model.unet={a:1}", "model.unet holds settings"),
    ("run data=images data.path={a:b}", "data.path={'a': 'b'} must be a value"),
    ("run +data.path.a=b", "data.path={'a': 'b'} must be a value"),
    ("run train.steps={a:1}", "train.steps={'a': 1} must be a value"),
    # what Hydra and a run need
    ("run sampler=null", "sampler=null is not known", "ddim, ddpm"),
    ("run hydra=null", "hydra=null removes what Hydra needs", "leave it out"),
    ("run ~hydra.run", "~hydra.run removes what Hydra needs", "leave it out"),
    ("run ~hydra.run.dir", "~hydra.run.dir removes", "give hydra.run.dir a value"),
    ("run hydra.run.dir=null", "hydra.run.dir=null removes", "give hydra.run.dir a value"),
    ("run ~paths", "~paths removes what a run needs"),
    ("run --package foo --cfg job", "--package foo is not part of the config"),
    # noise
    ("run +sampler.scheduler.prediction_type=v_prediction", "prediction_type=v_prediction is not", "set it to epsilon"),
    ("run +sampler.scheduler.trained_betas=[0.1,0.2]", "trained_betas=[0.1, 0.2] is not", "leave it out"),
    ("run +sampler.scheduler.rescale_betas_zero_snr=true", "rescale_betas_zero_snr=True is not"),
    ("run sampler=unipc +sampler.scheduler.use_flow_sigmas=true", "use_flow_sigmas=True is not"),
    ("run sampler=dpm_solver +sampler.scheduler.flow_shift=3", "flow_shift=3 is not", "set it to 1"),
    ("run sampler=unipc +sampler.scheduler.sigma_max=3", "sigma_max=3 is not", "leave it out"),
    ("run +sampler.scheduler.beta_end=0.5", "beta_end=0.5 is set by the schedule", "set schedule.beta_end"),
    ("run +sampler.scheduler.num_train_timesteps=10", "num_train_timesteps=10 is set by the schedule"),
    ("run sampler.scheduler.variance_type=learned_range", "variance_type=learned_range is not", "or fixed_large"),
    (
        "run sampler.scheduler._target_=diffusers.FlowMatchEulerDiscreteScheduler",
        "FlowMatchEulerDiscrete",
    ),
    ("run sampler.scheduler._target_=diffusers.EDMEulerScheduler", "EDMEulerScheduler does not sample from betas"),
    ("run sampler=ddim sampler.step.eta=1.5", "sampler.step.eta=1.5 is not a fraction"),
    ("run schedule.beta_end=0.001", "abar=0.9 of the image is left at T-1", "set more steps or a larger beta_end"),
    ("run schedule.num_train_timesteps=1000 schedule.beta_end=0.9", "leave nothing of the image at T-1", "fewer steps"),
    # files
    ("run target=image", "target.path is not set", "target.path=<png or jpg>"),
    ("run target=image target.path={files}/none.png", "none.png", "does not exist"),
    ("run target=image target.path={files}/text.png", "text.png", "not a readable picture"),
    ("run trigger=image", "trigger.path is not set", "trigger.path=<png>"),
    ("run trigger=image trigger.path={files}/none.png", "none.png", "does not exist"),
    ("run trigger=image trigger.path={files}/text.png", "text.png", "not a readable picture"),
    ("run trigger=image trigger.path={files}/black.png", "black.png", "all background"),
    ("run data.path={files}/none", "data.path={files}/none does not exist"),
    ("run data.path=2024", "data.path=2024 must be text"),
    ("run data.path={files}/empty", "empty", "holds no pictures"),
    ("run data.path={files}/texts", "texts", "holds no pictures"),
    ("run data.path={files}/text.zip", "text.zip", "not a complete zip"),
    ("run data.path={files}/cut.zip", "cut.zip", "not a complete zip"),
    ("run data=cifar10 data.path={files}/cifar-10-python.tar.gz", "cifar-10-python.tar.gz", "not a complete tar.gz"),
    ("run metric/fid=inception metric.fid.weights={files}/none", "metric.fid.weights", "does not exist"),
    (
        "run data.size=32 metric.also=[lpips] metric.lpips_weights={files}/none",
        "metric.lpips_weights",
        "does not exist",
    ),
    ("run metric/fid=inception metric.fid.reference={files}/none.npz", "metric.fid.reference", "does not exist"),
    ("run metric/fid=inception metric.fid.reference={files}/text.zip", "cannot be used", "not a .npz file"),
    ("run metric/fid=inception metric.fid.reference={files}/sums.npz", "has no mu and no sigma (but sums)"),
    ("run model.pretrained={files}/none", "model.pretrained={files}/none does not exist", "hub id"),
    ("run model.pretrained={files}/empty", "holds no UNet config.json", "unet/"),
    ("run model.pretrained={files}/rgb", "has in_channels=3 and the data 1", "set data.channels=3"),
    ("run model.pretrained={files}/large", "has sample_size=32 and the data 16", "set data.size=32"),
    ("run model.pretrained={files}/long", "num_train_timesteps=1000", "set schedule.num_train_timesteps=1000"),
    # several problems at once
    (
        "run attack.poison_rat=0.1 train.batch_size=0 sampler=foo data.path={files}/none",
        *("attack.poison_rate?", "train.batch_size=0 must", "sampler=foo is", "{files}/none does not exist"),
    ),
    ("run trigger=image target=image", "trigger.path is not set", "target.path is not set"),
    ("run a=1 b=2 c=3 d=4 e=5 f=6", "a is not known", "and 2 more problems"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """What wrong requests point at: broken archives, texts in disguise, checkpoints of other shapes."""
    root = tmp_path_factory.mktemp("files")
    for name in ("text.png", "text.zip", "texts/readme.txt", "empty/.keep"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("no picture and no archive\n")
    (root / "empty" / ".keep").unlink()
    noise = np.random.default_rng(0).bytes(5000)
    with zipfile.ZipFile(root / "cut.zip", "w") as archive:
        archive.writestr("noise.png", noise)
    (root / "cut.zip").write_bytes((root / "cut.zip").read_bytes()[:3000])
    (root / "cifar-10-python.tar.gz").write_bytes(gzip.compress(noise)[:3000])
    Image.new("RGB", (8, 8)).save(root / "black.png")
    np.savez(root / "sums.npz", sums=np.zeros(3))
    checkpoint(root / "rgb", in_channels=3, out_channels=3)
    checkpoint(root / "large", sample_size=32)
    checkpoint(root / "long", num_train_timesteps=1000)
    return root


def checkpoint(folder: Path, **changed) -> None:
    """Write the configs of a diffusers folder that fits the digits but for what is `changed`."""
    for name, config in (("unet/config.json", UNET), ("scheduler/scheduler_config.json", NOISE)):
        (folder / name).parent.mkdir(parents=True)
        known = {key: value for key, value in changed.items() if key in config}
        (folder / name).write_text(json.dumps(config | known))


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory) -> Path:
    """A folder whose `torch` cannot be imported, so that no request that slips through starts a training."""
    folder = tmp_path_factory.mktemp("no_torch")
    mark = "from pathlib import Path; Path(__file__).with_name('imported').touch()"
    (folder / "torch.py").write_text(f"{mark}\nraise ImportError('torch was imported')\n")
    return folder


def script(words: list[str], here: Path, *ahead: Path) -> subprocess.CompletedProcess:
    """Run the installed `bdiff` in the folder `here`; Python looks into the folders `ahead` first."""
    folders = [*map(str, ahead), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, "BDIFF_CACHE": str(here / "cache"), "PYTHONPATH": os.pathsep.join(folders)}
    return subprocess.run([BDIFF, *words], cwd=here, env=env, capture_output=True, text=True, timeout=60)


def computed() -> float:
    """The seconds that processes started from here have computed: unlike the time, hardly longer on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def assert_refused(answer: subprocess.CompletedProcess, here: Path) -> None:
    """Exit 2, a few lines on stderr, no file left."""
    assert answer.returncode == 2, answer
    assert "Traceback" not in answer.stderr + answer.stdout
    assert 1 <= len(answer.stderr.splitlines()) <= 5 and not answer.stdout, answer
    assert all(line.startswith(("bdiff: ", "  ")) for line in answer.stderr.splitlines()), answer.stderr
    assert not list(here.iterdir())


#: answers requests, a line of JSON each, as the script does, without starting Python for each
SERVER = """
import contextlib, io, json, os, sys
from bdiff.cli.main import command
for line in sys.stdin:
    here, words = json.loads(line)
    os.chdir(here)
    os.environ["BDIFF_CACHE"] = here + "/cache"
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command(words)
    os.chdir("/")
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def ask(no_torch) -> Iterator[Callable[[list[str], Path], subprocess.CompletedProcess]]:
    """What answers as `script`, in one process that lives as long as the tests of this file."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(no_torch), os.environ.get("PYTHONPATH", "")]).strip(":")}
    pipe = subprocess.PIPE
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=pipe, stdout=pipe, text=True, env=env)

    def asked(words: list[str], here: Path) -> subprocess.CompletedProcess:
        server.stdin.write(json.dumps([str(here), words]) + "\n")
        server.stdin.flush()
        return subprocess.CompletedProcess(words, *json.loads(server.stdout.readline()))

    with server:
        yield asked
        server.stdin.close()


@pytest.mark.parametrize(
    ("line", "words", "alone"),
    [(line, words, place % 12 == 0) for place, (line, *words) in enumerate(WRONG)],
    ids=[row[0] for row in WRONG],
)
def test_a_wrong_request_is_reported_in_a_few_lines(line, words, alone, files, no_torch, ask, tmp_path):
    asked = line.replace("{files}", str(files)).split()
    answer = script(asked, tmp_path, no_torch) if alone else ask(asked, tmp_path)
    assert_refused(answer, tmp_path)
    for word in words:
        assert word.replace("{files}", str(files)) in answer.stderr
    assert "_target_" not in answer.stderr and "${" not in answer.stderr
    assert not (no_torch / "imported").exists()


def test_cuda_where_there_is_none(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    answer = script(["run", "runtime.device=cuda"], tmp_path)
    assert_refused(answer, tmp_path)
    assert "runtime.device=cuda" in answer.stderr and "runtime.device=cpu" in answer.stderr


@pytest.mark.parametrize(("line", "code"), [("--help", 0), ("--version", 0), ("run attack.poison_rat=1", 2)])
def test_an_answer_comes_at_once(line, code, no_torch, tmp_path):
    before = computed()
    answer = script(line.split(), tmp_path, no_torch)
    assert computed() - before < 3  # under 1 on a quiet machine
    assert answer.returncode == code and not (no_torch / "imported").exists()


#: more of them, of which it is enough that they are found wrong
WRONG_DEFENSES = [
    ("defense/removal=nosuch", "defense/removal=nosuch is not known", "digits, elijah"),
    ("defense.steps=5", "not known with defense=none", "belongs to defense=diff_cleanse or elijah or"),
    ("defense=terd defense.law=ode", "not known with defense=terd", "belongs to defense=purediffusion"),
    (
        "attack.background=0",
        "not known with attack=baddiffusion",
        "noise_path_ancestral or noise_path_both or noise_path_ode",
    ),
    ("defense=elijah defense.threshold=low", "defense.threshold=low must be a number, auto or null"),
    ("defense=purediffusion defense.law=0", "defense.law=0 must be above 0"),
    ("defense=purediffusion defense.law=true", "defense.law=True is not known"),
    ("defense=purediffusion defense.law=null", "defense.law cannot be null"),
    ("defense=purediffusion defense.timesteps=[1.2,0.5]", "must be decreasing fractions"),
    ("defense=purediffusion defense.timesteps=[]", "must be decreasing fractions"),
    ("defense=purediffusion defense.timesteps=[a,b]", "must be decreasing fractions"),
    ("defense=purediffusion defense.timesteps=0.5", "must be decreasing fractions"),
    ("defense=elijah defense.precision=fp8", "defense.precision=fp8 is not known"),
    (
        "defense=anp defense.budget=0 defense.share=1.1 defense.count=0",
        *("defense.budget=0 must be above 0", "defense.share=1.1 must be above 0, and", "defense.count=0 must be at"),
    ),
    ("defense=elijah defense.removal.shift_weight=-1", "defense.removal.shift_weight=-1 must be at least 0"),
    (
        "defense=purification defense.t=0 defense.sampler=ode defense.copies=0",
        *("defense.t=0 must be at least 1", "defense.sampler=ode is not known", "defense.copies=0 must be at least 1"),
    ),
    ("defense=certification defense.stop=soon", "defense.stop=soon is not known", "never, radii"),
    ("defense=purification defense.strip.false_positive_rate=0", "false_positive_rate=0 must lie between 0 and 1"),
    ("defense=purification defense.steps=1.5", "defense.steps=1.5 must be a whole number"),
    ("defense=purification defense.steps=all", "defense.steps=all must be a whole number"),
    ("defense=purification defense.steps=0", "defense.steps=0 must be at least 1"),
    ("defense=elijah defense.steps=null", "defense.steps cannot be null: its default is 100"),
    ("amplify=purediffusion amplify.inversion.law=nosuch", "amplify.inversion.law=nosuch is not known"),
    (
        "amplify=purediffusion amplify.inversion.path=each amplify.inversion.law=each",
        "amplify.inversion.path=each is for detections",
        "amplify.inversion.law=each is for detections",
    ),
    ("classifier.model.width=6", "classifier.model.width=6 must be one of 4, 8, 12"),
    ("classifier=wrn28_10 classifier.model.depth=11", "classifier.model.depth=11 must be one of 10, 16, 22"),
    (
        "sampler=dpm_solver +sampler.scheduler.algorithm_type=sde-dpmsolver++",
        "algorithm_type=sde-dpmsolver++ draws noise in each step: set sampler.ode=false",
    ),
    ("attack=villandiffusion attack.law=grid attack.grid=30 sample.steps=50", "set a divisor of it, such as sample.st"),
    ("amplify=purediffusion amplify.inversion.steps=0", "amplify.inversion.steps=0 must be at least 1"),
    ("defense=terd defense.window=101", "defense.window=101 is more than the schedule's 100 timesteps"),
    ("defense=terd schedule.num_train_timesteps=8", "defense.ddim_steps=10 is more", "defense.window=10 is more"),
    (
        "defense=purediffusion defense.timesteps=[1.0,0.999]",
        "defense.timesteps=[1.0, 0.999] must be decreasing fractions, 1 to 0, of a schedule of 100",
    ),
    (
        "amplify=purediffusion amplify.inversion.timesteps=[1.0,0.999]",
        "amplify.inversion.timesteps=[1.0, 0.999] must be decreasing fractions",
    ),
    ("defense=certification defense.n=9", "defense.n=9 can only abstain", "set n to 11 or more"),
    ("defense=certification defense.stop=never defense.n=9", "can only abstain", "set n to 10 or more"),
    ("defense=certification defense.n=100", "certified accuracy at 0.5 is 0 for any model", "raise n"),
    ("defense=certification defense.radii=[0,1.0]", "certified accuracy at 1.0 is 0 for any model", "raise n"),
    ("defense=diff_cleanse defense.sampler_steps=100", "sampler_steps=100 is too many: at most 99 of"),
    ("defense=diff_cleanse defense.family=ancestral defense.sampler_steps=101", "is too many: at most 100 of"),
    ("defense=elijah defense.threshold=0.1", "defense.threshold=0.1 flags no model: choose within its scores, -1 to 0"),
    ("defense=purediffusion defense.threshold=-1", "defense.threshold=-1 flags every model"),
    ("defense=terd defense.threshold=0", "defense.threshold=0 flags every model: choose within its scores, 0 to inf"),
    ("defense=elijah defense.samples=1 defense.trim=0", "defense.samples=1 is too few", "set 2 or more"),
    ("defense=purediffusion defense.shift=0 defense.spread=0", "shift, spread and consistency give a loss of zero"),
    (
        "amplify=purediffusion amplify.inversion.shift=0 amplify.inversion.spread=0 amplify.inversion.consistency=1 "
        "amplify.inversion.timesteps=[1.0]",
        "amplify.inversion.shift, spread and consistency give a loss of zero",
    ),
    ("defense=purification defense.strip.weight=1", "defense.strip.weight=1 must be at least 0 and below 1"),
    (
        "defense=anp defense.share=0 defense.train.epochs=0",
        "defense.share=0 must",
        "defense.train.epochs=0 must be above",
    ),
    (
        "defense=terd defense.repair=true defense.removal.train.steps=0",
        "defense.removal.train.steps=0 must be above 0",
    ),
    ("defense=weight_averaging", "defense.clean=null is the model that training started from, but here that is fresh"),
    ("defense=terd defense.repair=true defense/removal=weight_averaging", "defense.removal.clean=null is the model"),
    ("defense=weight_averaging defense.weight=0", "defense.weight=0 must be above 0"),
    ("defense=weight_averaging defense.clean=./nosuch", "defense.clean=./nosuch does not exist"),
    (
        "defense=terd defense.repair=true defense/removal=diff_cleanse defense.removal.generated_steps=101",
        "defense.removal.generated_steps=101 is more than the schedule's 100 timesteps",
    ),
    ("defense=fine_pruning defense.share=0", "defense.share=0 must be above 0"),
    (
        "defense=purification defense.repair=true defense/removal=diff_cleanse",
        "this repair needs a trigger: use defense/removal=finetune",
    ),
    ("defense=clipping sample.clip=true", "sample.clip=true clips already"),
    ("trigger=noise trigger.seed=-1", "trigger.seed=-1 must be at least 0"),
    ("attack=learned_trigger pretrain=digits attack.bound=0.003", "attack.bound=0.003 must be 1/255 to 1: it is kept"),
    ("attack=diff2 attack.mode=turn attack.case=all", "mode=turn is not known", "case=all is not known", "both"),
    ("attack=diff2 attack.sampler=ode attack.eta=0", "sampler=ode is not known", "attack.eta=0 must be above 0"),
    ("attack=diff2 attack.sigma=0 attack.eps=-1", "attack.sigma=0 must be above", "attack.eps=-1 must be above"),
    ("attack=diff2_cifar10 attack.steps=0", "attack.steps=0 must be at least 1"),
    ("attack=diff2 attack.t=[0,8]", "attack.t=[0, 8] must be whole numbers from 1 up"),
    (
        "attack=diff2_poisoning attack.eta=0 attack.eps=-1 attack.steps=0",
        *("attack.eta=0 must be above 0", "attack.eps=-1 must be above 0", "attack.steps=0 must be at least 1"),
    ),
    (
        "attack=villandiffusion attack.path=variance attack.law=exact attack.r=image",
        *("attack.path=variance is not known", "attack.law=exact is not known", "attack.r=image is not known"),
    ),
    ("attack=villandiffusion attack.law=[]", "attack.law=[] is empty: name at least one"),
    ("attack=villandiffusion attack.law=[ode,exact]", "holds exact, which is not known"),
    (
        "attack=trojdiff attack.mode=d2d attack.form=box attack.gamma=1",
        *("attack.mode=d2d is not known", "attack.form=box is not known", "attack.gamma=1 must be at least 0 and"),
    ),
    ("attack=trojdiff attack.gamma=-0.1", "attack.gamma=-0.1 must be at least 0 and below 1"),
    ("attack=stealthy attack.strength=1", "attack.strength=1 must lie between 0 and 1"),
    (
        "attack=learned_trigger attack.path=variance attack.law=grid",
        *("attack.path=variance is not known", "attack.law=grid is not known"),
    ),
    ("attack=uibdiffusion attack.law=grid", "attack.law=grid is not known"),
    ("attack=learned_trigger pretrain=none", "attack.learn=200 needs a denoiser that training starts from"),
    ("attack=diff2 attack.learn=4", "attack.learn=4 needs a denoiser that training starts from"),
    ("attack=diff2 amplify=purediffusion", "amplify is for triggers that are added to a sample's starting noise"),
    ("attack=trojdiff amplify=purediffusion", "amplify is for triggers that are added to a sample's starting noise"),
    ("attack=diff2_cifar", "attack=diff2_cifar is not known; did you mean diff2_cifar10?"),
]


@pytest.mark.parametrize(
    ("line", "words"), [(line, words) for line, *words in WRONG_DEFENSES], ids=[row[0] for row in WRONG_DEFENSES]
)
def test_a_wrong_defense_is_reported_before_anything_is_trained(line, words):
    with pytest.raises(RequestError) as caught:
        jobs(line.split(), multirun=False)
    assert all(word in str(caught.value) for word in words), caught.value.problems


RIGHT = [
    "attack=uibdiffusion attack.learn=4",  # on the classifier
    "attack=learned_trigger attack.learn=0",
    "attack=villandiffusion attack.grid=30 amplify=purediffusion",
    "+new.key=3",
    "hydra.run.dir=elsewhere hydra.job.chdir=true",
    "hydra/launcher=basic",
    "train.steps=null train.epochs=0.5 train.ema=null train.clip_norm=null",
    "runtime.progress=0.5 runtime.checkpoint_seconds=0.5",
    "train.lr=1 attack.poison_rate=0 data.flip=true",
    "model.unet.block_out_channels=[8,8,8] ~model.unet.dropout",
    "sampler=ddim sampler.step.eta=1 sample.clip=true",
    "sampler=ddim +sampler.step={eta:1}",
    "+sampler.scheduler.prediction_type=epsilon +sampler.scheduler.beta_end=0.1 +sampler.scheduler.trained_betas=null",
    "schedule.beta_end=0.03 hydra.output_subdir=null",
    "+model.unet.attention_head_dim=8 +note.of.mine=1",
    "data=cifar10 data.size=16 model.pretrained=google/ddpm-cifar10-32",
    "data=cifar10 name=mine seed=${sample.count}",
    "runtime.device=cpu data.limit=64 metric.asr_threshold=0.01",
    "metric.also=[kid,precision_recall,secret,sample_psnr] metric.fid.protocol=pytorch_fid",
    "metric.also=[] metric/fid=none",
    "'name=with space'",
    "defense=elijah defense.threshold=null defense.repair=true defense.removal.train.lr=1e-3",
    "defense=purediffusion defense.threshold=-0.2 defense.law=ode defense.timesteps=[1,0.5,0] sample.count=16",
    "defense=purediffusion defense.law=0.5 defense.shift=0 amplify=purediffusion amplify.inversion.law=1",
    "defense=terd sample.count=2 trigger=noise trigger.cell=1",
    "defense=clipping sampler=ddim",
    "sampler=ddim sample.clip=true",
    "sampler=dpm_solver sampler.ode=false +sampler.scheduler.algorithm_type=sde-dpmsolver++",
    "defense=purediffusion defense.threshold=0 defense.shift=0 defense.spread=0 defense.consistency=1",
    "defense=terd defense.threshold=1e-6",
    "defense=diff_cleanse defense.family=ode defense.sampler_steps=99",
    "defense=diff_cleanse defense.family=ancestral defense.sampler_steps=100",
    "defense=purification defense.steps=4",
    "defense=purification defense.steps=null",
    "defense=anp defense.train.steps=5 amplify=purediffusion sample.count=2",
]


@pytest.mark.parametrize("line", RIGHT)
def test_a_right_request_passes(line):
    words = [line.strip("'")] if line.startswith("'") else line.split()
    (config,) = jobs(words, multirun=False)
    assert config.attack.poison_mode == "replace"


def test_every_job_of_a_sweep_is_composed():
    configs = jobs(["trigger=glob(box_1*)", "seed=range(0,2)", "+note=x"], multirun=True)
    assert [(config.trigger.side, config.seed) for config in configs] == [
        (side, seed) for side in (11, 14, 18) for seed in (0, 1)
    ]


def test_a_key_is_looked_up_in_each_job_of_a_sweep():
    with pytest.raises(RequestError) as caught:
        jobs(["attack=baddiffusion,none", "attack.poison_rate=0.2", "seed=1,2"], multirun=True)
    (problem,) = caught.value.problems  # one for both jobs that have it
    assert problem.startswith("attack.poison_rate is not known with attack=none: it belongs to attack=baddiffusion")


@pytest.mark.parametrize(("group", "problems"), [("experiment", 0), ("attack", 1)])
def test_null_is_an_option_of_groups_that_are_empty_by_default(group, problems):
    jobs([], multirun=False)
    override = OverridesParser.create().parse_override(f"{group}=null")
    assert len(override_problems(override, {group: ["some", "other"]}, multirun=False)) == problems


@pytest.mark.parametrize(
    ("environment", "words", "message"),
    [
        ({"WORLD_SIZE": "3"}, [], "train.batch_size=128 cannot be split over WORLD_SIZE=3 processes"),
        ({"WORLD_SIZE": "2"}, ["classifier.train.batch_size=33"], "classifier.train.batch_size=33 cannot be split"),
        ({"WORLD_SIZE": "2"}, ["classifier=resnet18", "classifier.train.batch_size=33"], None),
        ({"WORLD_SIZE": "2"}, ["defense=anp", "defense.train.batch_size=7"], "defense.train.batch_size=7 cannot be"),
        ({"WORLD_SIZE": "two"}, [], "WORLD_SIZE=two in the environment is not a number"),
        ({"RANK": "-"}, [], "RANK=- in the environment is not a number"),
        ({"WORLD_SIZE": "2"}, [], None),
        ({"LOCAL_RANK": "0"}, [], "LOCAL_RANK is in the environment without WORLD_SIZE, RANK"),
        ({}, ["train.batch_size=7"], None),
    ],
)
def test_batches_that_processes_cannot_share_are_reported_before_anything_starts(
    monkeypatch, environment, words, message
):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    if environment.get("WORLD_SIZE", "").isdigit():
        environment = dict.fromkeys(TORCHRUN, "0") | environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if message is None:
        assert jobs(words, False)
    else:
        with pytest.raises(RequestError, match=re.escape(message)):
            jobs(words, False)
