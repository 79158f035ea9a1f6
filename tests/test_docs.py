"""Documentation and repository rules that would rot without a test."""

import argparse
import ast
import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(path for path in ROOT.glob("s[0-5]_*") if path.is_dir())
MODULES = {
    stage.name: sorted(p for p in stage.rglob("*.py") if "demo" not in p.relative_to(stage).parts)
    for stage in STAGES
}
SCRIPTS = sorted(
    path
    for files in MODULES.values()
    for path in files
    if re.search(r"^def build_parser\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
)


def top_name(path: Path) -> str:
    """The name by which a module, or the package it lies in, is imported from its stage."""
    inside = path.relative_to(next(parent for parent in path.parents if parent in STAGES)).parts
    inside = inside[1:] if inside[0] == "framework" else inside
    return inside[0].removesuffix(".py")


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def documented_defaults(usage: str, script: str) -> dict[str, str]:
    """Option and default cells of the table below `## <script>` in a USAGE.md."""
    section = re.search(
        rf"^## `?{re.escape(script)}`?\s*$(.*?)(?=^## |\Z)", usage, flags=re.MULTILINE | re.DOTALL
    )
    assert section, f"no section '## {script}'"
    return dict(re.findall(r"^\| `([^`]+)` \|([^|]*)\|", section[1], flags=re.MULTILINE))


def option_name(action: argparse.Action) -> str:
    """The long name; of a switch that has an opposite, the positive one."""
    positive = [option for option in action.option_strings if not option.startswith("--no-")]
    return max(positive, key=len, default=action.dest)


def default_cell(action: argparse.Action, stage: Path) -> str | None:
    """What the default column says of an option; None where any words do, for a default made at run time."""
    default = action.default
    if default is None or default is argparse.SUPPRESS or default == os.cpu_count():
        return None
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, list | tuple):
        return f"`{' '.join(map(str, default))}`" if default else None
    if isinstance(default, Path) and default.is_relative_to(stage):
        return f"`{default.relative_to(stage)}`"
    return f"`{default}`"


def test_there_are_six_stages():
    assert [stage.name[:2] for stage in STAGES] == ["s0", "s1", "s2", "s3", "s4", "s5"]


def test_no_stage_imports_another():
    owner = {top_name(path): name for name, files in MODULES.items() for path in files}
    for name, files in MODULES.items():
        for path in files:
            foreign = {module for module in imported_names(path) if owner.get(module, name) != name}
            assert not foreign, f"{path.relative_to(ROOT)} imports {foreign} of another stage"


def test_top_names_are_unique():
    """Pytest has all six stages on its path, so a module or package name belongs to one stage."""
    owners = {(top_name(path), stage) for stage, files in MODULES.items() for path in files}
    names = [name for name, _ in owners]
    assert sorted(names) == sorted(set(names))


def test_commands_are_imported_by_no_module():
    commands = {path.stem for path in SCRIPTS}
    for files in MODULES.values():
        for path in files:
            imported = imported_names(path) & commands
            assert not imported, f"{path.relative_to(ROOT)} imports the command {imported}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_usage_tables_list_the_options_and_their_defaults(script):
    stage = next(parent for parent in script.parents if parent in STAGES)
    parser = importlib.import_module(script.stem).build_parser()
    actions = {
        option_name(action): action
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    }
    usage = (stage / "USAGE.md").read_text(encoding="utf-8")
    documented = documented_defaults(usage, str(script.relative_to(stage)))
    assert sorted(documented) == sorted(actions)
    for option, action in actions.items():
        assert action.help, f"{script.name}: {option} has no help text"
        expected, found = default_cell(action, stage), documented[option].strip()
        assert expected is None or found == expected, f"{script.name}: {option} has the default {expected}"


@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.name)
def test_every_stage_has_a_short_readme(stage):
    lines = (stage / "README.md").read_text(encoding="utf-8").splitlines()
    assert 10 <= len(lines) <= 90


HELP_OF_ALL = """
import contextlib, io, runpy, sys
from pathlib import Path

folder = sys.path[0]
for script in sys.argv[1:]:
    sys.argv, sys.path[0], said = [script, "--help"], str(Path(folder, script).parent), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert said.getvalue().startswith("usage:"), f"{script} --help: {said.getvalue()!r}"
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda path: path.name)
def test_help_runs_from_the_stage_folder(stage):
    """All commands of a stage in one process, so that its libraries are imported once."""
    scripts = [str(script.relative_to(stage)) for script in SCRIPTS if stage in script.parents]
    done = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *scripts], cwd=stage, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("markdown", sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/*.md")), ids=str)
def test_relative_links_lead_somewhere(markdown):
    text = markdown.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", text):
        assert (markdown.parent / target).exists(), f"{markdown.relative_to(ROOT)}: {target}"


def test_requirements_txt_pins_what_pyproject_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in text
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE):
        pins.setdefault(canonicalize_name(name), set()).add(version)
    groups = project["dependency-groups"]
    wanted = project["project"]["dependencies"] + groups["dev"] + groups["demo"]
    for requirement in map(Requirement, wanted):
        versions = pins.get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in requirements.txt: uv export again"
        for version in versions:
            assert requirement.specifier.contains(version), f"{requirement} against {version}"
    blocks = re.split(r"^(?=[A-Za-z0-9._-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_imported_package_is_declared():
    """What we import ourselves we ask for ourselves, not by way of another package's needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = project["dependency-groups"]
    runtime = project["project"]["dependencies"] + groups["demo"]
    declared = {canonicalize_name(Requirement(line).name) for line in runtime}
    more = groups["dev"] + groups["ethics"]
    for_tests = declared | {canonicalize_name(Requirement(line).name) for line in more}
    distributions = importlib.metadata.packages_distributions()
    tests = sorted((ROOT / "tests").rglob("*.py"))
    own = {top_name(path) for files in MODULES.values() for path in files} | {path.stem for path in tests}
    for path in [path for files in MODULES.values() for path in files] + tests:
        allowed = for_tests if path in tests else declared
        for name in imported_names(path) - own - set(sys.stdlib_module_names):
            providers = {canonicalize_name(provider) for provider in distributions.get(name, [])}
            assert not providers or providers & allowed, (
                f"{path.relative_to(ROOT)} imports {name}: declare it"
            )


def test_gitignore_keeps_results_out_and_the_stages_in():
    ignored = ["s1_compute_all_features/x_features/run.json", "s1_compute_all_features/x_steering/slopes.csv"]
    ignored += ["s2_find_top_features/results/a/report.html"]
    ignored += ["s4_classifier_data_prep/generated_datasets/a.npz", "s0_dataset_generation/.env", "uv.lock"]
    ignored += [
        "s3_feature_activation_graphs/plots/a.png",
        "s5_classifier_training/d3_hidden_to_concept/v0_a/x",
        "s5_classifier_training/d3_hidden_to_concept/predictions/v0_a.csv",
        "s5_classifier_training/study.html",
        "s0_dataset_generation/human_data/a.csv",
    ]
    kept = [
        "s1_compute_all_features/new.py",
        "s2_find_top_features/new.py",
        "s0_dataset_generation/.env.example",
    ]
    kept += ["s5_classifier_training/d3_hidden_to_concept/working/config.json"]
    checked = subprocess.run(
        ["git", "check-ignore", "--no-index", *ignored, *kept], cwd=ROOT, capture_output=True, text=True
    )
    assert checked.stdout.split() == ignored
