# From the results of every run to tables and plots.
from intaglio.tables.runs import SUMMARY_FILES

EVALUATIONS = [run.evaluation for run in plan_.runs]
PROFILES = [run.profile for run in plan_.runs]


rule plan:
    output:
        f"{RESULTS}/plan.json",
    params:
        options=json.dumps(study.model_dump(mode="json", exclude_unset=True)),
    log:
        f"logs/{study.study}/plan.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m intaglio plan --options {params.options:q} --output {output:q} 2>&1 | tee {log:q}"


rule summarize:
    input:
        EVALUATIONS,
        PROFILES,
        plan=f"{RESULTS}/plan.json",
    output:
        [f"{RESULTS}/summary/{name}" for name in SUMMARY_FILES],
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        code=code_of("intaglio.tables.runs"),
    log:
        f"logs/{study.study}/summarize.log",
    conda:
        ENVIRONMENT
    resources:
        mem_mb=growing(8000),
        runtime=growing(60),
    shell:
        "python -m intaglio summarize --plan {input.plan:q} --output {params.folder:q} 2>&1 | tee {log:q}"


# `snakemake --keep-going` and then `snakemake partial`: a table of what there is, and of what failed.
rule partial:
    input:
        plan=f"{RESULTS}/plan.json",
    params:
        folder=lambda wildcards, input: Path(input.plan).parent / "partial",
    log:
        f"logs/{study.study}/partial.log",
    conda:
        ENVIRONMENT
    shell:
        "python -m intaglio summarize --partial --plan {input.plan:q} --output {params.folder:q} 2>&1 | tee {log:q}"
