"""Schemas of the tables in artifacts. Megabytes are 10^6 bytes, times are wall clock."""

from __future__ import annotations

import pyarrow as pa

from intaglio.schemas.fields import BOOL, FLOAT, INT, MACHINE, STRING, field, nullable, schema, speedup_columns

TRAINING_HISTORY = schema(
    "training history",
    [
        field("step", INT, "Optimizer steps done."),
        field("epoch", FLOAT, "Passes over the training data done."),
        field("name", STRING, "loss, learning_rate, validation_loss or validation_METRIC."),
        field("value", FLOAT, "Its value there."),
    ],
)

DESCRIPTION = schema(
    "description",
    [
        field("split", STRING, "train, validation or a test set."),
        field(
            "measure",
            STRING,
            "examples; class (examples by label); target (of regression: its mean, deviation, least and most); "
            "duplicates (examples whose text occurred before in the split); in_training (of a test set: examples "
            "whose text is also in the training or validation split); read (examples behind the rest); stop_words "
            "(share of the words, of English texts); tokens_median, tokens_p95 and tokens_longest, special ones "
            "included; length (examples by number of tokens); truncated (share of examples that max_length cuts); "
            "unknown (share of tokens); capitals_lost (share of the words with capitals).",
        ),
        field(
            "item",
            STRING,
            "The label of class; the statistic of target; the range of length: 17-32, or 129- for all that are longer.",
            True,
        ),
        field("value", FLOAT, "Its value: a count, a number of tokens, or a share from 0 to 1."),
    ],
)


def _predictions(
    kind: pa.DataType,
    true: str,
    predicted: str,
    outputs: str = "The model's outputs, one per label.",
    predicted_kind: pa.DataType | None = None,
) -> pa.Schema:
    return schema(
        "predictions",
        [
            field("test_set", STRING, "Name of the test set."),
            field("id", STRING, "Example, unique within its test set."),
            field("label", kind, true),
            field("prediction", predicted_kind or kind, predicted),
            field("logits", pa.list_(pa.float32()), outputs),
        ],
    )


# By the kind of task: classification with one label, with any number of labels, regression, and question answering.
PREDICTIONS = _predictions(INT, "True label, an index into the task's labels.", "Predicted label.")
PREDICTED_LABEL_SETS = _predictions(
    pa.list_(pa.int8()),
    "1 for each of the task's labels that the example has, else 0.",
    "1 for each label whose probability is above its threshold, else 0.",
)
PREDICTED_VALUES = _predictions(FLOAT, "True value.", "Predicted value.")
PREDICTED_ANSWERS = _predictions(
    pa.list_(pa.struct([("text", STRING), ("start", INT)])),
    "The accepted answers, each with its first character in the context; none if the question has no answer.",
    "Text of the predicted answer; empty if there is none.",
    "Score of the best answer: the sum of the logits of its first and last token; where questions may have no answer, "
    "also the score of none.",
    STRING,
)

METRICS = schema(
    "metrics",
    [
        field("test_set", STRING, "Name of the test set."),
        field(
            "metric",
            STRING,
            "accuracy, f1_macro, f1, ..., class_recall, ..., confusion; of multi-label tasks class_threshold, too, and "
            "for each label true_positives, false_negatives, false_positives and true_negatives.",
        ),
        field(
            "label", STRING, "Class of a class_* metric or a count; true class of a confusion count; else null.", True
        ),
        field("predicted", STRING, "Predicted class of a confusion count; else null.", True),
        field("value", FLOAT, "The metric; for confusion and true_* and false_* a count of examples."),
        field("primary", BOOL, "Whether this is the primary metric of the task."),
    ],
)

NOISE = schema(
    "noise",
    [
        field("layer", INT, "Layer, from 0; null for embeddings and logits.", True),
        field(
            "operation",
            STRING,
            "What is computed: query, key, value, softmax, context, attention_output, attention_layernorm, "
            "intermediate, gelu, output, output_layernorm; embeddings or logits. Both outputs are with the residual "
            "sum.",
        ),
        field(
            "snr_db",
            FLOAT,
            "Signal to noise against the same weights in floating point, over some validation examples: "
            "10 log10(sum x^2 / sum (x - y)^2), dB; null without noise.",
            True,
        ),
    ],
)

