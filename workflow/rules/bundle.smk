# Runs as folders to deploy, on demand: results/STUDY/bundle/TASK.MODEL.VARIANT.SEED.


rule bundle:
    input:
        f"{RESULTS}/plan.json",
        # The model card shows what the tables say.
        f"{RESULTS}/summary/runs.parquet",
    output:
        directory(f"{RESULTS}/bundle/{{run}}"),
    log:
        f"logs/{study.study}/bundle/{{run}}.log",
    wildcard_constraints:
        run=r"[^/]+",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(4000, 30),
    params:
        results=subpath(input[0], parent=True),
    shell:
        "exec python -m intaglio --log {log:q} bundle {params.results:q} {wildcards.run:q} --output {output:q}"
