# Predictions and costs of a checkpoint. Profiling is a separate job, which nothing else disturbs.


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
        **asked(study.resources.memory_mb, study.resources.measure_minutes, "evaluate"),
    params:
        max_length=study.max_length,
        work=of_job("evaluate", "work"),
    shell:
        "exec python -m intaglio --log {log:q} evaluate --checkpoint {input.checkpoint:q} --data {input.data:q}"
        " --max-length {params.max_length} --work {params.work:q} --output {output:q}"


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
        **asked(study.resources.memory_mb, study.resources.measure_minutes, "profile"),
    params:
        inputs=by_role,
        options=of_job("profile", "options"),
        max_length=study.max_length,
        work=of_job("profile", "work"),
    shell:
        "exec python -m intaglio --log {log:q} profile {params.inputs} --options {params.options:q}"
        " --max-length {params.max_length} --work {params.work:q} --output {output:q}"
