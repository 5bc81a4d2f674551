# Stages: each takes a checkpoint (or the pretrained model) and leaves a checkpoint.
# Snakemake deletes what a failed job declared; the folder under --work is undeclared, so a killed job resumes there.


rule finetune:
    input:
        unpack(job("finetune")),
    output:
        directory("results/store/finetune/{job}"),
    params:
        options=of_job("finetune", "options"),
        seed=of_job("finetune", "seed"),
        work=of_job("finetune", "work"),
        max_length=study.max_length,
    wildcard_constraints:
        job=jobs("finetune"),
    log:
        "logs/finetune/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.train_minutes),
    shell:
        "python -m intaglio finetune --model {input.model:q} --data {input.data:q} --options {params.options:q}"
        " --seed {params.seed} --max-length {params.max_length} --work {params.work:q} --output {output:q}"
        " 2>&1 | tee {log:q}"


rule quantize:
    input:
        unpack(job("quantize")),
    output:
        directory("results/store/quantize/{job}"),
    params:
        options=of_job("quantize", "options"),
        seed=of_job("quantize", "seed"),
        work=of_job("quantize", "work"),
        max_length=study.max_length,
    wildcard_constraints:
        job=jobs("quantize"),
    log:
        "logs/quantize/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.train_minutes),
    shell:
        "python -m intaglio quantize --parent {input.parent:q} --data {input.data:q} --options {params.options:q}"
        " --seed {params.seed} --max-length {params.max_length} --work {params.work:q} --output {output:q}"
        " 2>&1 | tee {log:q}"
