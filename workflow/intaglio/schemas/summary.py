"""Schemas of the tables in a study's summary. Megabytes are 10^6 bytes, times are wall clock."""

from __future__ import annotations

from typing import Any

from intaglio.schemas.artifacts import DESCRIPTION
from intaglio.schemas.fields import (
    BOOL,
    FLOAT,
    INT,
    KEYS,
    STRING,
    field,
    interval_ends,
    nullable,
    schema,
    speedup_columns,
)

# Metrics with their own columns, in addition to the primary one.
SCORES = (
    ("accuracy", FLOAT, "Share of correct predictions, 0 to 1."),
    ("f1_macro", FLOAT, "Mean over classes of F1, 0 to 1."),
    ("balanced_accuracy", FLOAT, "Mean over classes of recall, 0 to 1."),
    ("cohen_kappa", FLOAT, "Cohen's kappa, -1 to 1."),
    ("matthews", FLOAT, "Matthews correlation, -1 to 1."),
    ("jaccard", FLOAT, "Mean over examples of common labels / all true or predicted labels, 0 to 1."),
    ("f1_micro", FLOAT, "F1 over all labels of all examples, 0 to 1."),
    ("subset_accuracy", FLOAT, "Share of examples with exactly their labels, 0 to 1."),
    ("pearson", FLOAT, "Pearson correlation of true and predicted values, -1 to 1."),
    ("spearman", FLOAT, "Spearman correlation of true and predicted values, -1 to 1."),
    ("mse", FLOAT, "Mean squared error, in the squared unit of the targets."),
    ("mae", FLOAT, "Mean absolute error, in the unit of the targets."),
    ("exact_match", FLOAT, "Share of questions whose answer has the words of an accepted one, 0 to 1."),
    ("answer_f1", FLOAT, "Mean over questions of F1 of the words of the best accepted answer, 0 to 1."),
)

RUNS = schema(
    "runs",
    [
        *KEYS,
        field("recipe", STRING, "The recipe in words."),
        field("stages", STRING, "The same as JSON: a list of stages with all their options."),
        field("status", STRING, "ok, failed (a job of it ended with an error) or pending (not all jobs are done)."),
        *nullable(
            ("error", STRING, "The error of a failed run, or the missing results of a pending one."),
            ("test_set", STRING, "The test set behind the metrics here: the task's first."),
            ("test_examples", INT, "Its number of examples."),
            ("validation_examples", INT, "Number of examples of the validation split."),
            ("primary_metric", STRING, "The task's primary metric."),
            ("primary_value", FLOAT, "Its value on the test set."),
            (
                "warnings",
                STRING,
                "Warnings of its trainings and on its metrics, joined by semicolons; null without any.",
            ),
            ("truncated", FLOAT, "Share of test texts truncated at max_length, 0 to 1; null if not counted."),
            ("test_texts_in_training", INT, "Test examples whose text is also in the training data."),
            *SCORES,
            ("validation_value", FLOAT, "Primary metric on the validation split, which selected the weights."),
            (
                "teacher_agreement",
                FLOAT,
                "Share of test predictions that are the teacher's, 0 to 1 (of values: close to it).",
            ),
            ("teacher_kl", FLOAT, "Mean divergence of the probabilities from the teacher's, nats; null for float."),
            ("sparsity", FLOAT, "Zeros among the linear layers' weights, 0 to 1; null if none were pruned."),
            ("train_seconds", FLOAT, "Training of the recipe's last stage, without set-up and evaluation, s."),
            ("total_train_seconds", FLOAT, "Training of all its stages, wherever they ran, s."),
            ("step_seconds", FLOAT, "Median time of an optimizer step of the last stage, s."),
            ("steps", INT, "Optimizer steps of the last stage."),
            ("padding", FLOAT, "Share of the tokens in its training batches that is padding, 0 to 1."),
            ("padding_saved", FLOAT, "Share of the tokens of batches in random order that grouping by length saves."),
            ("trained_on", STRING, "Model name of the device that trained."),
            ("machine", STRING, "Fingerprint id of the machine that trained."),
            ("disturbed", FLOAT, "Largest percentage of the cores that others used during timing; null if negligible."),
            ("size_mb", FLOAT, "The exported model's file, which is deployed, MB."),
            ("nonzero", INT, "Elements of that file's tensors that are not zero."),
            ("sparse_mb", FLOAT, "Its tensors, each stored whole or as a bit mask and its non-zero values, MB."),
            ("zstd_mb", FLOAT, "That file compressed by zstd at level 3, MB."),
            ("checkpoint_mb", FLOAT, "Weights of the checkpoint on disk, as trained, MB."),
            ("parameters_mb", FLOAT, "Parameters in memory, as trained, MB."),
        ),
        field("checkpoint", STRING, "Folder of the model, as in the plan."),
    ],
)


