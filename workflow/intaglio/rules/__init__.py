"""What the rules of the workflow ask of a planned study: where Snakemake begins, and within the jobs of a cluster."""
