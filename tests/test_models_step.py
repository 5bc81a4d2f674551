"""The `model` step: a model that a study cannot use is refused in one line, before anything is trained."""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    AlbertConfig,
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CamembertConfig,
    DebertaV2Config,
    GPT2Config,
    LongformerConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
    ViTConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from intaglio.errors import UserError
from intaglio.models.demands import check_demands, check_models
from intaglio.models.prepare import prepare_model
from intaglio.planning.plan import make_plan
from intaglio.study.load import load
from intaglio.study.schema import Pretrained
from refusals import refused
from tiny import MAX_LENGTH, tiny_config, tiny_model, tiny_sentences, tiny_tokenizer

LENGTHS = {"max_length": 16, "longest_profiled": 16}
WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
INT = {"stage": "quantize", "integer": ["linear", "gelu", "softmax", "layernorm"], "variants": ["int"]}
CUT = {"stage": "cut", "variants": ["cut-50", "cut-70"]}
PRUNED = {"stage": "prune", "structure": "unstructured", "variants": ["pruned"]}
DISTILLED = {"stage": "distil", "layers": None, "variants": ["distilled"]}


@pytest.fixture
def own(tmp_path) -> Path:
    folder = tiny_model(tmp_path / "own")
    (folder / "manifest.json").unlink()
    return folder


def step(folder: Path, *stages: dict[str, Any]) -> Path:
    entry = Pretrained.model_validate({"source": {"kind": "files", "path": str(folder)}})
    output = folder.parent / "model"
    prepare_model(entry, None, output, {**LENGTHS, "stages": list(stages)})
    return output


def refusal(folder: Path, *stages: dict[str, Any]) -> str:
    message = refused(step, folder, *stages)
    assert str(folder) in message
    assert not (folder.parent / "model").exists()
    return message


def demanded(config: Any, *stages: dict[str, Any], **lengths: int) -> str:
    """Return why a model of this configuration is refused; nothing if it is not."""
    try:
        check_demands(config, {**LENGTHS, **lengths, "stages": list(stages)}, "mine")
    except UserError as error:
        assert "\n" not in str(error)
        assert "did you mean" not in str(error)
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_act": "gelu_new"}, "activation 'gelu_new'"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"is_decoder": True}, "a decoder"),
    ],
)
def test_what_the_encoder_does_not_compute(changes, reason):
    config = tiny_config()
    for key, value in changes.items():
        setattr(config, key, value)
    message = demanded(config, INT, CUT)
    assert message.startswith("mine: ")
    assert reason in message
    assert "(variants int, cut-50, cut-70)" in message
    assert demanded(config, PRUNED, DISTILLED) == ""


@pytest.mark.parametrize(
    ("changes", "integer", "reason"),
    [
        ({"hidden_size": 1280, "num_attention_heads": 20}, INT["integer"], "hidden size 1280"),
        ({"hidden_size": 1040, "num_attention_heads": 2}, ["linear"], "attention heads of 520"),
        ({"hidden_act": "gelu_python"}, INT["integer"], None),
    ],
)
def test_limits_of_the_integers(changes, integer, reason):
    config = tiny_config()
    for key, value in changes.items():
        setattr(config, key, value)
    message = demanded(config, {**INT, "integer": integer})
    assert (reason is None) == (message == "")
    assert reason is None or reason in message


@pytest.mark.parametrize(
    ("lengths", "integer", "reason"),
    [
        ({"max_length": 128}, INT["integer"], None),
        ({"max_length": 4096}, INT["integer"], "4096 tokens: integer softmax is exact up to 2819"),
        ({"longest_profiled": 4096}, INT["integer"], "4096 tokens"),
        ({"max_length": 4096}, ["linear", "gelu"], None),
    ],
)
def test_integers_of_a_long_model_are_limited_by_the_texts_of_the_study(lengths, integer, reason):
    config = tiny_config()
    config.max_position_embeddings = 8192
    message = demanded(config, {**INT, "integer": integer}, **lengths)
    assert (reason is None) == (message == "")
    assert reason is None or reason in message