def _over_seeds(name: str, of: str) -> list[Any]:
    return nullable(
        (f"{name}_mean", FLOAT, f"Mean over seeds of {of}."),
        (f"{name}_sd", FLOAT, "Its standard deviation over seeds (n - 1); null for one seed."),
    )


def _with_interval(name: str, of: str) -> list[Any]:
    return nullable(
        (f"{name}_mean", FLOAT, f"Mean over seeds of {of}."),
        *interval_ends(name, " over test examples and seeds"),
    )


VARIANTS = schema(
    "variants",
    [
        *KEYS[:-1],
        field("recipe", STRING, "The recipe in words."),
        field("stages", STRING, "The same as JSON: a list of stages with all their options."),
        field("n", INT, "Complete runs (seeds), on which all figures are based."),
        field("planned", INT, "Runs of the study."),
        field("failed", INT, "Runs with a failed job; the others are pending."),
        *nullable(
            ("test_set", STRING, "The test set behind the metrics: the task's first."),
            ("test_examples", INT, "Its number of examples."),
            ("primary_metric", STRING, "The task's primary metric."),
        ),
        *_over_seeds("primary", "the primary metric"),
        *nullable(
            ("difference_n", INT, "Seeds that this variant and `float` have in common."),
            ("difference", FLOAT, "Mean over these seeds of primary metric minus that of `float`."),
            *interval_ends("difference", " over test examples and seeds, of one seed over examples only"),
            ("difference_p", FLOAT, "p value of no difference, by the distribution behind the interval."),
            ("difference_p_holm", FLOAT, "The same, adjusted by Holm for the variants of the task and model."),
            ("mcnemar_p", FLOAT, "McNemar's exact test, single-label; of several seeds twice the median p value."),
            ("mcnemar_p_holm", FLOAT, "The same, adjusted by Holm for the variants of the task and model."),
            ("noninferior", STRING, "Whether it loses less than the study's margin: within, not within or undecided."),
            ("seeds_to_decide", INT, "Seeds that would decide that, all else as it is; null if decided or over 100."),
            ("examples_to_decide", INT, "Test examples that would; null if decided, or over 100 times as many."),
            ("control", STRING, "Variant that trains float on, as this one's last stage trains; null without one."),
            ("control_difference", FLOAT, "Mean over common seeds of primary metric minus that of the control."),
            *interval_ends("control_difference", ", as of `difference`"),
            ("one_example", FLOAT, "What one test example changes; null for metrics other than a share of examples."),
        ),
        *_over_seeds("validation", "the primary metric on the validation split, which selected the weights"),
        *nullable(
            ("validation_difference", FLOAT, "Mean over common seeds of that minus that of `float`."),
            *interval_ends("validation_difference", ", with the test set's variance over examples"),
        ),
        *_over_seeds("accuracy", "accuracy"),
        *_over_seeds("f1_macro", "macro F1"),
        *_over_seeds("jaccard", "Jaccard accuracy"),
        *_over_seeds("f1_micro", "micro F1"),
        *_over_seeds("subset_accuracy", "subset accuracy"),
        *_over_seeds("pearson", "Pearson correlation"),
        *_over_seeds("spearman", "Spearman correlation"),
        *_over_seeds("exact_match", "exact match"),
        *_over_seeds("answer_f1", "F1 of answers"),
        *nullable(
            ("train_n", INT, "Runs behind the training times: those on the hardware that most runs of the task had."),
        ),
        *_over_seeds("train_seconds", "training time of the last stage, s"),
        *_over_seeds("total_train_seconds", "training time of all stages, s"),
        *_over_seeds("size_mb", "the exported model's file, MB"),
        *_over_seeds("sparse_mb", "its tensors, each stored whole or as a bit mask and its non-zero values, MB"),
        *_over_seeds("zstd_mb", "that file compressed by zstd at level 3, MB"),
        *_over_seeds("nonzero", "the non-zero elements of that file's tensors"),
        *_over_seeds("sparsity", "zeros among the linear layers' weights, 0 to 1"),
        *_over_seeds("teacher_agreement", "the share of test examples with the teacher's prediction"),
        *_over_seeds("teacher_kl", "the divergence of the probabilities from the teacher's, nats"),
        *nullable(
            ("relative_train_seconds", FLOAT, "Training time of the last stage / that of `float`, over common seeds."),
            ("size_ratio", FLOAT, "Size of `float` / size: above 1 is smaller."),
            ("trained_on", STRING, "Devices that trained, comma-separated if several."),
            (
                "disturbed",
                FLOAT,
                "Largest percentage of the cores that other processes used while a run was timed; null if negligible.",
            ),
        ),
    ],
)

DESCRIPTIONS = schema("descriptions", [*KEYS[:3], *DESCRIPTION])

