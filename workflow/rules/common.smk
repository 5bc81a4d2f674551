# The study as jobs. Decisions are made in the package; here they are handed over.
import json
from pathlib import Path

WORKFLOW = Path(str(workflow.current_basedir)).parent
sys.path.insert(0, str(WORKFLOW))
from intaglio.errors import UserError
from intaglio.planning.identity import digest
from intaglio.study.files import check_owner, check_paths, record_owner
from intaglio.study.load import load
from intaglio.study.options import STAGES
from intaglio.planning.plan import make_plan
from intaglio.planning.versions import VERSIONS

STUDY_FILES = [Path(path) for path in workflow.configfiles]

try:
    study = load(config, STUDY_FILES)
    check_paths(study, STUDY_FILES)
    check_owner(study.study, STUDY_FILES, Path("results", study.study))
    plan_ = make_plan(study)
except UserError as error:
    raise WorkflowError(f"Mistakes in the study file:\n{error}") from None


wildcard_constraints:
    job=r"[^/]+",


RESULTS = f"results/{study.study}"
ENVIRONMENT = "../../envs/environment.yaml"

# Jobs find the package without its being installed, and the programs of this Python unless conda brings others.
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
    # Compute jobs never ask the hub; the job that fetches does, unless the user is offline altogether.
    INTAGLIO_OFFLINE=environment.get(
        "INTAGLIO_OFFLINE", environment.get("HF_HUB_OFFLINE", "0")
    ),
    HF_HUB_OFFLINE="1",
    # Jobs on a cluster plan again, elsewhere and later; they shall plan the same.
    **plan_.start.environment(),
)


def planned(phase, name):
    """Return the job of this study that makes a folder."""
    try:
        return plan_.jobs[phase][name]
    except KeyError:
        raise WorkflowError(
            f"results/store/{phase}/{name} is no part of the study {study.study!r} as its file is now"
        ) from None


def job(phase):
    """Input function: what the job that makes this folder needs, by role; that it exists is all that counts."""
    return lambda wildcards: {
        role: ancient(path)
        for role, path in planned(phase, wildcards.job).inputs.items()
    }


RESULTS_OF_RUNS = [
    folder
    for run in plan_.runs
    for folder in (run.evaluation, run.teacher, run.export, run.profile)
    if folder
]


def results_of_runs(wildcards):
    """Input function: evaluations and profiles; when they were made counts only where the user has some made again."""
    forced = workflow.dag_settings.forcerun
    return RESULTS_OF_RUNS if forced else ancient(RESULTS_OF_RUNS)


def begun():
    """Whether there is anything of this study to be shown: a checkpoint, or what a failed training left."""
    return any(
        Path(folder).exists()
        for run in plan_.runs
        for folder in (*run.stages, *run.work)
    )


def of_job(phase, attribute):
    """Params function: an attribute of the job, as text for the command line.

    It takes the output, for Snakemake makes nothing again where such a param changes: the folder's name tells enough.
    """

    def value(wildcards, output):
        found = getattr(planned(phase, wildcards.job), attribute)
        return found if isinstance(found, str) else json.dumps(found)

    return value


def by_role(wildcards, input):
    """Params function: the inputs as arguments of the command, named by their roles."""
    return " ".join(f"--{role} {path}" for role, path in input.items())


def gpus(phase):
    """Resource: whether the job that makes a folder uses a GPU."""
    return lambda wildcards: int(planned(phase, wildcards.job).gpu)


def growing(amount):
    """Resource that grows with the attempt."""
    return lambda wildcards, attempt: amount * attempt


def unfetched():
    """Hub repositories that are still to be fetched, as JSON; nothing if there are none."""
    missing = [
        job.options
        for job in plan_.jobs.get("fetch", {}).values()
        if not Path(job.output).exists()
    ]
    hub = [options for options in missing if options["kind"] == "hub"]
    return json.dumps(hub) if hub else ""


def unchecked():
    """Models that are there already while something is to be trained, and what is wanted of them, as JSON."""
    trained = [job for stage in STAGES for job in plan_.jobs.get(stage, {}).values()]
    if all(Path(job.output).exists() for job in trained):
        return ""
    models = [
        {"model": job.output, "demands": job.options["demands"]}
        for job in plan_.jobs["model"].values()
        if Path(job.output).exists()
    ]
    return json.dumps(models) if models else ""
