# Predictions and costs of a checkpoint. Profiling is a separate job, which nothing else disturbs.
# max_length is recorded by Snakemake for results that are there; the command holds it already.


rule evaluate:
    input:
        unpack(job("evaluate")),
    output:
        directory("results/store/evaluate/{job}"),
    log:
        "logs/evaluate/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(
            study.resources.memory_mb,
            study.resources.measure_minutes,
            on_gpu("evaluate"),
        ),
    params:
        command=command_of("evaluate"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"


rule profile:
    input:
        unpack(job("profile")),
    output:
        directory("results/store/profile/{job}"),
    log:
        "logs/profile/{job}.log",
    conda:
        ENVIRONMENT
    # On a machine without a scheduler, the Snakemake profiles give it all cores, so that nothing runs at the same time.
    threads: study.resources.cpus
    resources:
        **asked(
            study.resources.memory_mb,
            study.resources.measure_minutes,
            on_gpu("profile"),
        ),
    params:
        command=command_of("profile"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"


# On demand: results/STUDY/sensitivity/TASK.MODEL.VARIANT.SEED.csv.
rule sensitivity:
    input:
        model_and_data_of_run,
        plan=f"{RESULTS}/plan.json",
    output:
        f"{RESULTS}/sensitivity/{{run}}.csv",
    log:
        f"logs/{study.study}/sensitivity/{{run}}.log",
    wildcard_constraints:
        run=r"[^/]+",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(study.resources.memory_mb, study.resources.measure_minutes),
    params:
        results=subpath(input.plan, parent=True),
    shell:
        "exec python -m intaglio --log {log:q} sensitivity {params.results:q} {wildcards.run:q} --output {output:q}"
