# Checkpoints as ONNX models, exported and checked on a CPU.


rule export:
    input:
        unpack(job("export")),
    output:
        directory("results/store/export/{job}"),
    log:
        "logs/export/{job}.log",
    conda:
        ENVIRONMENT
    threads: study.resources.cpus
    resources:
        **asked(study.resources.memory_mb, study.resources.measure_minutes),
    params:
        command=command_of("export"),
    shell:
        "exec python -m intaglio --log {log:q} {params.command}"
