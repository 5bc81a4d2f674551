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
        mem_mb=growing(study.resources.memory_mb),
        runtime=growing(study.resources.measure_minutes),
    shell:
        "exec python -m intaglio --log {log:q} export --checkpoint {input.checkpoint:q} --output {output:q}"