LATENCY = schema(
    "latency",
    [
        field("backend", STRING, "What executed the model: a name of the study's profile.backends."),
        field("device", STRING, "cpu or cuda."),
        field("device_name", STRING, "Model name of that CPU or GPU."),
        field(
            "kernel",
            STRING,
            "What multiplies weights, comma-separated: int8 oneDNN, int8 torch._int_mm, float32 of integers, a data "
            "type; of onnxruntime the operators that its profile shows; of openvino its names of the kernels.",
        ),
        field("batch_size", INT, "Examples per call."),
        field("length", INT, "Tokens per example, without padding."),
        field("threads", INT, "CPU threads."),
        field("calls", pa.list_(FLOAT), "Time of every timed call after warm-up, by round, ms."),
        field("mean_ms", FLOAT, "Mean over the calls, ms."),
        field("std_ms", FLOAT, "Standard deviation over the calls (n - 1), ms."),
        field("p50_ms", FLOAT, "Median, ms."),
        field("p90_ms", FLOAT, "90th percentile, ms."),
        field("p99_ms", FLOAT, "99th percentile, ms."),
        field("throughput", FLOAT, "Examples per second: batch size / mean."),
        *speedup_columns(
            "Median over rounds of the ratio of the float baseline's time in its fastest float32 form to this; above 1 "
            "is faster; null without a baseline.",
            "Name of that form's backend.",
        ),
        field(
            "busy",
            FLOAT,
            "Percent of the process's cores that others used while this point was timed (together with neighbouring "
            "points if these took less than half a second); above 20 the times are not reliable.",
        ),
        field("peak_memory_mb", FLOAT, "Peak of model and activations, MB: resident on a CPU, or a GPU's.", True),
        field(
            "max_difference",
            FLOAT,
            "Largest absolute difference of logits to torch's on the CPU, on one padded batch; if all operations are "
            "integer, only the float head contributes; for int8, which torch does not run, 0 to itself.",
        ),
        *nullable(
            (
                "changed_predictions",
                INT,
                "Of bf16: predictions on the test sets that differ from float32's; else null.",
            ),
            ("compared_predictions", INT, "Of how many, drawn from the test sets."),
        ),
        *MACHINE,
    ],
)

BASELINES = schema(
    "baselines",
    [
        field("backend", STRING, "Form of the float baseline that was timed in turns with the model: its backend."),
        field("device", STRING, "cpu or cuda."),
        field("precision", STRING, "In which it computes: float32, bfloat16 or float16."),
        field("batch_size", INT, "Examples per call."),
        field("length", INT, "Tokens per example, without padding."),
        field("calls", pa.list_(FLOAT), "Time of every timed call, ms; the rounds of `calls` in latency.parquet."),
        field("p50_ms", FLOAT, "Median, ms."),
    ],
)

ENERGY = schema(
    "energy",
    [
        field("stage", STRING, "Of a training, the stage of the recipe; null for inference.", null=True),
        *nullable(
            ("backend", STRING, "What executed the model, of inference: a name of the study's profile.backends."),
            ("batch_size", INT, "Examples per call."),
            ("length", INT, "Tokens per example, without padding."),
            ("calls", INT, "Calls in a row, of which joules and seconds are the mean."),
        ),
        field("device", STRING, "cpu or cuda: where the model ran."),
        field("device_name", STRING, "Model name of that CPU or GPU."),
        field("meter", STRING, "Which counter was read, and what it counts."),
        field("joules", FLOAT, "Energy of a call, or of all optimizer steps of a training, J; that at rest included."),
        field("seconds", FLOAT, "Time of a call in that pass, or of these steps, s."),
        field("idle_watts", FLOAT, "Power at rest before; joules - idle_watts x seconds is what the work adds, W."),
    ],
)

SIZES = schema(
    "sizes",
    [
        field(
            "component",
            STRING,
            "file (the exported model, which is deployed), tensors (in it), nonzero (their non-zero elements), "
            "sparse (the tensors with a bit per element and the non-zero elements, or dense if that is smaller), "
            "zstd (the file compressed at level 3), checkpoint (weights as trained), "
            "checkpoint_tensors (in them), parameters or buffers (in memory, as trained).",
        ),
        field("dtype", STRING, "Data type; null for files, and for tensors of all types.", null=True),
        field("bytes", INT, "Bytes."),
        field("count", INT, "Elements; for sparse, the non-zero ones; for files, the number of files."),
    ],
)

OPERATORS = schema(
    "operators",
    [
        field("backend", STRING, "What executed the model: a name of the study's profile.backends."),
        field("device", STRING, "cpu or cuda."),
        field(
            "operator", STRING, "Operator as the backend's profiler names it; for onnxruntime and openvino its type."
        ),
        field("calls", INT, "Calls in the profiled passes."),
        field("self_time_ms", FLOAT, "Time in the operator, without operators that it calls, ms."),
        field("share", FLOAT, "Its share of all operators' self time in that backend on that device, 0 to 1."),
    ],
)
