"""The schema of a study's recommendations."""

from __future__ import annotations

from intaglio.schemas.fields import BOOL, FLOAT, INT, KEYS, STRING, field, interval_ends, nullable, schema

RECOMMENDATIONS = schema(
    "recommendations",
    [
        *KEYS[:-1],
        field("recommended", BOOL, "Whether it is the task's recommended one; at most one variant of one model is."),
        field("verdict", STRING, "On all constraints of the study together: meets, fails or undecided."),
        field("reason", STRING, "Why it is recommended, or is not."),
        field("constraints", STRING, "The constraints in words."),
        field("objective", STRING, "latency, size, memory, accuracy or training."),
        field("n", INT, "Complete runs (seeds)."),
        *nullable(
            ("objective_value", FLOAT, "Its value: ms a call, MB, the metric on the validation split, or s."),
            ("drop", STRING, "Verdict on the loss against `float` on the validation split; null for `float`."),
            ("drop_on_test", STRING, "The same on the test split, which chooses nothing."),
            ("p99", STRING, "Verdict on the 99th percentile of the time of a call; null without a constraint."),
            ("size", STRING, "Verdict on the size of the file; null without a constraint."),
            ("backends", STRING, "Verdict on the backends that are allowed; null without a constraint."),
            ("primary_metric", STRING, "The task's primary metric."),
            ("validation_mean", FLOAT, "Mean over seeds of that metric on the validation split."),
            ("validation_difference", FLOAT, "Its difference to `float` there."),
            *interval_ends("validation_difference"),
            ("primary_mean", FLOAT, "Mean over seeds of that metric on the test split."),
            ("difference", FLOAT, "Its difference to `float` there."),
            *interval_ends("difference"),
            ("seeds_to_decide", INT, "Seeds that would decide the loss on the test split, as in variants.parquet."),
            ("examples_to_decide", INT, "Test examples that would."),
            (
                "device",
                STRING,
                "Where it would run: the device of the constraints, else the CPU if it was timed.",
            ),
            ("backend", STRING, "The fastest backend there of those allowed (of the objective memory, the smallest)."),
            ("latency_ms", FLOAT, "Mean over seeds of the median time of a call in it, ms."),
            (
                "paired_ms",
                FLOAT,
                "Time of a call by its speed-up, as if all variants had been timed in turns in one process: the time "
                "of float's fastest float32 form / speedup, ms; latency_ms without a speed-up. It orders variants.",
            ),
            ("p99_ms_least", FLOAT, "Smallest over seeds of the 99th percentile, ms."),
            ("p99_ms_most", FLOAT, "Largest of them."),
            ("speedup", FLOAT, "Speed-up over the fastest float32 form, as in backends.parquet."),
            *interval_ends("speedup"),
            ("memory_mb", FLOAT, "Mean over seeds of peak memory, MB."),
            ("size_mb", FLOAT, "Mean over seeds of the exported file, MB."),
            ("train_seconds", FLOAT, "Mean over seeds of the training time of all stages, s."),
        ),
    ],
)
