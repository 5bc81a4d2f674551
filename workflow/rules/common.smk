# The jobs of the study, planned by the package and passed on to Snakemake.
import json
import shlex
from functools import partial
from pathlib import Path

WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW))
from intaglio.allocation import restarts
from intaglio.cluster.leading import lead, release_lock
from intaglio.errors import UserError
from intaglio.planning.allocations import Allocations
from intaglio.planning.commands import command
from intaglio.planning.identity import digest
from intaglio.study.files import check_owner, check_paths, record_owner
from intaglio.study.load import load
from intaglio.study.options import STAGES
from intaglio.planning.plan import make_plan
from intaglio.planning.requests import requests_of_rule
from intaglio.planning.versions import VERSIONS

STUDY_FILES = [Path(path) for path in workflow.configfiles]
# A job plans again, from the study as it was when the job was submitted.
SUBMITTED = os.environ.get("INTAGLIO_STUDY") if not workflow.is_main_process else None

try:
    if SUBMITTED and Path(SUBMITTED).is_file():
        study = load(json.loads(Path(SUBMITTED).read_text()))
    else:
        study = load(config, STUDY_FILES)
        check_paths(study, STUDY_FILES)
        check_owner(study.study, STUDY_FILES, Path("results", study.study))
    plan_ = make_plan(study)
    allocations = Allocations(plan_)
except UserError as error:
    raise WorkflowError(f"Mistakes in the study file:\n{error}") from None


wildcard_constraints:
    job=r"[^/]+",


if workflow.is_main_process and (said := release_lock()):
    logger.warning(said)


RESULTS = f"results/{study.study}"
# The study, resolved: jobs are planned from it, and the tables are made again if it changes.
STUDY = json.dumps(study.model_dump(mode="json", exclude_unset=True))
STUDY_COPY = Path(f".snakemake/intaglio/{digest(STUDY)}.json").absolute()
# Files that say which allocations have ended since Snakemake was started.
ENDED = f"{RESULTS}/allocations/{plan_.start.seconds:.0f}"
ENVIRONMENT = "../../envs/environment.yaml"

# Jobs find the package without its installation, and the programs of this Python unless conda provides others.
environment = os.environ.copy()
own_path = (
    []
    if workflow.deployment_settings.deployment_method
    else [str(Path(sys.executable).parent)]
)
os.environ.update(
    PYTHONPATH=os.pathsep.join(
        filter(None, [str(WORKFLOW), environment.get("PYTHONPATH")])
    ),
    PATH=os.pathsep.join([*own_path, environment.get("PATH", os.defpath)]),
    # Compute jobs never access the hub; only `fetch` does, unless the user is offline.
    INTAGLIO_OFFLINE=environment.get(
        "INTAGLIO_OFFLINE", environment.get("HF_HUB_OFFLINE", "0")
    ),
    HF_HUB_OFFLINE="1",
    # Jobs on a cluster plan again, later and on another machine, and must arrive at the same plan.
    INTAGLIO_STUDY=SUBMITTED or str(STUDY_COPY),
    # SLURM's own variable is hidden from the commands by the plugin.
    INTAGLIO_RESTARTS=str(restarts()),
    **plan_.start.environment(),
)


def planned(phase, name):
    """Return the job that makes a folder of this study, or an allocation."""
    try:
        if phase == "allocation":
            return allocations.by_name[name]
        return plan_.jobs[phase][name]
    except KeyError:
        folder = f"results/store/{phase}/{name}"
        if workflow.is_main_process:
            raise WorkflowError(
                f"{folder} is no part of the study {study.study!r} as its file is now"
            ) from None
        reason = (
            f"{folder} is not planned any more: Intaglio, a library that decides results, or a file of the data or "
            "the model has changed since the job was submitted; start Snakemake again"
        )
        # Where the summary looks for reasons.
        log = Path(f"logs/{phase}/{name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"intaglio {phase}: {reason}\n")
        raise WorkflowError(reason) from None


def job(phase):
    """Input function: inputs of the job, by role; only their existence counts, not their age."""
    return lambda wildcards: {
        role: ancient(path)
        for role, path in planned(phase, wildcards.job).inputs.items()
    }


RESULTS_OF_RUNS = [
    folder
    for run in plan_.runs
    for folder in (
        run.description,
        run.evaluation,
        run.teacher,
        run.export,
        run.profile,
    )
    if folder
]


def results_of_runs(wildcards):
    """Input function: evaluations and profiles; their age counts only with --forcerun, which has a job for each."""
    if workflow.dag_settings.forcerun:
        return RESULTS_OF_RUNS
    own = [path for path in RESULTS_OF_RUNS if not allocations.shares(path)]
    return ancient(
        own
        + [f"{ENDED}/{name}" for name in allocations.by_name if allocations.jobs(name)]
    )


def needed_in(wildcards):
    """Input function: what an allocation needs of other jobs, and the allocations that have to end before it."""
    planned("allocation", wildcards.job)
    folders, others = allocations.needed(wildcards.job)
    return ancient(folders + [f"{ENDED}/{name}" for name in others])


def begun():
    """Return whether there is a result of this study to show: a checkpoint, or the record of a failed training."""
    return any(
        Path(folder).exists()
        for run in plan_.runs
        for folder in (*run.stages, *run.work)
    )


def command_of(phase):
    """Params function: the command of a job.

    It has `output` as an argument because Snakemake then ignores changes of its value: the key in the folder's name
    covers them.
    """

    def words(wildcards, output):
        return shlex.join(
            command(phase, planned(phase, wildcards.job), study.max_length)
        )

    return words


PARTITION = workflow.resource_settings._parsed_default_resources.get("slurm_partition")
# Resources of a rule's jobs.
asked = partial(requests_of_rule, study.resources, PARTITION and PARTITION.raw)


def on_gpu(phase):
    """Return a function: whether a job, by its name, computes on a GPU where there is one."""
    return lambda name: planned(phase, name).gpu


def unfetched():
    """Return the hub repositories to fetch, as JSON; empty if there are none."""
    missing = [
        job.options
        for job in plan_.jobs.get("fetch", {}).values()
        if not Path(job.output).exists()
    ]
    hub = [options for options in missing if options["kind"] == "hub"]
    return json.dumps(hub) if hub else ""


def unchecked():
    """Return the existing models and the demands on them, as JSON; empty if nothing is to be trained."""
    trained = [job for stage in STAGES for job in plan_.jobs.get(stage, {}).values()]
    if all(Path(job.output).exists() for job in trained):
        return ""
    models = [
        {"model": job.output, "demands": job.options["demands"]}
        for job in plan_.jobs["model"].values()
        if Path(job.output).exists()
    ]
    return json.dumps(models) if models else ""
