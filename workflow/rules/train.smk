# Stages: each takes a checkpoint (or the pretrained model) and leaves a checkpoint.
# Commands take the shell's place (exec): a shell would leave at once when SLURM asks a job to, while training saves.
# Snakemake deletes what a failed job declared; the folder under --work is undeclared, so a killed job resumes there.


rule finetune:
    input:
        unpack(job("finetune")),
    output:
        directory("results/store/finetune/{job}"),
    log:
        "logs/finetune/{job}.log",
    wildcard_constraints:
        job=jobs("finetune"),
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.train_minutes),
    params:
        options=of_job("finetune", "options"),
        seed=of_job("finetune", "seed"),
        work=of_job("finetune", "work"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} finetune --model {input.model:q} --data {input.data:q} --options {params.options:q}"
        " --seed {params.seed} --max-length {params.max_length} --work {params.work:q} --output {output:q}"


rule quantize:
    input:
        unpack(job("quantize")),
    output:
        directory("results/store/quantize/{job}"),
    log:
        "logs/quantize/{job}.log",
    wildcard_constraints:
        job=jobs("quantize"),
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        gpu=1,
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.train_minutes),
    params:
        options=of_job("quantize", "options"),
        seed=of_job("quantize", "seed"),
        work=of_job("quantize", "work"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} quantize --parent {input.parent:q} --data {input.data:q} --options {params.options:q}"
        " --seed {params.seed} --max-length {params.max_length} --work {params.work:q} --output {output:q}"
