"""Question answering: official metrics, windows of long contexts, answers from logits, and data as users have it."""

import gzip
import json
import random
import string
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intaglio.catalogue import KNOWN_TASKS
from intaglio.encoder.padding import PADDING
from intaglio.kinds import KINDS
from intaglio.kinds.answers import tuned_no_answer
from intaglio.metrics import KNOWN_METRICS, QUESTION_ANSWERING, Classes, Judged
from intaglio.schemas import as_array
from intaglio.spans import NO_SCORE, OUTPUTS, answers_of, best_span
from intaglio.statistics import bootstrap
from intaglio.store import open_artifact
from intaglio.study.load import load
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from intaglio.tokens.encoded import Windows, read_encoded
from questions import as_squad, asked, write_questions, write_squad
from refusals import refused
from tiny import tiny_tokenizer


def judged(pairs: list[tuple[list[str], str]]) -> Judged:
    targets = np.empty(len(pairs), object)
    for row, (texts, _) in enumerate(pairs):
        targets[row] = [{"text": text, "start": 0} for text in texts]
    return Judged(targets, np.array([text for _, text in pairs], object))


def value(metric: str, *pairs: tuple[list[str], str]) -> float:
    return KNOWN_METRICS[metric].compute(judged(list(pairs)), Classes(2))


@pytest.mark.parametrize(
    ("answers", "predicted", "exact", "f1"),
    [
        (["the Eiffel Tower"], "Eiffel  tower!", 1, 1),
        # [in, city, of, paris] and [paris]: precision 1, recall 1/4
        (["in the city of Paris"], "Paris", 0, 0.4),
        # words repeat: 2 of 3 are common
        (["one one two"], "one two two", 0, 2 / 3),
        (["Denver", "Denver Broncos"], "the Broncos", 0, 2 / 3),
        (["1,000"], "1000", 1, 1),
        (["Beyoncé"], "Beyonce", 0, 0),
        (["theatre"], "atre", 0, 0),
        ([], "", 1, 1),
        ([], "Paris", 0, 0),
        (["Paris"], "", 0, 0),
        # nothing of it is left
        (["the"], "", 1, 1),
        (["the", "Paris"], "Paris.", 1, 1),
    ],
)
def test_the_official_scores_of_an_answer(answers: list[str], predicted: str, exact: float, f1: float) -> None:
    assert value("exact_match", (answers, predicted)) == exact
    assert value("answer_f1", (answers, predicted)) == pytest.approx(f1)


def test_scores_are_means_over_questions_and_so_are_resamples() -> None:
    chance = random.Random(0)
    words = ["the", "old", "town", "of", "Bath,", "in", "Somerset"]
    pairs = [
        ([" ".join(chance.sample(words, 3)) for _ in range(chance.randint(0, 2))], " ".join(chance.sample(words, 2)))
        for _ in range(40)
    ]
    assert value("answer_f1", *pairs) == pytest.approx(np.mean([value("answer_f1", pair) for pair in pairs]))
    whole = judged(pairs)
    for name in ("exact_match", "answer_f1"):
        metric = KNOWN_METRICS[name]
        ((found,),) = bootstrap.resampled([metric], Classes(2), [whole], 20)
        drawn = np.random.default_rng([20211, 40]).integers(0, 40, (20, 40))
        assert found == pytest.approx([metric.compute(whole.take(rows), Classes(2)) for rows in drawn])


def encoded(rows: list[dict[str, Any]], folder: Path, arch: str = "bert", length: int = 24, **given: Any) -> Windows:
    data = write_questions(folder / "questions", {"train": rows}, **given)
    found = read_encoded(data, "train", tiny_tokenizer(arch), length)
    assert isinstance(found, Windows)
    return found


