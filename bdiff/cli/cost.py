"""`bdiff cost`: the smallest training budget with which each attack succeeds, by poison rate."""

from functools import partial

from bdiff.cli.shared import Parser, deliver, drawn, found_below, fraction, known_keys, names, over_runs
from bdiff.report.cost import RATE, STEPS, USES, attacked, base_of, cost_sheet, facts, methods
from bdiff.report.pivot import latest
from bdiff.report.runs import measured

EXAMPLES = """
  bdiff cost outputs/cost --rows attack --base baddiffusion  optimizer steps to an ASR of 0.99, and factors
  bdiff cost outputs --goal 0.9 --format latex --out cost.tex --figure cost.png"""


def parser() -> Parser:
    """Return the parser of `bdiff cost`."""
    parser = over_runs("cost", __doc__, EXAMPLES, "runs", " that tell attacks apart", "ASR over steps")
    goal = partial(fraction, whole=True)
    parser.add_argument("--goal", type=goal, default=0.99, metavar="ASR", help="the ASR to reach (default: 0.99)")
    parser.add_argument(
        "--base",
        type=names,
        metavar="VALUE,VALUE",
        help="the attack that others are held against: its first values of --rows",
    )
    return parser


def cost(words: list[str]) -> None:
    """Execute `bdiff cost`. Raises RequestError for invalid arguments, and if no run with an ASR is done."""
    args = parser().parse_args(words)
    needed = "an attack that has a poison rate, and a budget in train.steps"
    runs = found_below(args.folders, lambda runs: attacked(measured(runs, *USES)), needed)
    known_keys(runs, args.rows or [])
    keys, tried = methods(runs, args.rows)
    sheet = cost_sheet(keys, tried, args.goal, base_of(tried, args.base))
    sheet.notes.extend(facts(latest(runs, [*keys, STEPS, RATE])))
    deliver([sheet], args.format, args.out)
    if args.figure:
        from bdiff.report import cost_figure  # imports matplotlib, which is slow

        drawn(args.figure, lambda path: cost_figure.curves(path, tried, args.goal))