MODEL_COMPARISON = schema(
    "model comparison",
    [
        *KEYS[:4],
        field("n", INT, "Complete runs (seeds), on which all figures are based."),
        field("planned", INT, "Runs of the study."),
        field("chosen", BOOL, "Whether its mean on the validation split is the best of the task's models."),
        *nullable(
            ("test_set", STRING, "The test set behind the metrics: the task's first."),
            ("primary_metric", STRING, "The task's primary metric."),
        ),
        *_over_seeds("validation", "the primary metric on the validation split, on which the model is chosen"),
        *_with_interval("primary", "the primary metric"),
        *(column for name, _, what in SCORES for column in _with_interval(name, what[0].lower() + what[1:-1])),
        *nullable(
            ("size_mb_mean", FLOAT, "Mean over seeds of the exported model's file, MB."),
            ("device", STRING, "What was timed: the CPU, or a GPU if only that was."),
            ("backend", STRING, "The fastest backend there."),
            ("latency_ms_mean", FLOAT, "Mean over seeds of the median time of an inference call in it, ms."),
        ),
    ],
)

BACKENDS = schema(
    "backends",
    [
        *KEYS[:-1],
        field("backend", STRING, "What executed the model: a name of the study's profile.backends."),
        field("device", STRING, "cpu or cuda."),
        field("fastest", BOOL, "Whether it is the variant's fastest backend on this device, by the latency."),
        field("n", INT, "Runs (seeds) behind the figures: those timed on the machine that timed most of the task's."),
        field("left_out", INT, "Runs that were timed on other machines."),
        field("batch_size", INT, "Examples per call (the study's profile.headline)."),
        field("length", INT, "Tokens per example (the study's profile.headline)."),
        *_over_seeds("latency_ms", "the median time of an inference call, ms"),
        field("p99_ms_least", FLOAT, "Smallest over seeds of the 99th percentile of the time of a call, ms."),
        field("p99_ms_most", FLOAT, "Largest of them."),
        *speedup_columns(
            "Geometric mean over seeds of the speed-up over the fine-tuned float model in its fastest float32 form on "
            "this device, called in turns in one process; above 1 is faster; null if there was no such model.",
            "Names of that form's backend.",
        ),
        field("busy", FLOAT, "Largest percentage of the cores that other processes used while these were timed."),
        *nullable(
            ("throughput_mean", FLOAT, "Mean over seeds of examples per second."),
            ("peak_memory_mb_mean", FLOAT, "Mean over seeds of peak memory, MB: resident on a CPU, or a GPU's."),
            ("size_mb_mean", FLOAT, "Mean over seeds of the variant's exported file, MB."),
            ("size_ratio", FLOAT, "Size of `float`'s file / size: above 1 is smaller."),
        ),
        field("max_difference", FLOAT, "Largest difference of a logit to torch's on the CPU, of any seed."),
        *nullable(
            (
                "changed_predictions",
                INT,
                "Of bf16: predictions on the test sets that differ from float32's, all seeds.",
            ),
            ("compared_predictions", INT, "Of how many."),
        ),
        field(
            "kernel",
            STRING,
            "What multiplies weights, comma-separated; of onnxruntime the operators that do, of openvino its kernels.",
        ),
        field("operators", STRING, "The operators that took most of the time, with their shares."),
        field("device_name", STRING, "Model names of the CPUs or GPUs, comma-separated if several."),
        field("instructions", STRING, "Instruction sets of the CPUs that decide integer speed."),
        field("threads", INT, "CPU threads."),
    ],
)

CONVERSIONS = schema(
    "conversions",
    [
        *KEYS,
        field("stage", STRING, "The stage that converted, or export."),
        field("measure", STRING, "The compared quantity."),
        field("difference", FLOAT, "Its value."),
        field("difference_low", FLOAT, "Lower bound of its 95 % interval, where it is a share.", null=True),
        field("difference_high", FLOAT, "Upper bound.", null=True),
        field("tolerance", FLOAT, "Largest allowed value; the run fails above it."),
    ],
)

SPARSITY = schema(
    "sparsity",
    [
        *KEYS,
        field("layer", STRING, "Layer's number and linear layer: 0.query."),
        field("weights", INT, "Number of weights."),
        field("zeros", INT, "Number of zeros."),
    ],
)

PUBLISHED = schema(
    "published",
    [
        *KEYS[1:4],
        field("quantity", STRING, "Column of runs.parquet that it compares with, or latency_ms."),
        field("unit", STRING, "s, ms, MB or share."),
        field("source", STRING, "Its source."),
        field("published", FLOAT, "The published figure; null if the source left it empty.", null=True),
        *nullable(
            ("measured_mean", FLOAT, "Mean over seeds of the runs' own."),
            ("measured_sd", FLOAT, "Its standard deviation over seeds (n - 1); null for one seed."),
        ),
        field("n", INT, "Runs (seeds) behind the measured figure."),
        field("published_conditions", STRING, "Conditions of the published figure."),
        field("measured_conditions", STRING, "Conditions of the measured figure."),
    ],
)
