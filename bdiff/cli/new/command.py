"""`bdiff new`: create a plugin package with one part, its yaml, its test and a pyproject, ready to be installed."""

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template

from bdiff.cli.shared import Parser
from bdiff.common.errors import RequestError
from bdiff.common.spelling import nearest
from bdiff.config.options import group_options

KINDS = ("attack", "defense", "data", "trigger")
ROLES = ("detection", "removal", "sampling", "shield", "inputs")

#: the file created from each template
FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "conftest.py": "tests/conftest.py",
    "init.py": "$package/__init__.py",
    "$template.py": "$package/$name.py",
    "$template.yaml": "$package/conf/$group/$name.yaml",
    "$template.test.py": "tests/test_$name.py",
}

#: what a run of a part takes besides, by its template: a trigger that leaves some of the image, a sampler that opens it
BESIDE = {"shield": " trigger=patch", "attack": " sampler=ddim"}

EXAMPLES = """
  bdiff new attack tide                     ./tide: a package with an attack
  pip install -e tide                       adds it to bdiff
  bdiff run attack=tide sampler=ddim
  bdiff new defense sieve --role removal    of detection, removal, sampling, shield and inputs"""


def new(words: list[str]) -> None:
    """Execute `bdiff new`. Raises RequestError for invalid arguments, and instead of overwriting anything."""
    parser = Parser("new", __doc__, EXAMPLES, tables=False)
    parser.add_argument("kind", help=", ".join(KINDS))
    parser.add_argument("name", help="name of the option and of the new folder")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to create it (default: current folder)")
    parser.add_argument("--role", help=f"role of a defense: {', '.join(ROLES)} (default: detection)")
    args = parser.parse_args(words)
    template = template_of(args.kind, args.role)
    place = args.folder / args.name
    if problem := name_problem(args.name, args.kind, template):
        raise RequestError(f"{args.name} {problem}")
    if place.exists():
        raise RequestError(f"{place} already exists: choose another name or --folder")
    write(place, template, args.kind, args.name)
    run = f"bdiff run {args.kind}={args.name}{BESIDE.get(template, '')}"
    print(f"{place}: pip install -e {place}, then {run}; its test: pytest {place}")


def template_of(kind: str, role: str | None) -> str:
    """Return the template of a kind, and of a role of a defense. RequestError if there is none."""
    if kind not in KINDS:
        raise RequestError(f"bdiff new {kind} {nearest(kind, KINDS)}")
    if kind != "defense":
        if role:
            raise RequestError(f"--role={role} applies only to a defense: leave it out")
        return kind
    if role not in (None, *ROLES):
        raise RequestError(f"--role={role} {nearest(str(role), ROLES)}")
    return role or "detection"


def name_problem(name: str, group: str, template: str) -> str | None:
    """Return why an option of `group` cannot be called `name`, as the end of a message."""
    if not name.isidentifier() or keyword.iskeyword(name) or name != name.lower():
        return "is not a lower-case python name: use one like my_part"
    if name in group_options().get(group, {}):
        return f"is already an option of {group}: choose another name"
    words = set(re.findall(r"\w+", text(f"{template}.py")))
    if words & {name, class_name(name)}:
        return "is a name that the generated module uses itself: choose another name"
    return None


def class_name(name: str) -> str:
    """Return the class name of a part: MyPart for my_part."""
    return "".join(word.capitalize() for word in name.split("_"))


def text(template: str) -> str:
    """Return the content of a template."""
    return resources.files(__package__).joinpath("templates", f"{template}.txt").read_text()


def write(place: Path, template: str, group: str, name: str) -> None:
    """Write the package of one part into the new folder `place`."""
    facts = {
        "template": template,
        "group": group,
        "name": name,
        "class_name": class_name(name),
        "package": f"bdiff_{name}",
        "beside": BESIDE.get(template, ""),
    }
    for source, target in FILES.items():
        path = place / Template(target).substitute(facts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text(Template(source).substitute(facts))).substitute(facts))
