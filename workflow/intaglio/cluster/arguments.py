"""The arguments of `intaglio submit` and `intaglio allocation`; importing them needs no submitit."""

from __future__ import annotations

import argparse
from pathlib import Path


def of_allocation(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cluster.shared.make_allocation`, but for its files, to a parser."""
    parser.add_argument("--name", required=True, help="name of the allocation, by the plan of the study")
    parser.add_argument("--attempts-left", type=int, default=0, help="further attempts if this one fails")


def of_submission(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `cluster.submit.submit` to a parser."""
    parser.add_argument("target", help="file, folder or rule for Snakemake to make")
    parser.add_argument("--configfile", type=Path, help="study file (config.yaml)")
    parser.add_argument("--partition", help="partition of the job (the cluster's default)")
    parser.add_argument("--account", help="account to charge (the user's default)")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--cpus", type=int, default=4)
    parser.add_argument("--memory-gb", type=int, default=16)
    parser.add_argument("--minutes", type=int, default=240)
    parser.add_argument("--log-folder", type=Path, default=Path("logs/submit"))
    parser.add_argument("--local", action="store_true", help="run on this machine even if there is SLURM")
