# Data and models. They are fetched on the machine that runs Snakemake, which may be the only one online.


rule fetch:
    output:
        directory("results/store/fetch/{job}"),
    log:
        "logs/fetch/{job}.log",
    priority: 100
    conda:
        ENVIRONMENT
    params:
        command=command_of("fetch"),
    shell:
        "exec env HF_HUB_OFFLINE=$INTAGLIO_OFFLINE python -m intaglio --log {log:q} {params.command}"


rule data:
    input:
        unpack(job("data")),
    output:
        directory("results/store/data/{job}"),
    log:
        "logs/data/{job}.log",
    priority: 100
    conda:
        ENVIRONMENT
    # Not a local rule: files can have millions of rows, too many for a login node.
    resources:
        **asked(8000, 60),
    params:
        command=command_of("data"),
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"


rule model:
    input:
        unpack(job("model")),
    output:
        directory("results/store/model/{job}"),
    log:
        "logs/model/{job}.log",
    priority: 100
    conda:
        ENVIRONMENT
    params:
        command=command_of("model"),
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"


rule tokens:
    input:
        unpack(job("tokens")),
    output:
        directory("results/store/tokens/{job}"),
    log:
        "logs/tokens/{job}.log",
    priority: 100
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(4000, 60),
    params:
        command=command_of("tokens"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"


rule describe:
    input:
        unpack(job("describe")),
    output:
        directory("results/store/describe/{job}"),
    log:
        "logs/describe/{job}.log",
    conda:
        ENVIRONMENT
    resources:
        **asked(4000, 30),
    params:
        command=command_of("describe"),
        max_length=study.max_length,
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"
