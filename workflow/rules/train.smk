# Stages: each takes a checkpoint (or the pretrained model) and makes a checkpoint.
# Commands replace the shell (exec), which would end immediately on SLURM's signal while training is still saving.
# Snakemake deletes the declared outputs of a failed job; --work is not declared, so a killed job resumes from there.
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
            **for_tasks(
                study.resources,
                stage,
                asked(
                    study.resources.memory_mb,
                    study.resources.train_minutes,
                    on_gpu(stage),
                    resumes=stage != "int8",
                ),
            ),
        params:
            command=command_of(stage),
            # Recorded by Snakemake for results that are there; the command holds them already.
            stage=stage,
            max_length=study.max_length,
            tasks=option_of_tasks(study.resources, stage),
        shell:
            "exec python -m intaglio --log {log:q} {params.command} {params.tasks}"
