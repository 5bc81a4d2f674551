"""What the hub and the package registry would give for a study: small data and tiny models, in their layout."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from archives import tarred
from intaglio.planning.plan import make_plan
from intaglio.store import new_artifact
from intaglio.study.load import load
from tiny import tiny_model

# Makes the table of a split of a data set on the hub, from its name.
Tables = Callable[[str], pd.DataFrame]


def give(
    content: dict[str, Any], arch: str, tables: Mapping[str, Tables], lines: str = "", work: Path = Path()
) -> None:
    """Write the sources of a study into the store of the working folder, unless they are there.

    Args:
        content: the study file.
        arch: of its tiny models.
        tables: of data sets on the hub, by file: the split that it is of, and its rows.
        lines: of the data in an archive of the registry.
        work: folder for the models.
    """
    for job in make_plan(load(content)).jobs.get("fetch", {}).values():
        if Path(job.output).exists():
            continue
        about, options = dict(job.options), job.options
        with new_artifact(Path(job.output), "source", about) as folder:
            if options["what"] == "model":
                model = work / f"tiny-{arch}"
                if not model.exists():
                    tiny_model(model, arch)
                _give_model(model, options, about, folder)
            elif options["kind"] == "hub":
                for name, make in tables.items():
                    path = folder / (options["config"] or "") / f"{name}-00000-of-00001.parquet"
                    path.parent.mkdir(exist_ok=True)
                    make(name).to_parquet(path, index=False)
            else:
                about["archive"] = "data.tar.gz"
                outer, inner = options["path"].split("::")
                (folder / about["archive"]).write_bytes(tarred({outer: tarred({inner: lines.encode()})}))


def _give_model(model: Path, options: Mapping[str, Any], about: dict[str, Any], folder: Path) -> None:
    files = [path for path in model.iterdir() if path.name != "manifest.json"]
    if options["kind"] == "hub":
        for path in files:
            shutil.copy(path, folder)
        return
    about["archive"] = "model.whl"
    with zipfile.ZipFile(folder / about["archive"], "w") as wheel:
        for path in files:
            wheel.write(path, f"{options['path']}/{path.name}")
