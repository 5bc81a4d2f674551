# Stages: each takes a checkpoint (or the pretrained model) and leaves a checkpoint.
# Commands take the shell's place (exec): a shell would leave at once when SLURM asks a job to, while training saves.
# Snakemake deletes what a failed job declared; the folder under --work is undeclared, so a killed job resumes there.
for stage in STAGES:

    rule:
        name:
            stage
        input:
            unpack(job(stage)),
        output:
            directory(f"results/store/{stage}/{{job}}"),
        log:
            f"logs/{stage}/{{job}}.log",
        conda:
            ENVIRONMENT
        threads: study.resources.cpus
        resources:
            gpu=gpus(stage),
            mem_mb=growing(study.resources.memory_mb),
            runtime=growing(study.resources.train_minutes),
        params:
            stage=stage,
            inputs=by_role,
            options=of_job(stage, "options"),
            seed=of_job(stage, "seed"),
            work=of_job(stage, "work"),
            max_length=study.max_length,
        shell:
            "exec python -m intaglio --log {log:q} {params.stage} {params.inputs} --options {params.options:q}"
            " --seed {params.seed} --max-length {params.max_length} --work {params.work:q} --output {output:q}"
