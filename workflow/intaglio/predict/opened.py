"""A bundle, opened: its files are checked, and texts become predictions."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError, nearest
from intaglio.predict.decode import QUESTIONS, VALUE, decoded, probabilities
from intaglio.predict.model import open_form
from intaglio.predict.tokenized import Reader, Text, TokenRow
from intaglio.preprocess import Preprocessor
from intaglio.quota import usable_cores
from intaglio.spans import best_answers, scores_of

# Format of bundles that this code makes and reads.
FORMAT = 2
FACTS = "bundle.json"
_MANIFEST = "manifest.json"
# Largest number of tokens of a batch, padding included: attention of long texts takes much memory.
_TOKENS = 4096


class Bundle:
    """A model with its tokenizer, labels and thresholds, from a folder that `intaglio bundle` has made.

    Example:
        bundle = Bundle("my-bundle")
        bundle.answers(["A film to remember."])   # [{"prediction": "positive", "probabilities": {...}}]

    Args:
        folder: the bundle.
        form: `native`, `onnx` or `openvino`; by default the fastest of the bundle that runs here.
        threads: number of threads; by default the number of cores that this process may use.
        check: whether files are compared with the checksums in the manifest.

    Attributes:
        facts: the content of bundle.json.
        form: the form that runs.
        threads: its number of threads.
        passed_over: why faster forms of the bundle do not run here.

    Raises:
        UserError: the folder is not a bundle, a file of it is missing or has changed, no form runs here, or a library
            that changes texts is missing or of another version.
    """

    def __init__(
        self, folder: str | Path, form: str | None = None, threads: int | None = None, check: bool = True
    ) -> None:
        self.folder = Path(folder)
        if check:
            check_files(self.folder)
        self.facts: dict[str, Any] = json.loads((self.folder / FACTS).read_text())
        if self.facts["format"] != FORMAT:
            raise UserError(f"{folder}: made by another version of Intaglio; run the predict.py in it")
        self.threads = threads or usable_cores()
        self.passed_over: list[str] = []
        self.form, self._run = self._opened(form)
        self._reader = Reader(self.folder, self.facts)
        self._preprocessor = self._open_preprocessor()

    @property
    def is_pair(self) -> bool:
        """Whether it takes pairs of texts."""
        return len(self.facts["text"]) == 2

    @property
    def required(self) -> int:
        """Number of texts that may not be empty: a question needs its context, other pairs need no second text."""
        return 2 if self.facts["kind"] == QUESTIONS else 1

    def _opened(self, form: str | None) -> tuple[str, Any]:
        forms: list[str] = self.facts["forms"]
        if form is not None and form not in forms:
            raise UserError(f"{self.folder}: has no form {form!r}, {nearest(form, forms)}")
        for name in forms if form is None else [form]:
            try:
                return name, open_form(self.folder, name, self.facts["inputs"], self.threads)
            except UserError as error:
                self.passed_over.append(str(error))
        raise UserError("; ".join(self.passed_over))

    def _open_preprocessor(self) -> Preprocessor:
        facts = self.facts["preprocess"]
        for library, version in facts["libraries"].items():
            here = _version_of(library)
            if here != version:
                raise UserError(
                    f"{self.folder}: changes texts by {library} {version}, which is "
                    f"{f'{here} here' if here else 'not there'}; pip install {library}=={version}"
                )
        return Preprocessor(facts["steps"], facts["language"], facts["stop_words"])

    @property
    def cut(self) -> int:
        """Number of the texts so far that were cut, as they have more than `max_length` tokens."""
        return self._reader.cut

    def answers(self, texts: Sequence[Text]) -> list[dict[str, Any]]:
        """Return what is predicted for texts, or for pairs of them.

        Args:
            texts: of a task of pairs, tuples of two texts; of question answering, question and context.

        Returns:
            For each text: `prediction`, which is a label, a list of labels, a value, or an answer; and of labels
            `probabilities`, of answers `scores` (of the best answer, and of none where a question may have none).
        """
        outputs, kind = self.outputs(texts), self.facts["kind"]
        found = [{"prediction": each} for each in self.predictions(outputs)]
        if kind == VALUE:
            return found
        name, numbers = ("scores", self.numbers) if kind == QUESTIONS else ("probabilities", self.probabilities)
        return [
            {**each, name: dict(zip(self.facts["labels"], row, strict=True))}
            for each, row in zip(found, numbers(outputs).tolist(), strict=True)
        ]

    def predictions(self, outputs: NDArray[Any]) -> list[Any]:
        """Return what is predicted, by outputs: labels, lists of labels, values, or answers."""
        return decoded(self.facts["kind"], self.facts["labels"], self.facts["thresholds"], outputs)

    def probabilities(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of labels by outputs, [texts, labels]; of values and answers [texts, 0]."""
        return probabilities(self.facts["kind"], outputs)

    def numbers(self, outputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return outputs as float32 [texts, labels]: logits; of answers, the scores of the best one and of none."""
        if self.facts["kind"] != QUESTIONS:
            return outputs
        return scores_of(outputs)[:, : len(self.facts["labels"])].astype(np.float32)

    def logits(self, texts: Sequence[Text], prepared: bool = False) -> NDArray[np.float32]:
        """Return the numbers of texts, or of pairs of them; arguments are those of `outputs`."""
        return self.numbers(self.outputs(texts, prepared))

    def outputs(self, texts: Sequence[Text], prepared: bool = False) -> NDArray[Any]:
        """Return what predictions are made of: logits, float32 [texts, labels]; of answers, `spans.OUTPUTS` [texts].

        Texts of similar length share a batch, which keeps padding low. The logits of an integer model do not depend on
        the batch; those of other models do so by their last digits.

        Args:
            texts: of a task of pairs, tuples of two texts.
            prepared: whether they are already as the task's `preprocess` leaves them, as those of prepared data are.
        """
        texts = texts if prepared else [self._changed(text) for text in texts]
        rows = self._reader.rows(texts)
        logits: list[Any] = [None] * len(rows)
        for chosen in self._batches([len(row.ids) for row in rows]):
            for at, own in zip(chosen, self._run(self._padded([rows[at] for at in chosen])), strict=True):
                logits[at] = own
        if self.facts["kind"] != QUESTIONS:
            return np.stack(logits) if logits else np.empty((0, len(self.facts["labels"])), np.float32)
        windows = ((row.example, row.characters, own) for row, own in zip(rows, logits, strict=True))
        given = self.facts["windows"]
        return best_answers(windows, [text[1] for text in texts], given["longest_answer"], given["unanswerable"])

    def _changed(self, text: Text) -> Text:
        change = self._preprocessor.of_text
        return change(text) if isinstance(text, str) else (change(text[0]), change(text[1]))

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yield the positions of texts that share a batch, the longest first."""
        batch: list[int] = []
        for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
            most = min(self.facts["batch_size"], max(1, _TOKENS // max(1, lengths[batch[0]]))) if batch else 1
            if len(batch) >= most and batch:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _padded(self, rows: Sequence[TokenRow]) -> dict[str, NDArray[np.int64]]:
        shape = len(rows), max(len(row.ids) for row in rows)
        ids = np.full(shape, self.facts["pad_token"], np.int64)
        mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for at, row in enumerate(rows):
            length = len(row.ids)
            ids[at, :length], mask[at, :length], types[at, :length] = row.ids, 1, row.types
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {name: given[name] for name in self.facts["inputs"]}


def _version_of(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_files(folder: Path) -> None:
    """Compare the files of a bundle with the checksums in its manifest.

    Raises:
        UserError: the folder is not a bundle, or a file is missing or has changed.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        kind, sums = manifest["kind"], manifest["about"].get("sha256", {})
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{folder}: not a bundle (no readable {_MANIFEST}); make one by intaglio bundle") from error
    if kind != "bundle":
        raise UserError(f"{folder}: is a {kind}, where a bundle is needed; make one by intaglio bundle")
    for name, expected in sums.items():
        if not (folder / name).is_file():
            raise UserError(f"{folder}: damaged, {name} is missing; copy the bundle again")
        if sha256_of(folder / name) != expected:
            raise UserError(f"{folder}: damaged, {name} has changed since it was made; copy the bundle again")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
