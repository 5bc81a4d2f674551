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
            **asked(
                study.resources.memory_mb,
                study.resources.train_minutes,
                stage,
                resumes=stage != "int8",
            ),
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