@pytest.mark.parametrize("arch", ["bert", "roberta"])
@pytest.mark.parametrize("stride", [None, 0, 5])
def test_windows_hold_a_context_once_and_their_stride_twice(arch: str, stride: int | None, tmp_path: Path) -> None:
    rows, tokenizer = asked(30, 1), tiny_tokenizer(arch)
    windows = encoded(rows, tmp_path, arch, stride=stride)
    characters = list(windows.rows.characters())
    assert (
        len(windows.rows) > len(rows) == len(windows.targets)
        and max(len(row["input_ids"]) for row in windows.rows) == 24
    )
    for number, row in enumerate(rows):
        own = np.flatnonzero(windows.examples == number)
        question, context = (
            tokenizer(row[name], add_special_tokens=False)["input_ids"] for name in ("question", "context")
        )
        read: list[int] = []
        for at, window in enumerate(own):
            ids, places = windows.rows[window]["input_ids"], characters[window]
            assert ids[1 : 1 + len(question)] == question
            part = [ids[token] for token in np.flatnonzero(places[:, 0] >= 0)]
            shared = (24 // 3 if stride is None else stride) if at else 0
            assert part[:shared] == read[len(read) - shared :]
            read += part[shared:]
        assert read == context


def test_a_long_question_leaves_room_for_the_context(tmp_path: Path) -> None:
    row = asked(1, 3)[0] | {"question": " " + "very " * 40 + "?"}
    windows = encoded([row], tmp_path)
    assert {int((places[:, 0] < 0).sum()) for places in windows.rows.characters()} == {3 + 24 // 3}


@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_targets_are_the_answer_where_a_window_has_all_of_it(arch: str, tmp_path: Path) -> None:
    rows = asked(60, 2, without=0.3)
    windows = encoded(rows, tmp_path, arch)
    seen = set()
    for question, places, (first, last) in zip(
        windows.examples, windows.rows.characters(), windows.labels, strict=True
    ):
        row = rows[question]
        held = places[places[:, 0] >= 0]
        whole = False
        if row["answers"]:
            start = row["answers"][0]["answer_start"]
            end = start + len(row["answers"][0]["text"])
            whole = held[0, 0] <= start and end <= held[-1, 1]
        if not whole:
            assert (first, last) == (0, 0)
            continue
        seen.add(int(question))
        assert row["context"][places[first, 0] : places[last, 1]] == row["answers"][0]["text"]
    # Answers have fewer tokens than windows share.
    assert seen == {number for number, row in enumerate(rows) if row["answers"]}


@pytest.mark.parametrize("longest", [1, 3, 30])
def test_the_best_span_is_the_best_of_all(longest: int) -> None:
    random_ = np.random.default_rng(longest)
    for _ in range(20):
        logits = random_.normal(size=(12, 2)).astype(np.float32)
        allowed = np.zeros(12, bool)
        allowed[4:11] = True
        pairs = [(a, b) for a in range(4, 11) for b in range(a, min(a + longest, 11))]
        best = max(pairs, key=lambda pair: float(logits[pair[0], 0]) + float(logits[pair[1], 1]))
        first, last, score = best_span(logits, allowed, longest)
        assert (first, last) == best and score == pytest.approx(logits[first, 0] + logits[last, 1])
    assert best_span(logits, np.zeros(12, bool), longest)[2] <= NO_SCORE


@pytest.mark.parametrize("unanswerable", [False, True])
def test_an_answer_is_the_best_of_all_windows(unanswerable: bool, tmp_path: Path) -> None:
    """As transformers' question-answering example processes logits, span by span."""
    rows = asked(25, 4, without=0.2)
    windows = encoded(rows, tmp_path, unanswerable=unanswerable, longest_answer=4)
    characters = list(windows.rows.characters())
    logits = np.random.default_rng(0).normal(size=(len(windows.rows), 30, 2)).astype(np.float32)
    found = windows.outputs(logits)
    decided = KINDS[QUESTION_ANSWERING].decode(found, [0.5])
    for number, row in enumerate(rows):
        spans, none = [], []
        for window in np.flatnonzero(windows.examples == number):
            places, own = characters[window], logits[window].astype(np.float64)
            none.append(own[0].sum())
            tokens = np.flatnonzero(places[:, 0] >= 0)
            spans += [
                (own[a, 0] + own[b, 1], row["context"][places[a, 0] : places[b, 1]])
                for a in tokens
                for b in tokens
                if a <= b < a + 4
            ]
        score, text = max(spans)
        assert (found["text"][number], found["score"][number]) == (text, pytest.approx(score))
        assert found["none"][number] == (pytest.approx(min(none)) if unanswerable else -np.inf)
        assert decided[number] == ("" if unanswerable and min(none) - score > 0.5 else text)
    some = windows.take(np.flatnonzero(np.isin(windows.examples, [3, 7]))[::-1])
    again = some.outputs(logits[np.isin(windows.examples, [3, 7])][::-1])
    assert list(again["text"]) == list(found["text"][[3, 7]]) and list(some.targets) == list(windows.targets[[3, 7]])


def test_the_threshold_of_no_answer_is_the_best_there_is() -> None:
    chance = np.random.default_rng(1)
    true = judged([(["x"] if chance.random() < 0.6 else [], "") for _ in range(60)]).targets
    outputs = np.zeros(60, OUTPUTS)
    outputs["text"], outputs["score"], outputs["none"] = "x", chance.normal(size=60), chance.normal(size=60)

    def f1(threshold: float) -> float:
        return KNOWN_METRICS["answer_f1"].compute(Judged(true, answers_of(outputs, [threshold])), Classes(2))

    (found,) = tuned_no_answer(true, outputs) or [np.nan]
    differences = np.sort(outputs["none"] - outputs["score"])
    tried = np.array([differences[0] - 1, *(differences[1:] + differences[:-1]) / 2, differences[-1] + 1, 0.0])
    best = max(f1(threshold) for threshold in tried)
    assert f1(found) == pytest.approx(best)
    outputs["none"] = -np.inf
    assert tuned_no_answer(true, outputs) is None and set(answers_of(outputs)) == {"x"}


def test_loss_and_divergence_ignore_padding() -> None:
    kind, torch_random = KINDS[QUESTION_ANSWERING], torch.manual_seed(0)
    logits, other = (torch.randn(3, 7, 2, generator=torch_random) for _ in range(2))
    targets = torch.tensor([[1, 2], [0, 0], [6, 6]])
    sides = [torch.nn.functional.cross_entropy(logits[..., side], targets[:, side]) for side in (0, 1)]
    assert kind.loss(logits, targets) / 3 == pytest.approx(float(sum(sides) / 2))
    padded, further = (torch.nn.functional.pad(x, (0, 0, 0, 5), value=PADDING) for x in (logits, other))
    assert torch.allclose(kind.loss(padded, targets), kind.loss(logits, targets))
    for temperature in (1.0, 8.0):
        expected = torch.stack(
            [
                temperature**2
                * torch.nn.functional.kl_div(
                    (other[..., side] / temperature).log_softmax(-1),
                    (logits[..., side] / temperature).softmax(-1),
                    reduction="none",
                ).sum(-1)
                for side in (0, 1)
            ]
        ).mean(0)
        assert torch.allclose(kind.divergence(logits, other, temperature), expected, atol=1e-5)
        assert torch.allclose(kind.divergence(padded, further, temperature), expected, atol=1e-5)


def task(path: Path, **given: Any) -> Task:
    return Task.model_validate({"kind": "question_answering", "source": {"kind": "files", "train": str(path)}, **given})


def written(folder: Path, form: str, rows: list[dict[str, Any]]) -> Path:
    """Write the same questions in one of the forms."""
    if form == "squad":
        return write_squad(folder / "train-v2.0.json", rows)
    if form == "squad-pretty-gz":
        path = folder / "train.json.gz"
        path.write_bytes(gzip.compress(json.dumps(as_squad(rows), indent=1).encode()))
        return path
    lists = [{key: [one[key] for one in row["answers"]] for key in ("text", "answer_start")} for row in rows]
    if form == "jsonl-lists":
        path = folder / "train.jsonl"
        path.write_text(
            "".join(json.dumps(row | {"answers": own}) + "\n" for row, own in zip(rows, lists, strict=True))
        )
        return path
    if form == "json-lines":
        path = folder / "train.json"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    # As on the hub.
    kind = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])
    columns = {name: [row[name] for row in rows] for name in ("id", "title", "question", "context")}
    pq.write_table(pa.table({**columns, "answers": pa.array(lists, kind)}), folder / "train.parquet")
    return folder / "train.parquet"


