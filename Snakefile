include: "workflow/Snakefile"


# What is included names no default target.
rule study:
    default_target: True
    input:
        rules.all.input,
