"""The recipes for clusters beside the documentation: what can be told of them without one."""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cafe_cli.cli.main import cli

DOCS = Path(__file__).parents[2] / "docs"
RECIPES = sorted((DOCS / "recipes").iterdir())
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in RECIPES}


def commands(name: str) -> list[list[str]]:
    """Return the words of the commands of cafe in a recipe, without `cafe`."""
    text = TEXTS[name]
    if name.endswith(".sbatch"):
        lines = text.replace("\\\n", " ").splitlines()
        found = [re.search(r"^[^#]*?(?:cafe|-m cafe_cli) ([a-z]+ .*)", line) for line in lines]
        return [shlex.split(match[1]) for match in found if match]
    if name.endswith(".yaml"):
        jobs = [part for part in yaml.safe_load_all(text) if part["kind"] == "Job"]
        return [job["spec"]["template"]["spec"]["containers"][0]["args"] for job in jobs]
    lists = [ast.literal_eval(n) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.List)
             if all(isinstance(item, ast.Constant) for item in n.elts)]  # fmt: skip
    return [words[1:] for words in lists if words[:1] == ["cafe"]]


@pytest.mark.parametrize("name", TEXTS)
def test_commands_have_options_that_exist(name):
    found = commands(name)
    assert found
    for words in found:
        known = {option for p in cli.commands[words[0]].params for option in p.opts}
        used = {word for word in words if re.match("--?[a-z]", word)}
        assert used
        assert used <= known


@pytest.mark.parametrize("name", TEXTS)
def test_the_page_names_every_recipe(name):
    assert f"(recipes/{name})" in (DOCS / "cluster.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".sbatch")])
def test_scripts_can_be_parsed(name):
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", DOCS / "recipes" / name], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    # SLURM stops to read its lines at the first command.
    lines = [line for line in TEXTS[name].splitlines() if line and not line.startswith("# ")]
    assert "#SBATCH" not in "\n".join(lines).partition("\nset ")[2]


def test_the_job_names_the_scheduler_of_the_cluster():
    cluster, job = yaml.safe_load_all(TEXTS["kubernetes.yaml"])
    assert f"tcp://{cluster['metadata']['name']}-scheduler:8786" in commands("kubernetes.yaml")[0]
    worker = cluster["spec"]["worker"]["spec"]
    pod = job["spec"]["template"]["spec"]
    assert worker["volumes"] == pod["volumes"]  # all see the same files
    assert worker["containers"][0]["image"] == pod["containers"][0]["image"]
    assert worker["containers"][0]["volumeMounts"] == pod["containers"][0]["volumeMounts"]
