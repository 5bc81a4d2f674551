"""The schemas of all Parquet tables, and the functions that write and read them.

Every field has its meaning and unit as metadata (`describe` lists them). A reader gets exactly the columns and types of
the schema, or an error in one line that names the file and the column.
"""

from intaglio.schemas.artifacts import (
    BASELINES,
    DESCRIPTION,
    ENERGY,
    LATENCY,
    METRICS,
    NOISE,
    OPERATORS,
    PREDICTED_ANSWERS,
    PREDICTED_LABEL_SETS,
    PREDICTED_VALUES,
    PREDICTIONS,
    SIZES,
    TRAINING_HISTORY,
)
from intaglio.schemas.fields import KEYS, MACHINE, describe, keyed, machine_columns
from intaglio.schemas.flips import FLIPS
from intaglio.schemas.recommendations import RECOMMENDATIONS
from intaglio.schemas.summary import (
    BACKENDS,
    CONVERSIONS,
    DESCRIPTIONS,
    MODEL_COMPARISON,
    PUBLISHED,
    RUNS,
    SPARSITY,
    VARIANTS,
)
from intaglio.schemas.tables import TableWriter, as_array, as_column, conform, read_table, write_table

__all__ = [
    "BACKENDS",
    "BASELINES",
    "CONVERSIONS",
    "DESCRIPTION",
    "DESCRIPTIONS",
    "ENERGY",
    "FLIPS",
    "KEYS",
    "LATENCY",
    "MACHINE",
    "METRICS",
    "MODEL_COMPARISON",
    "NOISE",
    "OPERATORS",
    "PREDICTED_ANSWERS",
    "PREDICTED_LABEL_SETS",
    "PREDICTED_VALUES",
    "PREDICTIONS",
    "PUBLISHED",
    "RECOMMENDATIONS",
    "RUNS",
    "SIZES",
    "SPARSITY",
    "TRAINING_HISTORY",
    "VARIANTS",
    "TableWriter",
    "as_array",
    "as_column",
    "conform",
    "describe",
    "keyed",
    "machine_columns",
    "read_table",
    "write_table",
]