@pytest.mark.parametrize("form", ["squad", "squad-pretty-gz", "jsonl-lists", "json-lines", "parquet"])
def test_questions_are_read_from_every_form(form: str, tmp_path: Path) -> None:
    rows = asked(120, 5, without=0.25)
    prepare_data(task(written(tmp_path, form, rows), split_by="title"), None, tmp_path / "data")
    facts = json.loads((tmp_path / "data/task.json").read_text())
    assert (facts["kind"], facts["metric"], facts["unanswerable"]) == (QUESTION_ANSWERING, "answer_f1", True)
    found = {}
    for split in ("train", "validation", "test"):
        table = pq.read_table(tmp_path / f"data/{split}.parquet")
        found |= {row["id"]: row for row in table.to_pylist()}
        counts = open_artifact(tmp_path / "data", "data")["splits"][split]["labels"]
        assert counts == {
            "without an answer": sum(not answers for answers in as_array(table["label"])),
            "with an answer": sum(map(bool, as_array(table["label"]))),
        }
    assert found.keys() == {row["id"] for row in rows}
    for row in rows:
        own = found[row["id"]]
        assert (own["text_a"], own["text_b"]) == (row["question"], row["context"])
        assert own["label"] == [{"text": one["text"], "start": one["answer_start"]} for one in row["answers"]]


