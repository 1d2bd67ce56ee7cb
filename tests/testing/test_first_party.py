"""First-party plugins pass the conformance kit."""

# ruff: noqa: RUF012 (class attributes of the kit are never modified)

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pealm_testing import (
    DatasetConformance,
    EvaluatorConformance,
    FormatConformance,
    ModelConformance,
    ObjectiveConformance,
    OptimizerConformance,
    ScheduleConformance,
    StrategyConformance,
    TokenizerConformance,
)

# A row of HellaSwag's file, with a text of ours.
ROW = {
    **{"ind": 1, "activity_label": "Counting", "ctx_a": "A man counts.", "ctx_b": "he", "ctx": "A man counts. he"},
    **{"split": "val", "split_type": "indomain", "source_id": "x", "label": 2},
    "endings": ["says one.", "says two.", "says three.", "says four."],
}


class TestCharBigram(ModelConformance):
    spec = "char-bigram"
    config = {"block_size": 16}
    context = 1
    start_loss = 1.0  # its table is drawn from a normal distribution
    fit_lr = 0.2


class TestCharTransformer(ModelConformance):
    spec = "char-transformer"
    config = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}


class TestGPT2(ModelConformance):
    spec = "gpt2"
    config = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16}


class TestLlama(ModelConformance):
    spec = "llama"
    config = {"block_size": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 16}


class TestLlamaWithAllOptions(ModelConformance):
    spec = "llama"
    config = {**TestLlama.config, "qkv_bias": True, "qk_norm": True, "tied": False, "rope_factor": 8.0}


class TestSprout(ModelConformance):
    spec = "sprout"
    config = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 16, "ngram": 3, "smear": 5}


class TestChar(TokenizerConformance):
    spec = "char"


class TestCharReplacingUnknown(TokenizerConformance):
    spec = "char"
    config = {"unknown": "replace"}
    lossy = True


class TestBPE(TokenizerConformance):
    spec = "bpe"
    config = {"vocab_size": 280}


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch, tiktoken_files: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tiktoken_files))


@pytest.mark.usefixtures("encodings")
class TestTiktoken(TokenizerConformance):
    spec = "tiktoken"


class TestHFTokenizer(TokenizerConformance):
    spec = "hf"

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Path]:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        tokenizer: Any = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator(self.texts, trainer)
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        return {"path": tmp_path}


class TestText(DatasetConformance):
    spec = "text"
    config = {"path": str(Path(__file__).parents[2] / "README.md")}


class TestTinyshakespeare(DatasetConformance):
    spec = "tinyshakespeare"

    @pytest.fixture
    def config(self, shakespeare: Path) -> dict[str, Path]:
        return {"path": shakespeare}


class TestStories(DatasetConformance):
    spec = "kindergarten"
    config = {"stories": 200}


class TestConversations(DatasetConformance):
    spec = "conversations"

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, str]:
        lines = [f'{{"instruction": "say {number}", "output": "{number}"}}' for number in range(30)]
        (tmp_path / "talk.jsonl").write_text("\n".join(lines))
        return {"path": str(tmp_path / "talk.jsonl")}


class TestNpyShards(DatasetConformance):
    spec = "npy-shards"

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Path]:
        import numpy as np

        for number, split in enumerate(("train", "val")):
            np.save(tmp_path / f"part_{split}_000001.npy", np.arange(100, dtype=np.uint16) + number)
        return {"path": tmp_path}


class TestFineweb(DatasetConformance):
    spec = "fineweb"


class TestFinewebEdu(DatasetConformance):
    spec = "fineweb-edu"

    @pytest.fixture(autouse=True)
    def _no_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hub's client tries again five times, after 23 seconds of pauses in all."""
        monkeypatch.setattr("time.sleep", lambda seconds: None)

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"text": [f"document {number}" for number in range(200)]}), tmp_path / "a.parquet")
        return {"source": tmp_path, "val_fraction": 0.1}


class TestTelling(EvaluatorConformance):
    spec = "kindergarten"
    config = {"stories": 2}
    # The characters of a story are bytes, and so is its end mark.
    expected = {"loss (nats per character)": math.log(257), "stories accepted": 0.0}


class TestPerplexity(EvaluatorConformance):
    spec = "perplexity"
    expected = {"loss": math.log(257), "perplexity": 257.0}


class TestMultipleChoice(EvaluatorConformance):
    spec = "multiple-choice"

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, object]:
        file = tmp_path / "questions.jsonl"
        file.write_text('{"question": "one", "choices": ["two", "three"], "answer": 1}\n' * 3)
        return {"file": file}


class TestHellaSwag(EvaluatorConformance):
    spec = "hellaswag"

    @pytest.fixture
    def config(self, tmp_path: Path) -> dict[str, object]:
        file = tmp_path / "rows.jsonl"
        file.write_text(f"{json.dumps(ROW)}\n" * 5)
        return {"file": file, "limit": 4}


class TestCosine(ScheduleConformance):
    spec = "cosine"


class TestWSD(ScheduleConformance):
    spec = "wsd"


class TestLinear(ScheduleConformance):
    spec = "linear"


class TestConstant(ScheduleConformance):
    spec = "constant"


class TestInverseSqrt(ScheduleConformance):
    spec = "inverse-sqrt"


class TestNextToken(ObjectiveConformance):
    spec = "next-token"


class TestDDP(StrategyConformance):
    spec = "ddp"


class TestAdamW(OptimizerConformance):
    spec = "adamw"
    config = {"weight_decay": 0.0}


class TestMuon(OptimizerConformance):
    spec = "muon"
    config = {"adam_lr": 0.1}


@pytest.mark.usefixtures("encodings")
class TestHF(FormatConformance):
    spec = "pealm-gpt2/hf"
    model = "gpt2"
    sizes = {"block_size": 16, "n_layer": 2, "n_head": 2, "n_embd": 8}


class TestLlamaHF(FormatConformance):
    spec = "pealm-llama/hf"
    model = "llama"
    sizes = {"block_size": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 16}
