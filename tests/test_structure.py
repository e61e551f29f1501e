"""The house is in order: a task is complete, functions are short, names say something, imports are light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import tasks

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("eagerly", "pipelines", "services", "benchmarks", "examples")
EMBEDDED = {"classifier": "comes with scikit-learn"}
"""Tasks whose embedded data another package brings, and the words with which their config.py says so."""
MOST_FUNCTION_LINES, MOST_FILE_LINES = 40, 300
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
HEAVY = ("torch", "ray", "mlflow", "numpy", "pandas")


def missing(name: str) -> list[str]:
    """Lists what a task still lacks to be trained, served and called."""
    task, proto = ROOT / "pipelines" / name, ROOT / "proto" / "eagerly" / "v1" / f"{name}.proto"
    lack = [f"pipelines/{name}/{file}" for file in tasks.FILES if not (task / file).is_file()]
    if not (task / "sample").is_dir() and EMBEDDED.get(name, "\0") not in _text(task / "config.py"):
        lack.append(f"pipelines/{name}/sample/, or in its config.py where the embedded data comes from")
    if (task / "sample").is_dir() and not [*(task / "sample").glob("LICENSE*")]:
        lack.append(f"pipelines/{name}/sample/LICENSE")
    if not (ROOT / "services" / f"{name}.py").is_file():
        lack.append(f"services/{name}.py")
    if f"service {name.capitalize()} {{" not in _text(proto):
        lack.append(f"service {name.capitalize()} in proto/eagerly/v1/{name}.proto")
    if not (ROOT / "eagerly" / "v1" / f"{name}_pb2_grpc.py").is_file():
        lack.append(f"eagerly/v1/{name}_pb2_grpc.py (`make stubs`)")
    if f'"{name}"' not in _text(ROOT / "eagerly" / "commands" / "predict.py"):
        lack.append(f"`eagerly predict {name}` in eagerly/commands/predict.py")
    if f"\n    {name}:\n" not in _text(ROOT / "helm" / "eagerly" / "values.yaml"):
        lack.append(f"serving.services.{name} in helm/eagerly/values.yaml and values.schema.json")
    return lack


@pytest.mark.parametrize("name", tasks.TASKS)
def test_a_task_lacks_nothing(name: str) -> None:
    assert missing(name) == []


def test_a_new_task_is_told_everything_it_lacks() -> None:
    assert len(missing("translator")) == len(tasks.FILES) + 6


def test_every_folder_with_the_four_files_is_on_the_list() -> None:
    folders = {path.parent.name for path in (ROOT / "pipelines").glob("*/train.py")}
    assert folders == set(tasks.TASKS)


@pytest.mark.parametrize("name", tasks.TASKS)
def test_one_name_is_spelled_the_same_everywhere(name: str) -> None:
    command = [sys.executable, "-m", "eagerly", "predict", name, "--help"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_every_function_is_short_enough_to_read_at_once() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {length} lines"
        for path in _modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) >= MOST_FUNCTION_LINES
    ]
    assert found == []


def test_every_file_is_short_enough_to_read_at_once() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in _modules()}
    assert {name: length for name, length in lengths.items() if length >= MOST_FILE_LINES} == {}


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        path for path in _modules() if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


def test_no_name_says_nothing() -> None:
    assert [name for name in _tracked() if VAGUE & set(re.split(r"[/._-]", name.lower()))] == []


def test_no_todo_is_left() -> None:
    mark = "TO" + "DO"
    assert [name for name, text in _texts() if mark in text and not name.endswith(".md")] == []


def test_no_file_names_a_registry_host_or_a_path_of_one_machine() -> None:
    places = "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me/(?!you/)"])
    patterns = [r"https?://\S+/" + "simple", "index" + "-url", rf"(?<![\w.~$}}-])/(?:{places})(?:/|\b)"]
    odd = re.compile("|".join(patterns))
    assert [f"{name}: {found.group()}" for name, text in _texts() if (found := odd.search(text))] == []


def test_no_code_reads_or_writes_pickles() -> None:
    words = ("pickle", "joblib", "cloudpickle", "dill")
    imports = {(str(path.relative_to(ROOT)), name) for path in _modules() for name in _imported(path)}
    assert [pair for pair in imports if pair[1] in words] == []
    loads = re.compile(r"\btorch\.(?:load|save)\(|pyfunc\.load_model|allow_" + "pickle=True")
    assert [str(path) for path in _modules() if loads.search(path.read_text())] == []


def test_importing_a_module_does_nothing_but_define() -> None:
    assert [line for path in _modules() for line in _deeds(path)] == []


def test_the_face_and_the_list_of_tasks_import_nothing_heavy() -> None:
    settings = [f"pipelines.{name}.config" for name in tasks.TASKS]
    light = ["pipelines.tasks", "pipelines.runs", "pipelines.journal", "pipelines.recording", "pipelines.launch"]
    verbs = [f"eagerly.commands.{path.stem}" for path in (ROOT / "eagerly" / "commands").glob("[a-z]*.py")]
    modules = ["eagerly.cli", "eagerly.client", *verbs, *light, *settings]
    program = f"import sys, {', '.join(modules)}; print([name for name in {HEAVY} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def _deeds(path: Path) -> list[str]:
    """Lists the statements of a module that do more than import, define and name."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    deeds = []
    for node in ast.parse(path.read_text()).body:
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        guarded = isinstance(node, ast.If) and re.search("__name__|TYPE_CHECKING", ast.unparse(node.test))
        if not (isinstance(node, quiet) or text or guarded) and path.name != "__main__.py":
            deeds.append(f"{path.relative_to(ROOT)}:{node.lineno} {ast.unparse(node)[:60]}")
    return deeds


def _imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in plain | {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)}}


def _modules() -> list[Path]:
    """The project's own Python files, generated ones left out."""
    found = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if path.parent != ROOT / "eagerly" / "v1" and not path.stem.endswith("_pb2")]


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def _texts() -> list[tuple[str, str]]:
    """Every text file in git, with what it says; samples of data left out."""
    names = [name for name in _tracked() if not name.endswith((".gz", ".png", ".parquet", ".csv"))]
    return [(name, (ROOT / name).read_text(encoding="utf-8")) for name in names]


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def test_no_two_test_files_have_one_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
