"""The settings that a part declares, read from its source without importing it, and so without torch.

A setting is a parameter of the part's constructor or function, or a field of its dataclass, annotated with its type,
any number of rules and a line of help: `lr: Annotated[float, above(0), "step size of Adam"]`. A parameter without
`Annotated` is passed in by the pipeline. A class may name, as `settings`, a dataclass of further keys that the pipeline
reads, and, as `checks`, functions that check how settings fit together.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, ListConfig

from bdiff.common.errors import RequestError
from bdiff.config import rules
from bdiff.config.rules import Rule

#: names of types in tables of options
WORDS: dict[type, str] = {bool: "true, false", int: "whole number", float: "number", str: "text", ListConfig: "list"}
#: types that annotations name, and the types that a config holds for them
TYPES: dict[str, type] = {
    **{"bool": bool, "int": int, "float": float, "str": str, "Path": str},
    **{"list": ListConfig, "tuple": ListConfig, "Sequence": ListConfig, "dict": DictConfig},
}


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting."""

    types: tuple[type, ...]  # any of them; empty: any type
    rules: tuple[Rule, ...] = ()
    help: str = ""
    part: "Part | None" = None  # declares the settings below it

    @property
    def optional(self) -> bool:
        """Whether it may be null."""
        return NoneType in self.types

    @property
    def words(self) -> str:
        """A short description of the values it takes."""
        kinds = dict.fromkeys(WORDS[kind] for kind in self.types if kind in WORDS)
        bare = not self.rules or self.rules[0].bound
        return ", ".join([*([" or ".join(kinds)] if bare else []), *(rule.words for rule in self.rules)])


@dataclass(frozen=True)
class Part:
    """What a part declares: nothing if its source cannot be found."""

    path: str
    doc: str = ""  # the first line of its module's docstring, or of its own
    settings: dict[str, Setting] | None = None
    given: frozenset[str] = frozenset()  # parameters that are not settings
    bases: tuple[str, ...] = ()  # dotted paths of all its base classes, the nearest first
    checks: tuple[str, ...] = ()  # dotted paths of functions: (config, key of the part) -> problems
    flags: frozenset[str] = frozenset()  # class attributes that are True
    versions: tuple[str, ...] = ()  # code: the attributes and methods that say which version of it this is


@dataclass(frozen=True)
class Module:
    """The top level of a parsed module."""

    name: str
    doc: str  # the first line of its docstring
    names: dict[str, ast.AST]  # classes, functions and values that are assigned, by name
    imports: dict[str, str]  # dotted paths by their local names

    def path(self, node: ast.AST) -> str:
        """Return the dotted path that a name, plain or dotted, refers to in this module."""
        if isinstance(node, ast.Attribute):
            return f"{self.path(node.value)}.{node.attr}"
        name = node.id if isinstance(node, ast.Name) else ast.unparse(node)
        return self.imports.get(name, f"{self.name}.{name}")

    def find(self, node: ast.AST) -> "tuple[Module, ast.AST] | None":
        """Return the module that defines a name used here, and the definition, if in the same package or in bdiff."""
        path = self.path(node)
        return find(path) if path.partition(".")[0] in ("bdiff", self.name.partition(".")[0]) else None


class Names(dict[str, Any]):
    """The names in an annotation: rules, and literals of the module or of those that it imports from."""

    def __init__(self, module: Module):
        super().__init__(rules=rules)
        self.module = module

    def __missing__(self, name: str) -> Any:
        path = self.module.path(ast.Name(name))
        if path.startswith("bdiff.config.rules."):
            return getattr(rules, path.rpartition(".")[2])
        found = self.module.find(ast.Name(name))
        if found is None:
            raise RequestError(f"{self.module.name}: {name} in an annotation is neither a rule nor a literal")
        return value_of(*found)


def value_of(module: Module, node: ast.AST) -> Any:
    """Evaluate an expression of rules and literals."""
    code = compile(ast.Expression(node), module.name, "eval")  # type: ignore[arg-type]
    return eval(code, {"__builtins__": {}}, Names(module))  # code of an installed part, which a run would import


def source(name: str) -> Path | None:
    """Return the file of a module as importlib's finders locate it; not even the packages around it are imported."""
    place, origin = None, None
    for one in accumulate(name.split("."), "{}.{}".format):
        spec = next(filter(None, (finder.find_spec(one, place) for finder in sys.meta_path)), None)
        if spec is None:
            return None
        place, origin = spec.submodule_search_locations, spec.origin
    return Path(origin) if origin and origin.endswith(".py") else None


@cache
def parsed(name: str) -> Module | None:
    """Return a module by its dotted path, if its source is available."""
    path = source(name)
    if path is None:
        return None
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names: dict[str, ast.AST] = {}
    imports: dict[str, str] = {}
    tree = ast.parse(path.read_text())
    for node in tree.body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                names[node.name] = node
            case ast.Assign(targets=[ast.Name(id=one)]) | ast.AnnAssign(target=ast.Name(id=one)) if node.value:
                names[one] = node.value
            case ast.ImportFrom():
                origin = resolve_name("." * node.level + (node.module or ""), package)
                imports |= {one.asname or one.name: f"{origin}.{one.name}" for one in node.names}
            case ast.Import():
                tops = [(one.asname or one.name.partition(".")[0], one) for one in node.names]
                imports |= {name: one.name if one.asname else name for name, one in tops}
    return Module(name, first_line(tree), names, imports)


