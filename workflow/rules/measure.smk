# What a checkpoint predicts, and what it costs to run. Profiling has a job of its own, so nothing else disturbs it.


rule evaluate:
    input:
        unpack(job("evaluate")),
    output:
        directory("results/store/evaluate/{job}"),
    params:
        max_length=study.max_length,
    wildcard_constraints:
        job=jobs("evaluate"),
    log:
        "logs/evaluate/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.measure_minutes),
    shell:
        "python -m intaglio evaluate --checkpoint {input.checkpoint:q} --data {input.data:q}"
        " --max-length {params.max_length} --output {output:q} 2>&1 | tee {log:q}"


rule profile:
    input:
        unpack(job("profile")),
    output:
        directory("results/store/profile/{job}"),
    params:
        options=of_job("profile", "options"),
    wildcard_constraints:
        job=jobs("profile"),
    log:
        "logs/profile/{job}.log",
    conda:
        ENVIRONMENT
    # All cores of a local run, so that two measurements never run at once.
    threads: workflow.cores or study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.measure_minutes),
    shell:
        "python -m intaglio profile --checkpoint {input.checkpoint:q} --options {params.options:q}"
        " --output {output:q} 2>&1 | tee {log:q}"
