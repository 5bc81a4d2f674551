"""The cost of each job that is still to do, from jobs that are done."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from intaglio.forecast.costs import Cost, made_of
from intaglio.planning.jobs import Job, Plan
from intaglio.store import MANIFEST

# Of a training job where no process has told its own: imports, reading, writing.
OVERHEAD_SECONDS = 20.0


@dataclass(frozen=True)
class Estimate:
    """What a job will take; None where nothing tells it.

    Attributes:
        seconds: of the job.
        size: bytes of its result.
    """

    seconds: float | None
    size: int | None


class Estimates:
    """Estimates of a plan's jobs."""

    def __init__(self, plan: Plan, known: Iterable[Cost]) -> None:
        """Estimate from `known`, finished jobs of any study."""
        self._plan = plan
        self._by_rule: dict[str, list[Cost]] = {}
        # The seeds of a run have the same.
        self._peers: dict[tuple[str, str, bool], Sequence[Cost]] = {}
        for one in known:
            self._by_rule.setdefault(one.rule, []).append(one)

    def of(self, rule: str, job: Job) -> Estimate:
        """Return what a job will take, by the medians of the finished jobs that are most like it."""
        peers = self.peers(rule, job)
        size = _median(peers, lambda one: float(one.size))
        return Estimate(self._seconds(job, peers), None if size is None else round(size))

    def peers(self, rule: str, job: Job) -> Sequence[Cost]:
        """Return the finished jobs that are most like this one: of the same stages, else of the same model.

        Those on a GPU are preferred for a job that will have one. Preparing data and models is compared with any.
        """
        key = rule, made_of(Path(job.output).name), job.gpu and self._plan.study.resources.gpus != "none"
        if key not in self._peers:
            self._peers[key] = self._find(*key)
        return self._peers[key]

    def _find(self, rule: str, of: str, on_gpu: bool) -> Sequence[Cost]:
        done = self._by_rule.get(rule, [])
        if on_gpu and any(one.gpu for one in done):
            done = [one for one in done if one.gpu]
        model = of.split(".")[1] if "." in of else None
        same = [one for one in done if one.of == of]
        alike = [one for one in done if model is None or one.model == model]
        return same or alike

    def _seconds(self, job: Job, peers: Sequence[Cost]) -> float | None:
        if "batch_size" not in job.options:
            return _median(peers, lambda one: one.seconds)
        each = _median(peers, lambda one: one.training / one.examples if one.training and one.examples else None)
        examples = examples_of(job)
        if each is None or examples is None:
            return None
        others = _median(peers, lambda one: one.seconds - one.training if one.seconds and one.training else None)
        return each * examples + max(0.0, OVERHEAD_SECONDS if others is None else others)


def examples_of(job: Job) -> int | None:
    """Return how many examples a training job sees; None if the data is not prepared and no option tells it."""
    batch, steps = job.options["batch_size"], job.options.get("max_steps")
    if steps is None:
        try:
            about = json.loads((Path(job.inputs["data"]) / MANIFEST).read_text())["about"]
        except (OSError, ValueError, KeyError):
            return None
        steps = math.ceil(job.options["epochs"] * math.ceil(about["splits"]["train"]["examples"] / batch))
    return int(steps * batch)


def _median(peers: Sequence[Cost], value: Callable[[Cost], float | None]) -> float | None:
    values = [found for one in peers if (found := value(one)) is not None]
    return statistics.median(values) if values else None