@pytest.mark.parametrize(
    ("config", "unfit"),
    [
        (MPNetConfig(**WIDTHS, vocab_size=90, max_position_embeddings=50), []),
        (DebertaV2Config(**WIDTHS, vocab_size=90, relative_attention=True, pos_att_type=["c2p"]), []),
        (AlbertConfig(**WIDTHS, vocab_size=90, embedding_size=16), []),
        (ModernBertConfig(**WIDTHS, vocab_size=90, pad_token_id=0, cls_token_id=1, sep_token_id=2), ["distilled"]),
    ],
)
def test_other_architectures_can_be_pruned_and_distilled_where_their_layers_are_found(config, unfit):
    message = demanded(config, INT, CUT)
    assert f"model type '{config.model_type}' can neither run on integers nor be cut" in message
    assert "but finetune, prune, distil and int8 take it" in message
    assert "(variants int, cut-50, cut-70)" in message
    assert all(name in demanded(config, PRUNED, DISTILLED) for name in unfit)
    assert bool(unfit) == bool(demanded(config, PRUNED, DISTILLED))
    assert demanded(config, PRUNED) == ""


def test_texts_longer_than_the_model_takes():
    assert demanded(tiny_config(), max_length=64) == f"max_length: 64 tokens, but mine takes {MAX_LENGTH} at most"
    message = f"profile.lengths: 128 tokens, but mine takes {MAX_LENGTH} at most"
    assert demanded(tiny_config(), longest_profiled=128) == message
    assert "layers: 3 in the student, but the model has 2" in demanded(tiny_config(), {**DISTILLED, "layers": 3})