def find(path: str) -> tuple[Module, ast.AST] | None:
    """Return what a dotted path names and the module that defines it, following imports."""
    holder, _, name = path.rpartition(".")
    module = parsed(holder) if holder else None
    if module is None:
        return None
    if name in module.names:
        return module, module.names[name]
    return module.find(ast.Name(name)) if name in module.imports else None


@cache
def describe(target: str) -> Part:
    """Return the declarations of the class, function or object at a dotted path."""
    found = find(target)
    if found is None:
        return Part(target)
    module, node = found
    if isinstance(node, ast.FunctionDef):
        return Part(target, module.doc or first_line(node), *declared(arguments(module, node)))
    maker = module.find(node.func) if isinstance(node, ast.Call) else None  # the class of a module-level object
    owner, part = maker or found
    if not isinstance(part, ast.ClassDef):
        return Part(target)
    family = list(lineage(owner, part))
    settings, given = declared(parameters(family, "__call__" if maker else "__init__"))
    around = next((owner.path(value) for owner, one in family if (value := assigned(one, "settings"))), None)
    if around:
        settings |= describe(around).settings or {}
    checks = [ast.literal_eval(value) for _, one in family if (value := assigned(one, "checks"))]
    bases = tuple(owner.path(base) for owner, one in family for base in one.bases)
    flags: dict[str, bool] = {}
    for _, one in reversed(family):
        flags |= switches(one)
    return Part(
        target,
        module.doc or first_line(part),
        settings,
        given,
        bases,
        tuple(dict.fromkeys(sum(checks, ()))),
        frozenset(name for name, on in flags.items() if on),
        tuple(ast.unparse(one) for _, part in family for name, one in named(part) if name.endswith("version")),
    )


def lineage(module: Module, node: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
    """Yield a class and its bases, the nearest first, as far as `Module.find` follows them."""
    yield module, node
    for base in node.bases:
        found = module.find(base)
        if found and isinstance(found[1], ast.ClassDef):
            yield from lineage(*found)  # type: ignore[arg-type]


#: a parameter: its module, its name and its annotation
Parameter = tuple[Module, str, ast.expr | None]


def parameters(family: list[tuple[Module, ast.ClassDef]], method: str) -> Iterator[Parameter]:
    """Yield the parameters of a method, or the fields, of the first class of a family that has them; ** adds more."""
    for place, (module, node) in enumerate(family):
        found = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == method), None)
        if found:
            yield from arguments(module, found)
            if found.args.kwarg is None:
                return
        elif method == "__init__" and is_dataclass(node):
            for owner, base in reversed(family[place:]):
                for one in base.body if is_dataclass(base) else ():
                    if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                        yield owner, one.target.id, one.annotation
            return


def is_dataclass(node: ast.ClassDef) -> bool:
    """Return whether a class is a dataclass."""
    return any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def arguments(module: Module, node: ast.FunctionDef) -> Iterator[Parameter]:
    """Yield the parameters of a function except self."""
    for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if one.arg != "self":
            yield module, one.arg, one.annotation


def declared(found: Iterator[Parameter]) -> tuple[dict[str, Setting], frozenset[str]]:
    """Return the parameters that are settings, by name, and the names of the others."""
    settings, given = {}, set()
    for module, name, annotation in found:
        match annotation:
            case ast.Subscript(
                value=ast.Name(id="Annotated") | ast.Attribute(attr="Annotated"), slice=ast.Tuple(elts=[kind, *about])
            ):
                types, part = kinds(module, kind)
                values = [value_of(module, one) for one in about]
                rules_of = tuple(one for one in values if callable(one))
                settings[name] = Setting(
                    types, rules_of, next((one for one in values if isinstance(one, str)), ""), part
                )
            case _:
                given.add(name)
    return settings, frozenset(given)


def kinds(module: Module, node: ast.expr) -> tuple[tuple[type, ...], Part | None]:
    """Return the types that an annotation names, and the declarations of a class among them."""
    match node:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            (one, part), (other, another) = kinds(module, left), kinds(module, right)
            return one + other, part or another
        case ast.Constant(value=None):
            return (NoneType,), None
        case ast.Subscript(value=value):
            return kinds(module, value)
        case ast.Name(id=name) if name in TYPES:
            return (TYPES[name],), None
        case ast.Name(id="Any"):
            return (), None
    return (DictConfig,), describe(module.path(node))


def named(node: ast.ClassDef) -> Iterator[tuple[str, ast.FunctionDef | ast.Assign | ast.AnnAssign]]:
    """Yield what a class has in its body, methods and values, by name."""
    for one in node.body:
        match one:
            case ast.FunctionDef(name=name):
                yield name, one
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, one


def assigned(node: ast.ClassDef, name: str) -> ast.expr | None:
    """Return the expression that a class assigns to a name in its body."""
    found = (one.value for known, one in named(node) if known == name and not isinstance(one, ast.FunctionDef))
    return next(found, None)


def switches(node: ast.ClassDef) -> dict[str, bool]:
    """Return the attributes that a class sets to True or False in its body."""
    found = {name: one.value for name, _ in named(node) if isinstance(one := assigned(node, name), ast.Constant)}
    return {name: on for name, on in found.items() if isinstance(on, bool)}


def first_line(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """Return the first line of a docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]
