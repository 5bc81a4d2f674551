"""The command that makes a job's result: a verb of `intaglio` and its arguments."""

from __future__ import annotations

import json

from intaglio.planning.jobs import Job
from intaglio.study.options import STAGES

# Rules whose jobs have a work folder of their own.
WITH_WORK = frozenset({"evaluate", "export", "profile", *STAGES})


def command(rule: str, job: Job, max_length: int) -> list[str]:
    """Return the words of a job's command, from the verb on.

    Args:
        rule: the rule of the job, which is the verb.
        job: the job.
        max_length: the study's number of tokens at which texts are truncated.
    """
    # Files of the user are in the options.
    roles = {role: path for role, path in job.inputs.items() if not role.startswith("file")}
    words = [rule]
    if rule == "describe":
        words.append(roles.pop("data"))
    for role, path in roles.items():
        words += [f"--{role.replace('_', '-')}", path]
    if rule in ("fetch", "data", "model", "profile", *STAGES):
        words += ["--options", json.dumps(job.options)]
    if rule in STAGES:
        words += ["--seed", str(job.seed)]
    if rule in ("tokens", "describe", "evaluate", "profile", *STAGES):
        words += ["--max-length", str(max_length)]
    if rule in WITH_WORK:
        words += ["--work", job.work]
    return [*words, "--output", job.output]
