"""The documents name only what exists: links, files, flags and options."""

import pathlib
import re
import shlex

import pytest
from ml_collections.config_flags import config_path

from configs import coco_vsepp
from vse_jax import cli
from vse_jax.modes import MODES

REPOSITORY = pathlib.Path(__file__).parents[1]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])
of_each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.name
)


def anchors(path):
    """Returns the anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }


def commands(document):
    """Returns the arguments of each command of the program, in blocks of code."""
    lines = document.read_text().replace("\\\n", " ").splitlines()
    found = [
        line.strip() for line in lines if line.strip().startswith("python main.py")
    ]
    return [shlex.split(line, comments=True)[2:] for line in found]


def test_documents_are_found():
    assert {"README.md", "results.md"} <= {path.name for path in DOCUMENTS}
    readme = REPOSITORY / "README.md"
    assert len(commands(readme)) > 30
    assert "train-on-your-photos" in anchors(readme)


@of_each_document
def test_links_lead_somewhere(document):
    for path, anchor in re.findall(
        r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", document.read_text()
    ):
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@of_each_document
def test_lines_of_text_have_at_most_100_characters(document):
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.M | re.S)
    for line in text.splitlines():
        assert len(line) <= 100 or line.startswith(("|", "![")), line


@of_each_document
def test_configurations_and_benchmarks_exist(document):
    text = document.read_text()
    names = re.findall(r"\bconfigs/\w+\.py", text)
    names += [f"benchmarks/{n}.py" for n in re.findall(r"-m benchmarks\.(\w+)", text)]
    for name in names:
        assert (REPOSITORY / name).exists() or name == "configs/NAME.py", name


@of_each_document
def test_options_exist(document):
    config = coco_vsepp.get_config()  # it has groups and stages
    part = r"[a-z_0-9]+(?:\[\d\])?"
    text = re.sub(r"\bconfig\.json", "", document.read_text())
    for option in re.findall(rf"\bconfig\.({part}(?:\.{part})*)", text):
        config_path.get_value(option, config)


@of_each_document
def test_flags_of_commands_exist(document):
    for arguments in commands(document):
        names = [a.partition("=")[0] for a in arguments if a.startswith("--")]
        for name in names:
            known = name.startswith("--config.") or name[2:] in cli.FLAGS
            assert known, (name, arguments)


def test_readme_lists_all_modules_of_the_top_level():
    layout = (REPOSITORY / "README.md").read_text().split("## Layout")[1]
    for path in (REPOSITORY / "vse_jax").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not name.startswith(("__init__", "__pycache__")):
            assert f"`{name}`" in layout, name


def test_readme_lists_all_flags_and_modes():
    readme = (REPOSITORY / "README.md").read_text()
    rows = re.findall(r"^\| (`.*?) \|", readme, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    flags = cli.FLAGS.flags_by_module_dict()["vse_jax.cli"]
    assert {f"--{flag.name}" for flag in flags} <= listed
    assert set(MODES) <= listed
