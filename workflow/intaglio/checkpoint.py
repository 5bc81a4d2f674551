"""The [checkpoint] artifact that every stage makes: a model with its tokenizer, training record and training history.

`Checkpoint` opens an artifact: it is verified, and its config.json is read once, for all who need it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer

from intaglio import schemas, store
from intaglio.arithmetic import softmax
from intaglio.arithmetic.operations import OPERATIONS, Operation
from intaglio.encoder.files import SECTION, read_config, read_encoder, transformers_config
from intaglio.encoder.transformers_head import auto_class, with_logits
from intaglio.errors import UserError
from intaglio.onnx.graph import model_files
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session
from intaglio.openvino.runtime import OpenVinoModel
from intaglio.openvino.session import IR, IR_WEIGHTS, compiled_model

TRAINING_RECORD = "training.json"
HISTORY = "history.parquet"
Kind = Literal["transformers", "encoder", "graph"]
Engine = Literal["onnxruntime", "openvino"]
# Model types whose positions start after the padding index, as in fairseq, so that the ones before are unused.
_OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "ibert", "mpnet"}


class Checkpoint:
    """A [checkpoint] artifact, opened.

    Example:
        checkpoint = Checkpoint(Path("results/store/finetune/movie.minilm.s1.0123456789ab"))
        model, tokenizer = checkpoint.load("cpu"), checkpoint.tokenizer

    Attributes:
        path: its folder.
        about: the facts in its manifest.
        described: the content of its config.json.
        kind: `transformers` (a transformers model), `encoder` (Intaglio's, cut or quantized) or `graph` (8 bits).
        engine: for a `graph`, what alone runs it; else None.
        integers: operations that run on integers; empty for kinds other than `encoder`.
        keep_float: such operations of single layers that are in floating point, as in `EncoderConfig`.
    """

    def __init__(self, path: Path) -> None:
        """Open a checkpoint.

        Raises:
            UserError: the artifact is missing, damaged or of another kind, or has no config.json.
        """
        self.path = path
        self.about: dict[str, Any] = store.open_artifact(path, "checkpoint")
        self.described = read_config(path)
        section: Mapping[str, Any] = self.described.get(SECTION, {})
        self.kind: Kind = "graph" if "int8" in section else "encoder" if section else "transformers"
        self.engine: Engine | None = section["int8"].get("engine", "onnxruntime") if "int8" in section else None
        self.integers: frozenset[Operation] = frozenset(section.get("integer", ()))
        self.keep_float: frozenset[str] = frozenset(section.get("keep_float", ()))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def is_quantized(self) -> bool:
        """Whether it computes on integers, in an encoder or in an 8-bit graph."""
        return bool(self.integers) or self.kind == "graph"

    @property
    def is_integer_only(self) -> bool:
        """Whether it computes on integers from end to end, without floating point between operations."""
        return self.integers == frozenset(OPERATIONS) and not self.keep_float

    @property
    def labels(self) -> list[str]:
        """Names of its classes, in the order of its outputs."""
        names = self.described["id2label"]
        return [names[key] for key in sorted(names, key=int)]

    @property
    def longest_input(self) -> int | None:
        """Largest number of tokens that it can take, with integer softmax exactly; None if nothing limits it."""
        positions = longest_input(self.described)
        if "softmax" not in self.integers:
            return positions
        return softmax.LONGEST if positions is None else min(positions, softmax.LONGEST)

    def check_length(self, length: int, key: str) -> None:
        """Refuse sequences that are too long for the model's positions.

        Args:
            length: number of tokens.
            key: key of the study that sets the length, for the message.

        Raises:
            UserError: the sequences are too long.
        """
        limit = self.longest_input
        if limit is not None and length > limit:
            raise UserError(f"{key}: {length} tokens, but the model in {self} takes at most {limit}; ask for fewer")

    @cached_property
    def record(self) -> dict[str, Any]:
        """The training record, which is the content of training.json.

        Raises:
            UserError: there is no training.json.
        """
        if not (self.path / TRAINING_RECORD).is_file():
            raise UserError(f"{self}: no {TRAINING_RECORD}; delete the folder and run again")
        record: dict[str, Any] = json.loads((self.path / TRAINING_RECORD).read_text())
        return record

    @property
    def thresholds(self) -> list[float] | None:
        """What its predictions need to exceed, as `TaskKind.decode` takes it; None unless a stage has tuned it.

        Of a multi-label task the probabilities of labels, in their order; of question answering a difference of scores.
        """
        found = self.record.get("thresholds") if (self.path / TRAINING_RECORD).is_file() else None
        return None if found is None else list(found.values())

    @cached_property
    def tokenizer(self) -> Any:
        """Its transformers tokenizer."""
        return AutoTokenizer.from_pretrained(self.path, local_files_only=True, trust_remote_code=False)

    def config(self) -> Any:
        """Return a new object of its transformers configuration."""
        return transformers_config(self.described)

    def load(self, device: str | torch.device = "cpu", config: Any = None) -> Any:
        """Return its model in evaluation mode.

        Args:
            device: device of the model; an 8-bit graph is always on the CPU.
            config: a transformers configuration to use in place of its own, with the same sizes; for another dropout.

        Returns:
            A model that is called with input_ids, attention_mask and, if the tokenizer makes them, token_type_ids
            (int64, [batch, length]); its output has `logits` ([batch, labels]; of question answering [batch, length,
            2], `encoder.padding.PADDING` at padding).

        Raises:
            UserError: the weights file lacks weights of the model.
        """
        if self.engine is not None:
            return open_graph(self.path, self.engine)
        model = read_encoder(self.path, config=config) if self.kind == "encoder" else self._transformers(config)
        return model.to(device).eval()

    def _transformers(self, config: Any) -> Any:
        model, report = auto_class(self.described).from_pretrained(
            self.path,
            config=config,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        # transformers would initialize missing weights at random and continue.
        if report["missing_keys"]:
            raise UserError(
                f"{self}: its weights file lacks {min(report['missing_keys'])!r}: not a fine-tuned classifier; "
                "delete the folder and run its stage again"
            )
        return with_logits(model)


def open_graph(folder: Path, engine: Engine) -> Any:
    """Open the 8-bit graph in a folder on the CPU, with torch's number of threads; see `Checkpoint.load`."""
    threads = torch.get_num_threads()
    if engine == "openvino":
        return OpenVinoModel(folder / IR, compiled_model(folder / IR, threads))
    return OnnxModel(open_session(folder / MODEL, threads))


def graph_files(folder: Path, engine: Engine) -> list[Path]:
    """Return the files of the 8-bit graph in a folder, the one to open first."""
    if engine == "openvino":
        return [folder / IR, folder / IR_WEIGHTS]
    import onnx

    return model_files(folder / MODEL, onnx.load(folder / MODEL, load_external_data=False).graph)


def longest_input(described: Mapping[str, Any]) -> int | None:
    """Return the largest number of tokens for a model, from the content of its config.json; None if it is not defined.

    A RoBERTa of 514 positions takes 512: the first two belong to padding.
    """
    positions = described.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if described.get("model_type") in _OFFSET_POSITIONS:
        return positions - int(described.get("pad_token_id") or 0) - 1
    return positions


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a transformers tokenizer, so that transformers 4 opens it, too."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    described = json.loads(file.read_text())
    if described.get("tokenizer_class") == "TokenizersBackend":
        # What the class is called in transformers 4; transformers 5 knows it by both names.
        described["tokenizer_class"] = "PreTrainedTokenizerFast"
        file.write_text(json.dumps(described, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_checkpoint(
    output: Path,
    save: Callable[[Path], object],
    tokenizer: Any,
    record: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write a [checkpoint].

    Args:
        output: the artifact to write.
        save: writes the model into a folder, like transformers' `save_pretrained`.
        tokenizer: a transformers tokenizer.
        record: the content of training.json, JSON values.
        history: rows of `schemas.TRAINING_HISTORY`.
    """
    about = {key: record[key] for key in ("stage", "seed", "parent") if key in record}
    with store.new_artifact(output, "checkpoint", about) as draft:
        save(draft)
        save_tokenizer(tokenizer, draft)
        (draft / TRAINING_RECORD).write_text(json.dumps(record, indent=1) + "\n")
        schemas.write_table(draft / HISTORY, history, schemas.TRAINING_HISTORY)
