"""Make data in the form of config/tweets.yaml and config/emotion.yaml, and smaller studies for it, which need no hub.

    python benchmarks/emotions.py FOLDER
    cd FOLDER
    snakemake --snakefile REPOSITORY/Snakefile --cores 2 --configfile tweets.yaml
    python REPOSITORY/benchmarks/emotions.py . --compare [--json FILE]

The texts are English sentences from tweets, reviews and editorials (Hutto and Gilbert 2014). A text has the emotions
whose words occur in it, so that they can be learnt. The recipes are those of the two studies, with MiniLM in place of
their models, 1,000 texts each and small budgets. skewed.yaml trains on the emotions of unequal frequency as they are,
with weights of classes, oversampled, and with a focal loss; --compare prints what these change, once it has run, as a
table in Markdown, and --json writes it with the variants of all three studies.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from record import write_record
from transformers import AutoModel, AutoTokenizer

from intaglio.catalogue import KNOWN_MODELS, KNOWN_TASKS
from intaglio.metrics import named
from intaglio.models.prepare import prepare_model
from intaglio.predictions import ReadOnce
from intaglio.reading.fetch import fetch
from intaglio.schemas import VARIANTS, read_table
from intaglio.statistics.seeds import mean_over_seeds
from intaglio.study.schema import Pretrained
from intaglio.study.task import Task
from intaglio.summary.judged import judged_runs
from intaglio.summary.runs import read_run
from intaglio.tasks.prepare import prepare_data

CONFIG = Path(__file__).resolve().parents[1] / "config"
SETS = ("movie", "nyt", "tweets", "amazon")
# In the order of the labels of SemEval-2018 Task 1 E-c.
WORDS = {
    "anger": "angry anger mad hate hates furious rage annoying annoyed damn wtf stupid outrage outrageous",
    "anticipation": "waiting wait tomorrow soon expect expected expecting tonight ready upcoming eager until",
    "disgust": "disgusting gross ugly awful nasty sick horrible terrible stupid hate crap garbage",
    "fear": "fear fears afraid scared scary worry worried terror horror nervous threat danger dangerous panic",
    "joy": "happy fun funny enjoy enjoyed enjoyable lol haha smile laugh laughs delight delightful celebrate joy",
    "love": "love loved loves lovely heart romantic romance dear sweet beautiful adorable",
    "optimism": "hope hopes hopefully better best luck win winning bright promising success improve",
    "pessimism": "never worse worst fail fails failed failure hopeless doubt unfortunately impossible",
    "sadness": "sad sadly sorry cry crying lonely alone lost loss tragic tragedy grief tears miss",
    "surprise": "surprise surprised surprising surprisingly suddenly wow unexpected unexpectedly amazed amazing omg",
    "trust": "trust believe true truth honest safe support friend friends reliable faith sure",
}
# As frequent as in dair-ai/emotion, in the order of its labels.
SHARES = {"sadness": 0.29, "joy": 0.34, "love": 0.08, "anger": 0.13, "fear": 0.12, "surprise": 0.04}
TRAIN, TEST = 600, 400
# Longer texts take longer, and a word tells less of them.
MOST_WORDS = 28
RESAMPLES = 2000
SMALL: dict[str, Any] = {
    "max_length": 40,
    "profile": {
        "batch_sizes": [1],
        "lengths": [32],
        "headline": [1, 32],
        "calls": 30,
        "threads": 1,
        "backends": ["torch", "onnxruntime", "openvino"],
    },
    "resources": {"train_minutes": 30, "measure_minutes": 10, "memory_mb": 4000, "cpus": 1},
}
STAGES: dict[str, dict[str, Any]] = {
    # Whether each of eleven labels is there takes longer to learn than which of six it is.
    "tweets": {
        "finetune": {"learning_rate": 2.0e-4, "epochs": 8, "batch_size": 8},
        "distil": {"learning_rate": 2.0e-4, "epochs": 8, "batch_size": 8},
        "prune": {"learning_rate": 1.0e-4, "epochs": 2, "batch_size": 8},
    },
    "emotion": {
        "finetune": {"learning_rate": 2.0e-4, "epochs": 4, "batch_size": 8},
        "prune": {"learning_rate": 1.0e-4, "epochs": 1, "batch_size": 8},
    },
    # Not enough for rare classes, where nothing is done about them.
    "skewed": {"finetune": {"learning_rate": 2.0e-4, "epochs": 2, "batch_size": 8}},
}


def sentences(work: Path) -> list[str]:
    """Return the short sentences of all sets, in a random order that is always the same."""
    found: list[str] = []
    for name in SETS:
        task = Task.model_validate(KNOWN_TASKS[f"{name}-rating"])
        source, data = work / "source", work / name
        if not source.exists():
            fetch(task.source, "data", source)
        prepare_data(task, source, data)
        found += [text for file in sorted(data.glob("*.parquet")) for text in pd.read_parquet(file)["text_a"]]
    found = sorted({text for text in found if len(text.split()) <= MOST_WORDS})
    random.Random(0).shuffle(found)
    return found


def emotions_in(text: str) -> list[str]:
    """Return the emotions whose words occur in a text."""
    words = set(re.findall("[a-z]+", text.lower()))
    return [emotion for emotion, telling in WORDS.items() if words & set(telling.split())]


def tweets(texts: Sequence[str]) -> pd.DataFrame:
    """Return the table of the multi-label task: half of the texts have more than one emotion, a few have none."""
    several, one, none = [], [], []
    for text in texts:
        found = emotions_in(text)
        (several if len(found) > 1 else one if found else none).append((text, found))
    count = TRAIN + TEST
    rows = [*several[: count // 2], *one[: count * 9 // 20], *none[: count // 20]]
    random.Random(1).shuffle(rows)
    labels = [{emotion: int(emotion in found) for emotion in WORDS} for _, found in rows]
    return pd.DataFrame({"ID": [f"made-{n}" for n in range(len(rows))], "Tweet": [text for text, _ in rows]}).join(
        pd.DataFrame(labels)
    )


def emotion(texts: Sequence[str]) -> Mapping[str, pd.DataFrame]:
    """Return the tables of the six classes: texts with one of these emotions alone, as skewed as the original."""
    pools: dict[str, list[str]] = {label: [] for label in SHARES}
    for text in texts:
        mine = [label for label in emotions_in(text) if label in SHARES]
        if len(mine) == 1:
            pools[mine[0]].append(text)
    tables = {}
    for split, count in (("train", TRAIN), ("test", TEST)):
        rows = []
        for number, (label, share) in enumerate(SHARES.items()):
            rows += [(pools[label].pop(), number) for _ in range(round(share * count))]
        random.Random(2).shuffle(rows)
        tables[split] = pd.DataFrame(rows, columns=["text", "label"])
    return tables


def write_models(folder: Path, work: Path) -> None:
    """Write a model of every other layer of MiniLM, to compare."""
    pretrained = Pretrained.model_validate(KNOWN_MODELS["minilm"])
    fetch(pretrained.source, "model", work / "model-source")
    prepare_model(pretrained, work / "model-source", work / "model")
    model = AutoModel.from_pretrained(work / "model")
    model.encoder.layer = model.encoder.layer[1::2]
    model.config.num_hidden_layers = len(model.encoder.layer)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(work / "model").save_pretrained(folder)


def write_studies(folder: Path) -> None:
    """Write the studies: those of the repository, but for models, data and budgets."""
    six = {"kind": "files", "train": "data/train.csv", "test": "data/test.csv"}
    emotion_task = {"source": six, "validation": 0.2}
    models: dict[str, Any] = {"minilm": {}}
    both = {**models, "minilm-3": {"source": {"kind": "files", "path": "models/minilm-3"}}}
    settings = {"weighted": {"class_weights": "inverse"}, "oversampled": {"oversample": True}, "focal": {"focal": 2}}
    made = {name: yaml.safe_load((CONFIG / f"{name}.yaml").read_text()) for name in ("tweets", "emotion")}
    made["tweets"] |= {**SMALL, "models": models, "stages": STAGES["tweets"]}
    made["emotion"] |= {
        **SMALL,
        "models": both,
        "stages": STAGES["emotion"],
        "tasks": {"emotion": emotion_task},
    }
    likes = {name: {"like": "emotion", **setting} for name, setting in settings.items()}
    made["skewed"] = made["emotion"] | {
        "study": "skewed",
        "description": "Six emotions of unequal frequency: as they are, weighted, oversampled, and with a focal loss.",
        "models": models,
        # Whether rare classes are learnt at all differs from seed to seed: three leave intervals of 15 points.
        "seeds": [1, 2, 3, 4, 5, 6],
        "tasks": {"emotion": emotion_task, **likes},
        "variants": {"float": None},
        "stages": STAGES["skewed"],
    }
    for name, content in made.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def compared() -> list[dict[str, Any]]:
    """Return metrics of the tasks of the finished study skewed.yaml, in percent, and their differences to the first."""
    plan = json.loads(Path("results/skewed/plan.json").read_text())
    records = [read_run(plan["study"], run) for run in plan["runs"]]
    plain = next(iter(plan["study"]["tasks"]))
    rows = []
    for name in ("f1_macro", "balanced_accuracy", "accuracy"):
        values, resampled = {}, {}
        for task in plan["study"]["tasks"]:
            mine = [record for record in records if record.row["task"] == task]
            judged = judged_runs(mine, [named(name)], ReadOnce(), RESAMPLES)
            resampled[task] = np.stack([run.resampled[0] for run in judged.values()])
            values[task] = np.array([record.row[name] for record in mine])
            row = {"metric": name, "task": task, "seeds": len(mine), "mean": 100 * float(values[task].mean())}
            if task != plain:
                mean = mean_over_seeds(values[task] - values[plain], resampled[task] - resampled[plain])
                ends = zip(("low", "high"), mean.interval(), strict=True)
                row |= {"difference": 100 * mean.value, **{end: 100 * bound for end, bound in ends}}
            rows.append(row)
    return rows


def compare(folder: Path, file: Path | None) -> None:
    """Print the comparison as Markdown; write it to a file, with the variants of the studies that have run."""
    file = file and file.absolute()
    os.chdir(folder)
    rows = compared()
    print("| metric, % | task | mean | difference [95 %] |\n|:--|:--|--:|--:|")
    for row in rows:
        difference = "{difference:+.1f} [{low:+.1f}, {high:+.1f}]".format(**row) if "low" in row else "–"
        print(f"| {named(row['metric']).label} | {row['task']} | {row['mean']:.1f} | {difference} |")
    if file is not None:
        tables = {path.parts[1]: path for path in sorted(Path("results").glob("*/summary/variants.parquet"))}
        variants = {study: read_table(path, VARIANTS).to_pylist() for study, path in tables.items()}
        write_record(file, "emotions", "cpu", {"skewed": rows, "variants": variants})


def make(folder: Path) -> None:
    """Make the folder."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        texts = sentences(Path(work))
        write_models(folder / "models/minilm-3", Path(work))
    tweets(texts).to_csv(folder / "data/2018-E-c-En.tsv", sep="\t", index=False, quoting=csv.QUOTE_NONE)
    for split, table in emotion(texts).items():
        table.to_csv(folder / f"data/{split}.csv", index=False)
    write_studies(folder)


def main() -> None:
    """Make the folder, or compare what has run in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of data, models and studies")
    parser.add_argument("--compare", action="store_true", help="print what weights, oversampling and focal loss change")
    parser.add_argument("--json", type=Path, help="write the comparison to this file, or into this folder")
    arguments = parser.parse_args()
    if arguments.compare:
        compare(arguments.folder, arguments.json)
    else:
        make(arguments.folder)


if __name__ == "__main__":
    main()
