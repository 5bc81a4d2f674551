"""Study files as users write them: each mistake is one line that says where, what, and what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from intaglio.cli import main
from intaglio.errors import UserError
from intaglio.planning.plan import make_plan
from intaglio.study.files import check_owner, check_paths, record_owner
from intaglio.study.load import load
from intaglio.study.schema import Study
from study_on_files import ROOT, snakemake, write_study
from tiny import MAX_LENGTH

PROGRAM = Path(sys.executable).parent / "snakemake"
STUDY = """\
study: mine
seeds: [0]
tasks:
  mails:
    source: {kind: files, train: train.csv}
    text: [text]
    label: label
    labels: [ham, spam]
models:
  small:
    source: {kind: files, path: model}
variants:
  float:
"""


def written(folder: Path, old: str = "", new: str = "", name: str = "study.yaml") -> Path:
    """Write the study with a part replaced."""
    assert old in STUDY
    path = folder / name
    path.write_text(STUDY.replace(old, new, 1) if old else STUDY)
    return path


def loaded(path: Path) -> Study:
    """Load a file as the workflow does."""
    return load(yaml.safe_load(path.read_text()), [path])


def test_the_study_is_sound(tmp_path: Path) -> None:
    assert loaded(written(tmp_path)).tasks["mails"].labels == ["ham", "spam"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("study: mine\n", "", "study: is missing"),
        (
            "[ham, spam]",
            "[no, maybe]",
            'line 8: tasks.mails.labels.0: no is read as true or false; put it in quotes: "no"',
        ),
        ("[ham, spam]", '["1", 2]', 'labels.1: 2 is read as a number; put it in quotes: "2"'),
        ("[ham, spam]", "[01, b]", 'labels.0: 01 is read as a number; put it in quotes: "01"'),
        ("[ham, spam]", "[2024-01-31, b]", 'labels.0: 2024-01-31 is read as a date; put it in quotes: "2024-01-31"'),
        ("[ham, spam]", '["caf\\u00e9", "cafe\\u0301"]', "labels: a value occurs twice"),
        (
            "variants:\n  float:\n",
            "variants: [float]\n",
            "line 12: variants: holds a list where names with values belong, as in `variants: {float: null}`",
        ),
        ("study: mine", "study: my.study", "line 1: study: a name has letters, digits, `-` and `_` only"),
        ("  mails:", "  my.mails:", "line 4: tasks.my.mails: a name has letters, digits"),
        (
            "{kind: files, path: model}",
            "{kind: hub, repo: a/b, revision: main}",
            "line 11: models.small.source.revision: give the commit, 40 hexadecimal digits: a branch",
        ),
        ("seeds: [0]", "seeds: 0", "line 2: seeds: holds a number where a list belongs"),
        ("seeds: [0]", "seeds: [-1]", "line 2: seeds: -1 is no seed: give numbers from 0"),
        ("seeds: [0]", "seeds: [0]\nmax_length: 2", "line 3: max_length: Input should be greater than or equal to 8"),
        ("seeds: [0]", "seeds: [0]\nprofile: {batch_sizes: [0]}", "profile.batch_sizes: 0 is too small"),
        ("seeds: [0]", "seeds: [0]\nprofile: {lengths: [-4]}", "profile.lengths: -4 is too small"),
        ("[ham, spam]", "[null, spam]", 'labels.0: null is read as nothing; put it in quotes: "null"'),
        ("[ham, spam]", '["", spam]', "labels: a value is empty"),
        ("study: mine", "study:", "line 1: study: holds nothing where a text belongs"),
        ("  float:", "  no:", "line 12: variants: a name is read as true or false; put it in quotes"),
        (
            "  float:",
            "  int: [quantize]",
            "variants.int.0: holds a text where names with values belong, as in `{stage: ",
        ),
        ("[text]", "[text, label]", "the column 'label' occurs twice among `text` and `label`"),
        ("label: label", "label: label\n    delimiter: tab", "delimiter: 'tab' is not one character; a tab is"),
        ("[0]", "[0]\nstages: {finetune: {epochs: .inf}}", "stages.finetune.epochs: Input should be a finite number"),
        ("{kind: files, train: train.csv}", "train.csv", "source: holds a text where names with values belong, as in"),
        ("train.csv", "[a.csv, b.csv]", "line 5: tasks.mails.source.train: holds a list where a text belongs"),
        ("train.csv", "train.csv, test: {a b: t.csv}", "line 5: tasks.mails.source.test.a b: a name has letters"),
        ("train.csv", "train.csv, test: 3", "line 5: tasks.mails.source.test: 3 is read as a number; put it in quotes"),
        ("train.csv", "$NOT_SET_ANYWHERE/train.csv", "the variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_a_mistake_is_one_line_in_words(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        loaded(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    if "line" in message:
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    label: label\n",
            "    label: label\n    label: other\n",
            "line 8: duplicate key 'label', also on line 7",
        ),
        ("models:", "variants:\n  int:\nmodels:", "line 14: duplicate key 'variants', also on line 9"),
        ("    text: [text]", "\ttext: [text]", "line 6: not YAML: a tab; indent by spaces"),
        (
            "study: mine",
            "study: mine: two",
            "line 1: not YAML: a second colon; put a value that contains `: ` in quotes",
        ),
    ],
)
def test_what_yaml_would_not_say(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, old, new)
    with pytest.raises(UserError) as caught:
        load(yaml.safe_load(STUDY), [path])
    assert str(caught.value).startswith(f"{path}, {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (STUDY.replace("    text: [text]", "\ttext: [text]"), ", line 6: not YAML: a tab; indent by spaces"),
        (STUDY.replace("study: mine", "study: mine: two"), ", line 1: not YAML: a second colon; put a value"),
        (STUDY.replace("mine", "2024-13-45"), ": a value looks like a date and is none"),
        (STUDY.replace("mine", "!!python/name:os.system"), ", line 1: not YAML: could not determine a constructor"),
        (STUDY.replace("train.csv", "model"), ", line 5: tasks.mails.source.train: model is a folder; name the file"),
        (STUDY.replace("path: model", "path: train.csv"), ", line 11: models.small.source.path: train.csv is a file"),
        ("", ": holds nothing where a study belongs"),
        ("- study", ": holds a list where a study belongs"),
        (STUDY.replace("train.csv", "trian.csv"), ", line 5: tasks.mails.source.train: no such file or folder"),
        (STUDY, None),
    ],
)
def test_a_study_file_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    """What Snakemake refuses without file and line before it runs anything of ours, `intaglio plan` names."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\na,ham\nb,spam\n")
    (tmp_path / "model").mkdir()
    path = tmp_path / "study.yaml"
    path.write_text(content)
    assert main(["plan", str(path)]) == (0 if message is None else 2)
    printed = capsys.readouterr()
    if message is None:
        assert printed.out.startswith("mine: 1 runs; ")
    else:
        assert printed.err.startswith(f"intaglio plan: {path}{message}")
        assert printed.err.count("\n") == 1