def other(folder: Path, config: Any) -> Path:
    """Write an untrained model of another type with the tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "config",
    [
        XLNetConfig(d_model=32, n_layer=1, n_head=2, d_inner=64),
        LongformerConfig(**WIDTHS, attention_window=4, max_position_embeddings=MAX_LENGTH + 2),
    ],
    ids=["xlnet", "longformer"],
)
def test_a_model_of_another_type_is_exported_once(config, tmp_path):
    assert f"'{config.model_type}' cannot be exported to ONNX" in refusal(other(tmp_path / "own", config))


def test_bertweet_with_its_own_tokenizer(own):
    tokenizer = AutoTokenizer.from_pretrained(own)
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).unlink()
    (own / "vocab.txt").write_text("".join(f"{word} 1\n" for word in words))
    (own / "bpe.codes").write_text("#version: 0.2\n")
    (own / "tokenizer_config.json").write_text('{"tokenizer_class": "BertweetTokenizer"}')
    config = RobertaConfig(**WIDTHS, vocab_size=200, max_position_embeddings=MAX_LENGTH + 2, type_vocab_size=1)
    AutoModel.from_config(config).save_pretrained(own)
    expected = AutoTokenizer.from_pretrained(own)("a good film")["input_ids"]
    assert AutoTokenizer.from_pretrained(step(own))("a good film")["input_ids"] == expected


def test_a_decoder_with_a_padding_token(tmp_path):
    config = GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=MAX_LENGTH)
    assert "'gpt2' cannot be exported to ONNX" in refusal(other(tmp_path / "own", config))


def test_albert_passes(tmp_path):
    config = AlbertConfig(**WIDTHS, embedding_size=16, max_position_embeddings=MAX_LENGTH)
    assert (step(other(tmp_path / "own", config)) / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (ViTConfig().to_dict(), "'vit' is no text classifier"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}, "cannot read its config.json"),
    ],
)
def test_no_text_model_and_code_of_its_own(own, described, message):
    (own / "config.json").write_text(json.dumps(described))
    assert message in refusal(own)


def test_tokens_added_to_the_tokenizer_alone(own):
    tokenizer = AutoTokenizer.from_pretrained(own)
    rows = len(tokenizer)
    tokenizer.add_tokens(["covid", "brexit"])
    tokenizer.save_pretrained(own)
    assert f"ids up to {rows + 1}, its embedding {rows} rows" in refusal(own)


def test_no_padding_token(own):
    file = own / "tokenizer_config.json"
    described = json.loads(file.read_text())
    described.pop("pad_token")
    described["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(described))
    assert "no padding token" in refusal(own)


# Files of a SentencePiece vocabulary by model type, with the special tokens in it as pretrained models have them.
PIECES = {
    "deberta-v2": ("spm.model", ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]),
    "albert": ("spiece.model", ["<pad>", "[CLS]", "[SEP]", "<unk>", "[MASK]"]),
    "xlm-roberta": ("sentencepiece.bpe.model", ["<pad>", "<s>", "</s>", "<unk>"]),
    "camembert": ("sentencepiece.bpe.model", ["<pad>", "<s>", "</s>", "<unk>"]),
}
POSITIONS = {"max_position_embeddings": MAX_LENGTH + 2}
SENTENCEPIECE = [
    DebertaV2Config(**WIDTHS, relative_attention=True, pos_att_type=["c2p", "p2c"], type_vocab_size=0),
    AlbertConfig(**WIDTHS, embedding_size=16, max_position_embeddings=MAX_LENGTH),
    XLMRobertaConfig(**WIDTHS, **POSITIONS, type_vocab_size=1),
    CamembertConfig(**WIDTHS, **POSITIONS, type_vocab_size=1),
]


def vocabulary(special: list[str]) -> bytes:
    """Return a small SentencePiece model of English words with these special tokens."""
    file = io.BytesIO()
    names = dict(zip(("pad", "bos", "eos", "unk"), special, strict=False))
    SentencePieceTrainer.train(
        sentence_iterator=iter([f"{text} {text.lower()}" for text in tiny_sentences(200, 2, 0)["text"]]),
        model_writer=file,
        vocab_size=60,
        hard_vocab_limit=False,
        control_symbols=special[4:],
        **{f"{name}_id": number for number, name in enumerate(names)},
        **{f"{name}_piece": piece for name, piece in names.items()},
        minloglevel=2,
    )
    return file.getvalue()


@pytest.mark.parametrize("config", SENTENCEPIECE, ids=lambda config: config.model_type)
def test_a_sentencepiece_file_alone(config, own):
    name, special = PIECES[config.model_type]
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (own / file).unlink()
    (own / name).write_bytes(vocabulary(special))
    config.vocab_size = 100
    AutoModel.from_config(config).save_pretrained(own)
    tokenizer = AutoTokenizer.from_pretrained(step(own))
    pieces = SentencePieceProcessor(model_proto=(own / name).read_bytes())
    for text in ("the film was great.", "a very long story and quite dull."):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.convert_ids_to_tokens(ids) == pieces.encode(text, out_type=str)
    (own / name).write_bytes(b"no vocabulary")
    shutil.rmtree(own.parent / "model")
    assert "tokenizer cannot be built" in refusal(own)


def test_deberta_v3_as_it_is_on_the_hub(tmp_path):
    """Pickled weights of a masked language model with position embeddings that are not used, and spm.model alone."""
    described = {
        **WIDTHS,
        "model_type": "deberta-v2",
        "vocab_size": 100,
        "max_position_embeddings": MAX_LENGTH,
        "relative_attention": True,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "max_relative_positions": -1,
        "type_vocab_size": 0,
        "pad_token_id": 0,
    }
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(described))
    (own / "spm.model").write_bytes(vocabulary(PIECES["deberta-v2"][1]))
    (own / "tokenizer_config.json").write_text('{"do_lower_case": false, "vocab_type": "spm"}')
    weights = {
        f"deberta.{name}": tensor
        for name, tensor in AutoModel.from_config(AutoConfig.from_pretrained(own)).state_dict().items()
    }
    unused = {"embeddings.position_embeddings.weight": torch.ones(MAX_LENGTH, 32)}
    heads = {"lm_predictions.lm_head.bias": torch.ones(100), "mask_predictions.dense.weight": torch.ones(32, 32)}
    torch.save(
        weights | {f"deberta.{name}": value for name, value in unused.items()} | heads, own / "pytorch_model.bin"
    )
    output = step(own, PRUNED, DISTILLED)
    assert "did you mean" not in refused(check_models, [{"model": output, "demands": {**LENGTHS, "stages": [INT]}}])
    found = load_file(output / "model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


def test_a_cased_vocabulary_that_is_lowercased(own, caplog):
    vocabulary = AutoTokenizer.from_pretrained(own).get_vocab()
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    words[-2:] = ["Berlin", "Paris"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (own / name).unlink()
    (own / "vocab.txt").write_text("\n".join(words) + "\n")
    with caplog.at_level(logging.WARNING):
        step(own)
    assert "2 tokens with capitals are never reached" in caplog.text


def test_a_tokenizer_file_that_transformers_builds_otherwise(own):
    tokenizer = Tokenizer.from_file(str(own / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace("great", "bad"), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(own / "tokenizer.json"))
    (own / "tokenizer_config.json").unlink()
    try:
        built = AutoTokenizer.from_pretrained(step(own))("the film was great.", add_special_tokens=False)["input_ids"]
    except UserError as error:
        assert "another tokenizer than tokenizer.json describes" in str(error)
    else:
        assert built == tokenizer.encode("the film was great.", add_special_tokens=False).ids
    assert isinstance(tokenizer.model, models.WordPiece)


def test_types_of_tokens_for_a_model_with_one_type(tmp_path):
    own = tiny_model(tmp_path / "own", "roberta")
    tokenizer = AutoTokenizer.from_pretrained(own)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer.save_pretrained(own)
    assert AutoConfig.from_pretrained(own).type_vocab_size == 1
    output = step(own)
    inputs = AutoTokenizer.from_pretrained(output)("the film", "was great", return_tensors="pt")
    assert "token_type_ids" not in inputs
    with torch.no_grad():
        assert AutoModelForSequenceClassification.from_pretrained(output)(**inputs).logits.shape == (1, 2)


def test_models_that_are_there_already_are_held_against_added_variants(own):
    output = step(own)
    demands = {**LENGTHS, "stages": [INT]}
    check_models([{"model": str(output), "demands": demands}])
    with pytest.raises(UserError, match=r"layers: 9 in the student, but the model has 2 \(variants distilled\)"):
        check_models([{"model": str(output), "demands": {**demands, "stages": [{**DISTILLED, "layers": 9}]}}])


def test_demands_of_a_study_and_no_part_of_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task = {"source": {"kind": "files", "train": "a.csv"}, "text": ["x"], "label": "y", "labels": ["a", "b"]}
    base = {
        "study": "s",
        "seeds": [1],
        "tasks": {"t": task},
        "models": {"m": {"source": {"kind": "files", "path": "m"}}},
        "variants": {"float": None},
    }
    before = make_plan(load(base))
    after = make_plan(load({**base, "variants": {"float": None, "int": None, "small": [{"stage": "distil"}]}}))
    assert before.jobs["model"].keys() == after.jobs["model"].keys()
    assert before.jobs["finetune"].keys() == after.jobs["finetune"].keys()
    (job,) = after.jobs["model"].values()
    stages = {entry["stage"]: entry["variants"] for entry in job.options["demands"]["stages"]}
    assert stages == {"quantize": ["int"], "distil": ["small"]}
    assert (job.options["demands"]["max_length"], job.options["demands"]["longest_profiled"]) == (128, 128)
