"""Jobs and the folders of their results.

The folder of a result is named by a hash of what decides it. So equal work is done once, in this study and in the next,
and a change leads to new folders only for the results that it affects. The part before the hash is for people and
consists of sources, stages and seed; a study can rename its tasks and variants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from intaglio.planning.identity import digest
from intaglio.planning.start import Start
from intaglio.planning.versions import decided_by
from intaglio.study.schema import Resources, Study

STORE = Path("results/store")
# Parent of the work folders, which hold in-training checkpoints. Snakemake does not know it, so it survives a failed
# job.
WORK = STORE / "work"


@dataclass(frozen=True)
class Job:
    """A job: its output folder, its inputs and its options.

    Attributes:
        key: hash of what decides the result.
        name: readable part of the folder's name: sources, stages and seed.
        output: the folder that it makes.
        inputs: folders or files by role (`source`, `data`, `model`, `parent`, `teacher`, `student`, `checkpoint`,
            `export`, `baseline`, `baseline_export`).
        options: the value of --options on the command line.
        seed: of a training job.
        work: the work folder of a training job, for its in-training checkpoints.
        gpu: whether it uses a GPU if there is one.
        decided_by: the declared version of its kind and the libraries that decide the result (`versions.decided_by`).
        files: hashes of the user's own files and folders among the inputs, by path.
    """

    key: str
    name: str
    output: str
    inputs: Mapping[str, str]
    options: Mapping[str, Any]
    seed: int = 0
    work: str = ""
    gpu: bool = False
    decided_by: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What the workflow's rules need to know of a study, beside its jobs.

    Attributes:
        study: its name.
        kinds: its kinds of task.
        max_length: number of tokens at which texts are truncated.
        resources: the requests to the cluster.
        started: when Snakemake was started, seconds since the epoch.
        digest: of the study and of the folders of its results.
    """

    study: str
    kinds: Sequence[str]
    max_length: int
    resources: Resources
    started: float
    digest: str


@dataclass(frozen=True)
class Run:
    """A row of the tables: a variant of a model on a task, with one seed.

    Attributes:
        description: of the data, as the model's tokenizer reads it.
        profile: profile of the variant; None if another seed of it is measured.
        stages: checkpoints of its stages; the last one is `checkpoint`.
        teacher: evaluation of the model that taught the last stage; without a teacher, of the recipe's fine-tuned
            model.
        before: folders that the first stage needs.
        work: work folder by the folder that its job makes, of the stages, the evaluation, the export and the profile.
    """

    task: str
    model: str
    variant: str
    seed: int
    recipe: list[dict[str, Any]]
    data: str
    description: str
    stages: list[str]
    checkpoint: str
    evaluation: str
    teacher: str
    export: str
    profile: str | None
    before: list[str]
    work: dict[str, str]


@dataclass
class Plan:
    """All jobs by rule and folder name, and the runs that they make."""

    study: Study
    start: Start
    jobs: dict[str, dict[str, Job]] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)

    def add(self, rule: str, name: str, content: Any, libraries: Sequence[str] = (), **rest: Any) -> Job:
        """Add a job, unless an equal one exists; its folder is `store/RULE/NAME.KEY`.

        Args:
            rule: the kind of result.
            name: see `Job`.
            content: the JSON values that decide the result, in addition to the declared version of its kind.
            libraries: distributions that decide it in addition to those of its kind.
            rest: further attributes of the job.
        """
        decided = decided_by(rule, *libraries)
        key = digest([decided, content])
        output = STORE / rule / f"{name}.{key}"
        if rule == "profile":
            output = self.start.profile(output)
        work = str(WORK / f"{rule}-{key}")
        job = Job(key=key, name=name, output=str(output), work=work, decided_by=decided, **rest)
        return self.jobs.setdefault(rule, {}).setdefault(output.name, job)

    @cached_property
    def results(self) -> list[str]:
        """The folders that the tables are made of."""
        kinds = ("description", "evaluation", "teacher", "export", "profile")
        folders = (getattr(run, kind) for run in self.runs for kind in kinds)
        return list(dict.fromkeys(folder for folder in folders if folder))

    @cached_property
    def facts(self) -> Facts:
        """What rules need to know beside the jobs."""
        study = self.study
        return Facts(
            study=study.study,
            kinds=sorted({task.kind for task in study.tasks.values()}),
            max_length=study.max_length,
            resources=study.resources,
            started=self.start.seconds,
            digest=digest([study.model_dump(mode="json", exclude_unset=True), self.results]),
        )

    def summarized(self) -> dict[str, Any]:
        """Return what the summary reads: the study and its runs, as JSON values."""
        return {"study": dump(self.study), "runs": [dict(vars(run)) for run in self.runs]}


def dump(model: Any) -> dict[str, Any]:
    """Return a part of the study as JSON values."""
    dumped: dict[str, Any] = model.model_dump(mode="json")
    return dumped


def deciding(model: Any) -> dict[str, Any]:
    """Return a part of the study as JSON values, without values that equal their defaults.

    So a new option whose default leaves results unchanged changes no key. A changed default changes results and
    requires a higher version.
    """
    dumped: dict[str, Any] = model.model_dump(mode="json", exclude_defaults=True)
    return dumped
