"""The schema of the test examples that a variant mends or breaks."""

from __future__ import annotations

from intaglio.schemas.fields import FLOAT, INT, KEYS, STRING, field, nullable, schema

FLIPS = schema(
    "flips",
    [
        *KEYS,
        field("flip", STRING, "mended (float is wrong, the variant right) or broken (the other way round)."),
        field("flips", INT, "Test examples that the variant flips so; those with the largest changes have rows."),
        field("id", STRING, "Example, unique within its test set."),
        *nullable(
            ("text_a", STRING, "Its text, shortened; null where the study says `private`."),
            ("text_b", STRING, "The second text of a pair."),
        ),
        field("label", STRING, "True label; of a multi-label task all true ones, comma-separated, empty for none."),
        field("baseline_prediction", STRING, "What float predicts in its place, with the same seed."),
        field("prediction", STRING, "What the variant predicts."),
        field(
            "probability_of",
            STRING,
            "Label of the probabilities here: the true one; of a multi-label task, of those on which float and the "
            "variant differ, the one whose probability (sigmoid) changed most.",
        ),
        field("baseline_probability", FLOAT, "Probability that float gives to that label."),
        field("probability", FLOAT, "Probability that the variant gives to it."),
    ],
)
