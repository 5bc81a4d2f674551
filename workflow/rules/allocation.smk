# Jobs of one run or of several, one after another, where the study wants them to share an allocation.
# They are no group of Snakemake's: of a group, it deletes all results if one job fails, and makes all again if SLURM
# requeues it.


rule allocation:
    input:
        needed_in,
    output:
        f"{ENDED}/{{job}}",
    log:
        "logs/allocation/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(
            study.resources.memory_mb,
            lambda name: planned("allocation", name).minutes,
            on_gpu("allocation"),
            resumes=True,
        ),
        attempt=lambda wildcards, attempt: attempt,
    params:
        plan=lambda wildcards, output: plan_.path,
    # Each job writes its own log, too.
    shell:
        "exec python -m intaglio allocation --plan {params.plan:q} --name {wildcards.job:q}"
        " --attempts-left $((INTAGLIO_ATTEMPTS - {resources.attempt})) --output {output:q} > {log:q} 2>&1"
