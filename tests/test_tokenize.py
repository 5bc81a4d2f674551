import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from encoders import INT, calibrated
from intaglio.checkpoint import Checkpoint, longest_input, save_tokenizer
from intaglio.encoder.files import save_encoder
from intaglio.errors import UserError
from intaglio.store import new_artifact
from intaglio.tasks.stored import read_split
from intaglio.tokens.tokenize import collate, encode_texts, set_limit, tokenize
from tiny import tiny_data, tiny_model, tiny_tokenizer


def test_a_pair_is_cut_where_it_is_longer_and_not_padded():
    tokenizer = tiny_tokenizer()
    pairs = pa.table({"text_a": ["good film", "bad"], "text_b": ["the " * 20, "a film"]})
    long, short = tokenize(tokenizer, pairs, 10)
    assert tokenizer.convert_ids_to_tokens(long["input_ids"]) == [
        "[CLS]",
        "good",
        "film",
        "[SEP]",
        *["the"] * 5,
        "[SEP]",
    ]
    assert long["token_type_ids"] == [0] * 4 + [1] * 6
    assert tokenizer.convert_ids_to_tokens(short["input_ids"]) == ["[CLS]", "bad", "[SEP]", "a", "film", "[SEP]"]
    assert short["attention_mask"] == [1] * 6


@pytest.mark.parametrize("arch", ["bert", "roberta"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_as_the_tokenizer_cuts_them_and_whole_ones_are_counted(arch, side):
    tokenizer = tiny_tokenizer(arch)
    tokenizer.truncation_side = side
    texts = ["good " * count + "unknown ß" for count in (1, 5, 6, 7, 50)]
    for columns in ([texts], [["bad", *texts[:4]], texts]):
        whole = tokenizer(*columns)["input_ids"]
        for length in (8, 10, 60):
            found = encode_texts(tokenizer, columns, length)
            assert found.inputs == dict(tokenizer(*columns, truncation=True, max_length=length))
            assert found.lengths == [len(ids) for ids in whole]
            assert found.unknown == [ids.count(tokenizer.unk_token_id) for ids in whole]


def test_a_tokenizer_without_token_types():
    row = tokenize(tiny_tokenizer("roberta"), pa.table({"text_a": ["good"], "text_b": ["bad"]}), 10)[0]
    assert set(row) == {"input_ids", "attention_mask"}


def test_batches_are_padded_to_their_longest():
    tokenizer = tiny_tokenizer("roberta")
    rows = tokenize(tokenizer, pa.table({"text_a": ["good", "good film"]}), 10)
    batch = collate(tokenizer)([{**row, "label": label} for label, row in enumerate(rows)])
    assert batch["input_ids"].shape == (2, 4)
    assert batch["input_ids"][0, -1] == tokenizer.pad_token_id
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["labels"].tolist() == [0, 1]


def test_unknown_split(tmp_path):
    data = tiny_data(tmp_path / "data", test_sets=("test_matched",))
    with pytest.raises(UserError, match="no split 'test_macthed', did you mean 'test_matched'"):
        read_split(data, "test_macthed")


@pytest.mark.parametrize(("arch", "longest"), [("bert", 48), ("roberta", 48), ("electra", 48), ("distilbert", 48)])
def test_longest_input(tmp_path, arch, longest):
    config = json.loads((tiny_model(tmp_path / arch, arch) / "config.json").read_text())
    assert longest_input(config) == longest


def test_longest_input_unknown():
    assert longest_input({"model_type": "t5"}) is None
    assert longest_input({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512


def test_a_longest_input_is_one_that_integer_softmax_is_exact_for(tmp_path):
    encoder, model = calibrated(INT, max_position_embeddings=4000)
    with new_artifact(tmp_path / "int", "checkpoint") as draft:
        save_encoder(encoder, model.config, draft)
    assert Checkpoint(tmp_path / "int").longest_input == 2819
    with pytest.raises(UserError, match=r"max_length: 3000 tokens, but the model in .* takes at most 2819"):
        Checkpoint(tmp_path / "int").check_length(3000, "max_length")


@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_a_saved_tokenizer_cuts_texts_as_the_study_does(tmp_path, arch):
    tokenizer, texts = tiny_tokenizer(arch), ("good film " * 5, "the story was long and dull")
    whole = tokenizer(*texts)["input_ids"]
    expected = tokenize(tokenizer, pa.table({"text_a": texts[:1], "text_b": texts[1:]}), 10)[0]["input_ids"]
    set_limit(tokenizer, 10)
    save_tokenizer(tokenizer, tmp_path / "checkpoint")
    save_tokenizer(AutoTokenizer.from_pretrained(tmp_path / "checkpoint"), tmp_path / "export")
    for folder in (tmp_path / "checkpoint", tmp_path / "export"):
        assert Tokenizer.from_file(str(folder / "tokenizer.json")).encode(*texts).ids == expected
        loaded = AutoTokenizer.from_pretrained(folder)
        assert loaded(*texts, truncation=True)["input_ids"] == expected
        assert loaded(*texts, verbose=False)["input_ids"] == whole
        # The name of its class in transformers 4, where TokenizersBackend does not exist.
        described = json.loads((folder / "tokenizer_config.json").read_text())
        assert (described["tokenizer_class"], described["model_max_length"]) == ("PreTrainedTokenizerFast", 10)


def test_nothing_is_written_to_the_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    data = tiny_data(tmp_path / "data")
    model = tiny_model(tmp_path / "model")
    code = (
        "import sys, pathlib; from transformers import AutoTokenizer; "
        "from intaglio.tokens.tokenize import *; from intaglio.tokens.artifact import *; "
        "t = AutoTokenizer.from_pretrained(sys.argv[2]); "
        "d = read_tokens(pathlib.Path(sys.argv[1]), 'train', t, 32); collate(t)(list(d[:2]))"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "TRANSFORMERS_"))}
    package = Path(__file__).parents[1] / "workflow"
    environment = {**kept, "HOME": str(home), "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code, data, model], check=True, env=environment)
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_the_tokenizer_of_a_tiny_model_loads_again(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model(tmp_path / "model", "roberta"))
    assert tokenizer("good film")["input_ids"] == tiny_tokenizer("roberta")("good film")["input_ids"]
