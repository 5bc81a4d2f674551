# From the results of all runs to tables and plots.
from intaglio.plots.files import PLOTS
from intaglio.report.files import COMPRESSION, LATEX, OVERVIEW, PAGES, of_kinds
from intaglio.summary.files import SUMMARY_FILES

PAGES_OF_STUDY, PLOTS_OF_STUDY = (
    of_kinds(names, set(study.kinds)) for names in (PAGES, PLOTS)
)


rule plan:
    output:
        f"{RESULTS}/plan.json",
    log:
        f"logs/{study.study}/plan.log",
    conda:
        ENVIRONMENT
    params:
        stored=lambda wildcards, output: plan_.path,
        # The tables are made again if the study or its results change.
        of=study.digest,
    shell:
        "exec python -m intaglio --log {log:q} runs --stored {params.stored:q} --output {output:q}"


rule summarize:
    input:
        results_of_runs,
        plan=f"{RESULTS}/plan.json",
    output:
        [f"{RESULTS}/summary/{name}" for name in SUMMARY_FILES],
        # Missing if the tables were written after failures, so that the next run makes them again.
        complete=touch(f"{RESULTS}/complete"),
    log:
        f"logs/{study.study}/summarize.log",
    conda:
        ENVIRONMENT
    resources:
        **asked(8000, 60),
    params:
        folder=lambda wildcards, output: Path(output[0]).parent,
        of=study.digest,
        version=VERSIONS["summarize"],
    shell:
        "exec python -m intaglio --log {log:q} summarize --plan {input.plan:q} --output {params.folder:q}"


rule pages:
    input:
        f"{RESULTS}/summary/runs.parquet",
    output:
        [f"{RESULTS}/pages/{name}" for name in OVERVIEW],
        [f"{RESULTS}/pages/{name}.md" for name in PAGES_OF_STUDY],
        [f"{RESULTS}/pages/{name}.tex" for name in PAGES_OF_STUDY if name in LATEX],
        page=report(
            f"{RESULTS}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"shows": "the whole study: open this first"},
        ),
    log:
        f"logs/{study.study}/pages.log",
    conda:
        ENVIRONMENT
    resources:
        **asked(2000, 30),
    params:
        summary=lambda wildcards, input: Path(input[0]).parent,
        folder=lambda wildcards, output: Path(output[0]).parent,
        version=VERSIONS["pages"],
    shell:
        "exec python -m intaglio --log {log:q} pages --summary {params.summary:q} --output {params.folder:q}"
        " --report {output.page:q}"


rule plot:
    input:
        f"{RESULTS}/summary/runs.parquet",
    output:
        [f"{RESULTS}/plots/{name}.png" for name in PLOTS_OF_STUDY],
        [f"{RESULTS}/plots/{name}.pdf" for name in PLOTS_OF_STUDY],
        [
            report(
                f"{RESULTS}/plots/{name}.svg",
                caption=f"../report/{name}.rst",
                category="Compression" if name in COMPRESSION else "Plots",
                labels={"shows": PLOTS[name]},
            )
            for name in PLOTS_OF_STUDY
        ],
    log:
        f"logs/{study.study}/plot.log",
    conda:
        ENVIRONMENT
    resources:
        **asked(4000, 30),
    params:
        summary=lambda wildcards, input: Path(input[0]).parent,
        folder=lambda wildcards, output: Path(output[0]).parent,
        version=VERSIONS["plot"],
    shell:
        "exec python -m intaglio --log {log:q} plot --summary {params.summary:q} --output {params.folder:q}"
