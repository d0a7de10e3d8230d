"""The design as assertions. Every check counts what it looked at, so that it can't go hollow."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.closure import NEUTRAL, ROOT, closure, imported, stage_module

STAGES = ROOT / "stages"
ROOMS = {"dataset", "diffusion", "evaluation", "networks", "training"}
LAYER = "methods"
"""Between the stages and the rooms. A pretraining method is made of views, a network and a loss, which lie in three
rooms; it would otherwise be spread over a `match` per room in the stage module. It may import rooms, and no stage."""
FILES = sorted(STAGES.rglob("*.py"))
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PIPELINE = DVC_YAML["stages"]


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def room_of(file: Path) -> str | None:
    return file.parent.name if file.parent != STAGES else None


def top_imports(file: Path) -> set[str]:
    """The top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def body(stage: str) -> dict:
    return PIPELINE[stage].get("do", PIPELINE[stage])


def test_the_package_was_found():
    assert len(FILES) >= 40
    assert {room_of(f) for f in FILES} - {None} == ROOMS | {LAYER}
    assert len(PIPELINE) >= 13


def test_imports_go_one_way():
    looked_at = 0
    for file in FILES:
        for target in imported(file):
            looked_at += 1
            neutral = relative(target) in NEUTRAL
            if relative(file) in NEUTRAL:
                assert neutral, f"{relative(file)} imports {relative(target)}"
            elif room_of(file) == LAYER:
                assert neutral or room_of(target), f"method {relative(file)} imports stage {relative(target)}"
            elif room_of(file) is None:
                assert neutral or room_of(target), f"stage {relative(file)} imports stage {relative(target)}"
            else:
                assert neutral or room_of(target) == room_of(file), (
                    f"room file {relative(file)} imports {relative(target)}"
                )
    assert looked_at >= 80


@pytest.mark.parametrize("stage", sorted(PIPELINE))
def test_deps_are_the_import_closure(stage):
    code = [dep for dep in body(stage).get("deps", []) if str(dep).startswith("stages/")]
    assert code == closure(stage_module(body(stage))), "run `python -m tests.closure --write`"


@pytest.mark.parametrize("stage", sorted(PIPELINE))
def test_params_are_what_the_module_reads(stage):
    """`study.x` and `profile.y` in the module are the keys that dvc.yaml lists, so no setting changes unseen."""
    if stage == "check_settings":
        return  # it reads whole files
    module = STAGES / f"{stage_module(body(stage))}.py"
    read = {"study": set(), "profile": set()}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in read:
            read[node.value.id].add(node.attr)
    declared = {"study": set(), "profile": set()}
    for entry in body(stage).get("params", []):
        if isinstance(entry, str):
            declared["study"].add(entry.split(".")[0])
        else:
            declared["profile"] |= set(entry["profiles/${profile}.yaml"])
    assert read["study"] - {"profile"} == declared["study"]
    assert read["profile"] == declared["profile"]
    assert declared["study"] | declared["profile"], "a stage that reads no setting"


def test_every_stage_module_is_a_stage():
    modules = {f.stem for f in STAGES.glob("*.py") if relative(f) not in NEUTRAL} - {"__init__"}
    assert {stage_module(body(stage)) for stage in PIPELINE} == modules == set(PIPELINE)


def test_only_the_judges_see_the_test_split():
    readers = {stage for stage in PIPELINE if "data/test" in body(stage).get("deps", [])}
    assert readers == {"audit_synthetic", "detect_fakes", "evaluate", "evaluate_vit", "probe_encoder"}


def test_no_stage_keeps_outs_from_the_run_cache():
    """`persist: true` or an uncached out would switch DVC's run cache off for the stage."""
    plain = [out for stage in PIPELINE for out in body(stage).get("outs", [])]
    assert len(plain) >= 15
    assert all(isinstance(out, str) for out in plain)


def test_artifacts_are_outs():
    """What `dvc artifacts get` offers is what some stage makes, whatever the arms are called."""
    outs = [re.sub(r"\$\{[^}]+\}", "ITEM", out) for stage in PIPELINE for out in body(stage).get("outs", [])]
    patterns = [re.compile(re.escape(out).replace("ITEM", "[^/]+")) for out in outs]
    paths = [artifact["path"] for artifact in DVC_YAML["artifacts"].values()]
    assert len(paths) >= 6
    for path in paths:
        assert any(pattern.fullmatch(path) for pattern in patterns), path


def test_single_owners():
    owners = {"yaml": {"stages/config.py"}, "accelerate": {"stages/training/runtime.py"}}
    for package, allowed in owners.items():
        assert {relative(f) for f in FILES if package in top_imports(f)} == allowed, package


def test_one_place_names_devices():
    names = re.compile(r"""["'](cuda|cpu|mps)["':]""")
    named = {relative(f) for f in FILES if names.search(f.read_text())}
    assert named == {"stages/training/runtime.py"}


def test_neutral_files_hold_no_formula():
    """No numeric default, no arithmetic beyond what bounds, paths and provenance need, and never torch."""
    for name in NEUTRAL:
        tree = ast.parse((ROOT / name).read_text())
        assert not top_imports(ROOT / name) & {"torch", "numpy", "transformers"}
        if name == "stages/artifacts.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                defaults = [n for n in node.body if isinstance(n, ast.AnnAssign) and n.value is not None]
                assert not defaults, f"{name}: {node.name} has a default"


@pytest.mark.parametrize("stage", ["check_settings", "fetch_data", "mix_sources", "summarize"])
def test_what_needs_no_torch_does_not_import_it(stage):
    program = f"import sys, stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_room_signs_are_docstrings():
    signs = sorted(STAGES.rglob("__init__.py"))
    assert len(signs) == len(ROOMS | {LAYER}) + 1
    for sign in signs:
        tree = ast.parse(sign.read_text())
        assert len(tree.body) == 1, relative(sign)
        assert ast.get_docstring(tree), relative(sign)


def test_sizes():
    functions = 0
    for file in FILES:
        text = file.read_text()
        assert text.count("\n") <= 420, f"{relative(file)} is long: split it"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                functions += 1
                lines = node.end_lineno - node.lineno + 1
                assert lines <= 60, f"{relative(file)}:{node.name} has {lines} lines"
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len(arguments) <= 9, f"{relative(file)}:{node.name} has {len(arguments)} parameters"
    assert functions >= 100


def test_no_nounless_files():
    forbidden = {"utils", "misc", "common", "helpers", "base", "core"}
    assert not {f.stem for f in FILES} & forbidden


def test_no_pickle_and_no_remote_code():
    text = {relative(f): f.read_text() for f in FILES}
    for name, content in text.items():
        assert "trust_remote_code=True" not in content, name
        assert "import pickle" not in content, name
        for call in re.findall(r"torch\.load\([^)]*\)", content):
            assert "weights_only=True" in call, name
    assert any("weights_only=True" in content for content in text.values())
