"""Models that the encoder does not know, or knows as RoBERTa, through the stages that take them: tiny, a few steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CamembertConfig,
    ConvBertConfig,
    DebertaV2Config,
    ModernBertConfig,
    MPNetConfig,
    T5Config,
    XLMRobertaConfig,
)

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.parts import layer_blocks, linear_layers
from intaglio.errors import UserError
from intaglio.export.export import export
from intaglio.models.prepare import prepare_model
from intaglio.onnx.session import open_session
from intaglio.study.options import (
    CutOptions,
    DistilOptions,
    FinetuneOptions,
    Int8Options,
    PruneOptions,
    QuantizeOptions,
)
from intaglio.study.schema import Pretrained
from stage_runs import cut, distil, finetune, int8, prune, quantize
from tiny import MAX_LENGTH, tiny_data, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")
LENGTH = 16
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TRAINING = {"batch_size": 8, "max_steps": 2, "evaluations": 1, "learning_rate": 1e-3}
# Positions of RoBERTa's kin start behind the padding index.
AFTER_PADDING = {"max_position_embeddings": MAX_LENGTH + 2, "type_vocab_size": 1}
INT = {"stage": "quantize", "integer": ["linear", "gelu", "softmax", "layernorm"], "variants": ["int"]}
PRUNED = {"stage": "prune", "structure": "unstructured", "variants": ["pruned"]}
DISTILLED = {"stage": "distil", "layers": None, "variants": ["distilled"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=16)


def pretrained(folder: Path, config: Any, tokenizer: Any = None, shards: str = "1GB") -> Path:
    """Write an untrained model of this configuration, in files of this size, with a tokenizer that fits it."""
    tokenizer = tokenizer or tiny_tokenizer("roberta")
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder, max_shard_size=shards)
    tokenizer.save_pretrained(folder)
    return folder


def model_step(folder: Path, *stages: dict[str, Any]) -> Path:
    entry = Pretrained.model_validate({"source": {"kind": "files", "path": str(folder)}})
    prepare_model(
        entry, None, folder.parent / "model", {"max_length": LENGTH, "longest_profiled": LENGTH, "stages": list(stages)}
    )
    return folder.parent / "model"


class Stages:
    """The stages by name on one model and one data set."""

    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.folder, self.data = folder, data
        self.parent = self.run(finetune, "float", FinetuneOptions(**TRAINING), model)

    def run(self, stage: Any, name: str, options: Any, start: Path | None = None, **others: Path) -> Path:
        output = self.folder / name
        stage(start or self.parent, self.data, options, 1, LENGTH, self.folder / "work", output, **others)
        return output

    def exported(self, checkpoint: Path) -> None:
        """Export a checkpoint, and compare it with transformers or the encoder on a text."""
        target = checkpoint.with_name(f"{checkpoint.name}-export")
        export(checkpoint, target)
        opened, tokenizer = Checkpoint(checkpoint), AutoTokenizer.from_pretrained(target)
        inputs = tokenizer(["a good film", "the story was long and dull"], padding=True, return_tensors="pt")
        session = open_session(target, 1)
        (logits,) = session.run(["logits"], {name.name: inputs[name.name].numpy() for name in session.get_inputs()})
        with torch.no_grad():
            expected = opened.load()(**inputs).logits
        torch.testing.assert_close(torch.from_numpy(logits), expected, atol=1e-4, rtol=1e-4)


def zeros(checkpoint: Path) -> int:
    return sum(int((layer.weight == 0).sum()) for layer in linear_layers(Checkpoint(checkpoint).load()).values())


def weights(checkpoint: Path) -> int:
    return sum(layer.weight.numel() for layer in linear_layers(Checkpoint(checkpoint).load()).values())


# All have layers with linear ones. ALBERT's are one layer, run repeatedly; ModernBERT's differ.
UNKNOWN = [
    MPNetConfig(**WIDTHS, max_position_embeddings=MAX_LENGTH + 2),
    DebertaV2Config(**WIDTHS, relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0),
    AlbertConfig(**WIDTHS, embedding_size=16, max_position_embeddings=MAX_LENGTH),
    ModernBertConfig(**WIDTHS, max_position_embeddings=MAX_LENGTH, cls_token_id=0, sep_token_id=2),
]


@pytest.mark.parametrize("config", UNKNOWN, ids=lambda config: config.model_type)
def test_other_models_are_pruned_distilled_and_quantized(config: Any, data: Path, tmp_path: Path) -> None:
    pruned_2_4 = {**PRUNED, "structure": "2:4"}
    model = model_step(pretrained(tmp_path / "own", config), PRUNED, pruned_2_4)
    stages = Stages(tmp_path, model, data)
    pruned = stages.run(prune, "pruned", PruneOptions(sparsity=0.5, **TRAINING))
    assert zeros(pruned) == round(0.5 * weights(pruned)) > 0
    stages.exported(pruned)
    halved = stages.run(prune, "2-4", PruneOptions(structure="2:4", schedule="one-shot", **TRAINING))
    for layer in linear_layers(Checkpoint(halved).load()).values():
        assert torch.all((layer.weight == 0).unflatten(1, (-1, 4)).sum(-1) == 2)
    # It fails unless every linear layer is quantized.
    quantized = stages.run(int8, "int8", Int8Options(tolerance=1))
    assert Checkpoint(quantized).is_quantized
    if config.model_type == "modernbert":
        with pytest.raises(UserError, match=r"no list of layers that are alike.* name another model as `student`"):
            stages.run(distil, "distilled", DistilOptions(layers=1, **TRAINING))
        stages.run(distil, "distilled", DistilOptions(student="mine", **TRAINING), student=model)
    else:
        distilled = stages.run(distil, "distilled", DistilOptions(layers=1, **TRAINING))
        assert Checkpoint(distilled).load().config.num_hidden_layers == 1


@pytest.mark.parametrize(
    "config",
    [
        ConvBertConfig(**WIDTHS, embedding_size=32, max_position_embeddings=MAX_LENGTH, conv_kernel_size=3),
        T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=1, eos_token_id=2),
    ],
    ids=lambda config: config.model_type,
)
def test_models_that_can_be_exported_are_taken_where_no_variant_wants_more(config: Any, tmp_path: Path) -> None:
    folder = pretrained(tmp_path / "own", config)
    with pytest.raises(UserError, match=rf"model type '{config.model_type}' can neither .* \(variants int\)"):
        model_step(folder, INT)
    assert (model_step(folder) / "model.safetensors").is_file()


@pytest.mark.parametrize("config", [XLMRobertaConfig, CamembertConfig])
def test_roberta_under_other_names_goes_through_every_stage(config: Any, data: Path, tmp_path: Path) -> None:
    demands = (INT, PRUNED, DISTILLED, {"stage": "cut", "variants": ["cut"]})
    model = model_step(pretrained(tmp_path / "own", config(**WIDTHS, **AFTER_PADDING)), *demands)
    stages = Stages(tmp_path, model, data)
    made = {
        "int": stages.run(quantize, "int", QuantizeOptions(calibration_examples=16, tolerance=1, **TRAINING)),
        "pruned": stages.run(prune, "pruned", PruneOptions(sparsity=0.5, **TRAINING)),
        "distilled": stages.run(distil, "distilled", DistilOptions(layers=1, **TRAINING)),
        "cut": stages.run(cut, "cut", CutOptions(sparsity=0.5, scope="layer", importance_examples=16, **TRAINING)),
        "int8": stages.run(int8, "int8", Int8Options(tolerance=1)),
    }
    assert zeros(made["pruned"]) == weights(made["pruned"]) // 2
    assert Checkpoint(made["int"]).is_integer_only
    assert Checkpoint(made["cut"]).load().shape.heads == (1, 1)
    assert len(layer_blocks(Checkpoint(made["distilled"]).load())) == 1
    for checkpoint in made.values():
        stages.exported(checkpoint)