def test_accumulation_divides_the_batch_of_all_levels_together(tmp_path: Path) -> None:
    halves = "seeds: [0]\nstages: {finetune: {batch_size: 30}}"
    for accumulation, refused in ((4, True), (3, False)):
        path = written(tmp_path, "seeds: [0]", halves)
        path.write_text(
            path.read_text().replace("float:", f"float: [{{stage: finetune, gradient_accumulation: {accumulation}}}]")
        )
        if refused:
            with pytest.raises(UserError, match=r"float.*gradient_accumulation: 4 does not divide the batch_size 30"):
                make_plan(loaded(path))
        else:
            make_plan(loaded(path))


def test_homes_and_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA", str(tmp_path))
    (tmp_path / "train.csv").write_text("text,label\na,ham\nb,spam\n")
    (tmp_path / "model").mkdir()
    keys = set()
    for data, model in ((str(tmp_path),) * 2, ("~", "$HOME"), ("$DATA", "${DATA}")):
        path = written(tmp_path, "train.csv", f"{data}/train.csv")
        path.write_text(path.read_text().replace("path: model", f'path: "{model}/model"'))
        study = loaded(path)
        check_paths(study)
        plan = make_plan(study)
        keys.add((*plan.jobs["data"], *plan.jobs["model"]))
    assert len(keys) == 1


def test_a_misspelt_path_is_named_with_its_key(tmp_path: Path) -> None:
    path = written(tmp_path, "train.csv", "trian.csv")
    with pytest.raises(UserError) as caught:
        check_paths(loaded(path), [path])
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{path}, line 5: tasks.mails.source.train: no such file or folder: trian.csv")
    assert second.startswith(f"{path}, line 11: models.small.source.path: no such file or folder: model")


def test_a_results_folder_belongs_to_one_study_file(tmp_path: Path) -> None:
    mine, results = written(tmp_path), tmp_path / "results/mine"
    check_owner("mine", [mine], results)
    record_owner([mine], results)
    mine.write_text(STUDY.replace("seeds: [0]", "seeds: [0, 1]"))
    check_owner("mine", [mine], results)
    copy = written(tmp_path, name="copy.yaml")
    with pytest.raises(UserError, match=r"copy\.yaml: .*results/mine holds the results of .*study\.yaml.*another name"):
        check_owner("mine", [copy], results)
    # A folder that is copied whole keeps its owner.
    shutil.copytree(tmp_path, tmp_path.with_name("elsewhere"))
    check_owner(
        "mine", [tmp_path.with_name("elsewhere") / "study.yaml"], tmp_path.with_name("elsewhere") / "results/mine"
    )
    # It has another name by now, or has become the copy: nobody claims the folder.
    mine.write_text(STUDY.replace("mine", "theirs"))
    check_owner("mine", [copy], results)
    mine.unlink()
    check_owner("mine", [copy], results)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("study: mine\n", "", "study: is missing"),
        # Snakemake's own words, before it reads the Snakefile; README sends to `intaglio plan`.
        ("    text: [text]", "\ttext: [text]", "Config file is not valid JSON or YAML"),
        ("seeds: [0]", "seeds: [0]\nseeds: [1]", "study.yaml, line 3: duplicate key 'seeds', also on line 2"),
        ("train.csv", "trian.csv", "tasks.mails.source.train: no such file or folder: trian.csv"),
    ],
)
def test_snakemake_says_so_before_any_job(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,ham\nb,spam\n")
    (tmp_path / "model").mkdir()
    command = [PROGRAM, "-n", "-s", ROOT / "Snakefile", "--configfile", written(tmp_path, old, new)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ})
    assert done.returncode != 0
    assert message in done.stderr + done.stdout
    assert "MissingInputException" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"profile": {"lengths": [16, 512], "headline": [1, 16], "batch_sizes": [1]}},
            f"profile.lengths: 512 tokens, but model takes {MAX_LENGTH} at most",
        ),
        (
            {"variants": {"float": None, "small": [{"stage": "distil", "layers": 9}]}},
            "layers: 9 in the student, but the model has 2 (variants small)",
        ),
    ],
)
def test_what_the_model_cannot_give_stops_before_any_training(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write_study(tmp_path, **changes)
    printed = snakemake(tmp_path, "--cores", "1", check=False)
    assert message in printed
    assert "rule finetune:" not in printed
    assert not (tmp_path / "results/store/finetune").exists()
