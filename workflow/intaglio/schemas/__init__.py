"""The one schema of every Parquet table, and the only way in which tables are written and read.

Every field carries its meaning and unit as metadata (`describe` lists them). A reader gets exactly the columns and
types of the schema, or one line that says which file and column are wrong.
"""

from intaglio.schemas.artifacts import LATENCY, METRICS, OPERATORS, PREDICTIONS, SIZES, TRAINING_HISTORY
from intaglio.schemas.fields import KEYS, MACHINE, describe, keyed, machine_columns
from intaglio.schemas.summary import BACKENDS, CONVERSIONS, PUBLISHED, RUNS, SPARSITY, VARIANTS
from intaglio.schemas.tables import conform, read_table, write_table

__all__ = [
    "BACKENDS",
    "CONVERSIONS",
    "KEYS",
    "LATENCY",
    "MACHINE",
    "METRICS",
    "OPERATORS",
    "PREDICTIONS",
    "PUBLISHED",
    "RUNS",
    "SIZES",
    "SPARSITY",
    "TRAINING_HISTORY",
    "VARIANTS",
    "conform",
    "describe",
    "keyed",
    "machine_columns",
    "read_table",
    "write_table",
]
