# Data and models, brought in once, on the machine that Snakemake runs on.


rule fetch:
    output:
        directory("results/store/fetch/{job}"),
    params:
        options=of_job("fetch", "options"),
    wildcard_constraints:
        job=jobs("fetch"),
    log:
        "logs/fetch/{job}.log",
    conda:
        ENVIRONMENT
    priority: 100
    shell:
        "HF_HUB_OFFLINE=${{INTAGLIO_OFFLINE:-0}} python -m intaglio fetch --options {params.options:q}"
        " --output {output:q} 2>&1 | tee {log:q}"


rule data:
    input:
        unpack(job("data")),
    output:
        directory("results/store/data/{job}"),
    params:
        options=of_job("data", "options"),
        source=lambda wildcards, input: f"--source {input.source}" if "source" in input.keys() else "",
    wildcard_constraints:
        job=jobs("data"),
    log:
        "logs/data/{job}.log",
    conda:
        ENVIRONMENT
    priority: 100
    shell:
        "python -m intaglio data --options {params.options:q} {params.source} --output {output:q} 2>&1 | tee {log:q}"


rule model:
    input:
        unpack(job("model")),
    output:
        directory("results/store/model/{job}"),
    params:
        options=of_job("model", "options"),
        source=lambda wildcards, input: f"--source {input.source}" if "source" in input.keys() else "",
    wildcard_constraints:
        job=jobs("model"),
    log:
        "logs/model/{job}.log",
    conda:
        ENVIRONMENT
    priority: 100
    shell:
        "python -m intaglio model --options {params.options:q} {params.source} --output {output:q} 2>&1 | tee {log:q}"
