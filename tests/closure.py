"""What code a DVC stage depends on: the import closure of its module, read from the source.

`python -m tests.closure --write` puts it into dvc.yaml; `tests/test_architecture.py` holds dvc.yaml to it. Left out
are the neutral files: they hold no default, formula or number, so an edit of theirs can't change a result (a value
that they read reaches DVC through `params:`).
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
NEUTRAL = {
    "stages/artifacts.py",
    "stages/config.py",
    "stages/detector_sections.py",
    "stages/encoder_sections.py",
    "stages/generator_sections.py",
    "stages/probe_sections.py",
    "stages/sections.py",
}


def imported(file: Path) -> set[Path]:
    """The files of the package that `file` imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    found = set()
    for name in names:
        if name.split(".")[0] != "stages":
            continue
        path = ROOT / name.replace(".", "/")
        found |= {p for p in (path.with_suffix(".py"),) if p.is_file()}
    return found


def closure(module: str) -> list[str]:
    """Paths of all files that stages.<module> imports, itself included, without the neutral ones."""
    pending, seen = [ROOT / "stages" / f"{module}.py"], set()
    while pending:
        file = pending.pop()
        if file not in seen:
            seen.add(file)
            pending += imported(file)
    names = {file.relative_to(ROOT).as_posix() for file in seen}
    return sorted(name for name in names if name not in NEUTRAL and not name.endswith("__init__.py"))


def stage_module(stage: dict) -> str:
    """The module that a stage of dvc.yaml runs."""
    command = stage.get("do", stage)["cmd"]
    return command.split("stages.")[1].split()[0]


def main() -> None:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    path = ROOT / "dvc.yaml"
    content = yaml.load(path)
    for stage in content["stages"].values():
        body = stage.get("do", stage)
        code = closure(stage_module(stage))
        data = [dep for dep in body.get("deps", []) if not str(dep).startswith("stages/")]
        if data + code != list(body.get("deps", [])):
            body["deps"][:] = data + code if "deps" in body else body.insert(2, "deps", data + code)
    if "--write" in sys.argv:
        yaml.dump(content, path)


if __name__ == "__main__":
    main()
