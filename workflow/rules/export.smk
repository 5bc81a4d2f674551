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
        work=of_job("export", "work"),
    shell:
        "exec python -m intaglio --log {log:q} export --checkpoint {input.checkpoint:q} --work {params.work:q}"
        " --output {output:q}"