def test_an_answer_beside_its_place_is_found_and_told(tmp_path: Path) -> None:
    rows = asked(40, 6)
    start = rows[3]["answers"][0]["answer_start"]
    rows[3]["answers"][0]["answer_start"] = start + 2
    prepare_data(task(write_squad(tmp_path / "train.json", rows)), None, tmp_path / "data")
    (told,) = open_artifact(tmp_path / "data", "data")["warnings"]
    assert "question 4: an answer is not at its answer_start; the closest place was taken" in told
    splits = [pq.read_table(path).to_pylist() for path in (tmp_path / "data").glob("*.parquet")]
    (own,) = (row for split in splits for row in split if row["id"] == rows[3]["id"])
    assert own["label"][0]["start"] == start
    assert json.loads((tmp_path / "data/task.json").read_text())["unanswerable"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answers": "Paris"}, "line 2: column 'answers' holds 'Paris', where answers belong: an object with lists"),
        ({"answers": None}, "line 2: column 'answers' holds None, where answers belong"),
        ({"answers": {"text": ["the"]}}, "line 2: column 'answers' holds"),
        ({"answers": [{"text": "Rome", "answer_start": 0}]}, "line 2: the answer 'Rome' is not in the context"),
        ({"context": " "}, "line 2: no text in column 'context', the context; delete the row"),
        ({"question": None}, "line 2: no text in column 'question'"),
    ],
)
def test_a_wrong_row_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    rows = asked(30, 7)
    rows[1] |= change
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert message in refused(prepare_data, task(path), None, tmp_path / "data")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "t.json",
            {"data": [{"title": "x"}]},
            "no 'paragraphs' at question 1; SQuAD's format has data, paragraphs and",
        ),
        ("t.json", {"data": [{"paragraphs": [{"qas": []}]}]}, "no 'context' at question 1"),
        ("t.csv", None, "a text file cannot hold it: give JSON Lines or Parquet"),
    ],
)
def test_a_file_in_another_form_is_one_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(content) if content else "question,context,answers\nwho,me,me\n")
    assert message in refused(prepare_data, task(tmp_path / name), None, tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "labels: question answering has answers in the context"),
        ({"preprocess": ["stop_words"]}, "preprocess: would move answers away from their places"),
        ({"text": ["question"]}, "text: question answering needs two columns"),
        ({"metric": "accuracy"}, "accuracy is not a metric of question answering; take one of exact_match, answer_f1"),
        ({"stride": 20}, "tasks.mine.stride: 20 is more than a third of max_length, 48"),
        (
            {"kind": "regression", "text": ["a"], "label": "b", "stride": 20},
            "stride: is only for `kind: question_answering`",
        ),
    ],
)
def test_a_mistake_in_the_study_is_one_line(change: dict[str, Any], message: str) -> None:
    mine = {"kind": "question_answering", "source": {"kind": "files", "train": "t.json"}, **change}
    study = {"study": "s", "seeds": [1], "max_length": 48, "models": {"minilm": {}}, "variants": {"float": None}}
    assert message in refused(load, {**study, "tasks": {"mine": mine}})


def test_squad_is_known() -> None:
    for name in ("squad", "squad2"):
        known = Task.model_validate(KNOWN_TASKS[name])
        assert (known.outputs, known.metric, known.splits["test"]) == (["start", "end"], "answer_f1", "validation")


def test_normalization_is_squads_own() -> None:
    """Against the steps of the official script, one after the other, on texts made at random."""
    import re

    from intaglio.metrics.answers import words_of

    chance = random.Random(3)
    letters = "aAbthe nT" + string.punctuation + "“é\u00a0"
    for _ in range(300):
        text = "".join(chance.choice(letters) for _ in range(chance.randint(0, 20)))
        plain = "".join(character for character in text.lower() if character not in set(string.punctuation))
        assert " ".join(words_of(text)) == " ".join(
            re.sub(re.compile(r"\b(a|an|the)\b", re.UNICODE), " ", plain).split()
        )
