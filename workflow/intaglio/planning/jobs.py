"""Jobs, and where each result lies.

A result's folder is named by a hash of what decides it, so equal work is done once, in this study and in the next, and
what one change touches gets new folders while the rest stays. What stands before the hash is for people, and comes from
the sources, the stages and the seed: names that a study gives to its tasks and variants can change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intaglio.planning.identity import digest
from intaglio.planning.start import Start
from intaglio.planning.versions import decided_by
from intaglio.study.schema import Study

STORE = Path("results/store")
# The undeclared folders that in-training checkpoints survive in.
WORK = STORE / "work"


@dataclass(frozen=True)
class Job:
    """One job: the folder it makes, the folders it needs, and its options.

    Attributes:
        key: hash of what decides the result.
        name: what people read of it in the folder's name: sources, stages and seed.
        output: its folder.
        inputs: folders or files by role (`source`, `data`, `model`, `parent`, `teacher`, `student`, `checkpoint`,
            `export`).
        options: what is written on the command line, as JSON.
        seed: of a training job.
        work: where a training job keeps its own checkpoints.
        gpu: whether it uses a GPU where there is one.
    """

    key: str
    name: str
    output: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    seed: int = 0
    work: str = ""
    gpu: bool = False


@dataclass(frozen=True)
class Run:
    """A row of the tables: one variant of one model on one task with one seed.

    Attributes:
        profile: None where another seed of the variant is measured.
        stages: checkpoints of its stages, the last of which is `checkpoint`.
        teacher: evaluation of the model that taught the last stage, or else of the recipe's fine-tuned model.
    """

    task: str
    model: str
    variant: str
    seed: int
    recipe: list[dict[str, Any]]
    data: str
    stages: list[str]
    checkpoint: str
    evaluation: str
    teacher: str
    export: str
    profile: str | None
    work: list[str]


@dataclass
class Plan:
    """All jobs by rule and by folder name, and the runs they make."""

    study: Study
    start: Start
    jobs: dict[str, dict[str, Job]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def add(self, rule: str, name: str, content: Any, libraries: Sequence[str] = (), **rest: Any) -> Job:
        """Add a job unless one that makes the same is there already; its folder is `store/RULE/NAME.KEY`.

        Args:
            rule: the kind of result.
            name: see `Job`.
            content: what decides the result, as JSON values, beside the declared version of its kind.
            libraries: distributions that decide it beside those of its kind.
            rest: the job's other attributes.
        """
        key = digest([decided_by(rule, *libraries), content])
        output = STORE / rule / f"{name}.{key}"
        if rule == "profile":
            output = self.start.profile(output)
        job = Job(key=key, name=name, output=str(output), work=str(WORK / f"{rule}-{key}"), **rest)
        return self.jobs.setdefault(rule, {}).setdefault(output.name, job)


def dump(model: Any) -> dict[str, Any]:
    """Return a part of the study as JSON values."""
    dumped: dict[str, Any] = model.model_dump(mode="json")
    return dumped


def deciding(model: Any) -> dict[str, Any]:
    """Return a part of the study as JSON values, without those that are the defaults.

    So an option that is added, with a default that leaves results as they were, changes no key. A changed default
    changes results: it raises a version.
    """
    dumped: dict[str, Any] = model.model_dump(mode="json", exclude_defaults=True)
    return dumped
