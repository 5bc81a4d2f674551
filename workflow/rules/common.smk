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
from intaglio.planning.commands import command
from intaglio.planning.requests import requests_of_rule
from intaglio.planning.tasks import for_tasks, option_of_tasks
from intaglio.rules.stored import PLAN, StoredPlan
from intaglio.planning.versions import VERSIONS
from intaglio.study.options import STAGES

STUDY_FILES = [Path(path) for path in workflow.configfiles]

# Only the first Snakemake process plans. A job looks itself up in the plan that it was submitted with.
if workflow.is_main_process:
    from intaglio.rules.planned import plan_of_files
    from intaglio.study.files import record_owner

    try:
        plan_ = plan_of_files(config, STUDY_FILES)
    except UserError as error:
        raise WorkflowError(f"Mistakes in the study file:\n{error}") from None
    # Jobs do not read the study file, which may be edited while they wait.
    workflow.overwrite_configfiles.clear()
    if said := release_lock():
        logger.warning(said)
else:
    plan_ = StoredPlan(Path(os.environ[PLAN]))


wildcard_constraints:
    job=r"[^/]+",


study = plan_.facts
RESULTS = f"results/{study.study}"
# Files that say which allocations have ended since Snakemake was started.
ENDED = f"{RESULTS}/allocations/{study.started:.0f}"
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
    # SLURM's own variable is hidden from the commands by the plugin.
    INTAGLIO_RESTARTS=str(restarts()),
    **{PLAN: str(plan_.path)},
)


def planned(phase, name):
    """Return the job that makes a folder of this study, or an allocation."""
    try:
        return plan_.job(phase, name)
    except UserError as error:
        if not workflow.is_main_process:
            # Where the summary looks for reasons.
            log = Path(f"logs/{phase}/{name}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"intaglio {phase}: {error}\n")
        raise WorkflowError(str(error)) from None


def job(phase):
    """Input function: inputs of the job, by role; only their existence counts, not their age."""
    return lambda wildcards: {
        role: ancient(path)
        for role, path in planned(phase, wildcards.job).inputs.items()
    }


def model_and_data_of_run(wildcards):
    """Input function: the last checkpoint of a run, and its data; only their existence counts, not their age."""
    try:
        run = plan_.run(wildcards.run)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    return ancient([run["checkpoint"], run["data"]])


def results_of_runs(wildcards):
    """Input function: evaluations and profiles; their age counts only with --forcerun, which has a job for each."""
    if workflow.dag_settings.forcerun:
        return plan_.results
    folders, others = plan_.needed_by_tables()
    return ancient(folders + [f"{ENDED}/{name}" for name in others])


def needed_in(wildcards):
    """Input function: what an allocation needs of other jobs, and the allocations that have to end before it."""
    allocation = planned("allocation", wildcards.job)
    return ancient(
        allocation.folders + [f"{ENDED}/{name}" for name in allocation.others]
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
