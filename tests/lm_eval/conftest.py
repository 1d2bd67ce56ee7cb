"""A small Llama with random weights as a folder of Hugging Face and as a checkpoint, and tasks in local files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "the quick brown fox jumps over the lazy dog.\nQuestion: what is it? Answer: a cat\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """The harness and what it imports warn about themselves."""
    import logging
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.getLogger("lm_eval").handlers.clear()


def _tokenizer(folder: Path, *, bos: bool) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    own: Any = Tokenizer(models.BPE())
    own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|begin|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    own.train_from_iterator([TEXT * 8], trainer)
    names: dict[str, str] = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if bos:
        own.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
        names["bos_token"] = "<|begin|>"
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=own, **names)
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(folder of Hugging Face, checkpoint of pealm) of the same weights; larger than usual, so that answers vary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    root = tmp_path_factory.mktemp("models")
    tokenizer = _tokenizer(root / "hf", bos=request.param == "with bos")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        max_position_embeddings=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    model: Any = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter *= 8
    model.save_pretrained(root / "hf")
    from pealm_core.cli import main

    with pytest.raises(SystemExit) as end, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEALM_PLUGINS", "")
        main(["convert", str(root / "hf"), str(root / "pealm"), "--from", "hf"])
    assert end.value.code == 0
    return root / "hf", root / "pealm"


TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
fewshot_split: test
output_type: {output_type}
{rest}
"""
RESTS = {
    "multiple_choice": """
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "loglikelihood": """
doc_to_text: "{{question}}"
doc_to_target: " {{choices[0]}}"
metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}, {metric: acc}]
""",
    "loglikelihood_rolling": """
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
""",
    "generate_until": """
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n", "fox"], max_gen_toks: 12, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of each output type, over 12 questions, one longer than the model's context."""
    folder = tmp_path_factory.mktemp("tasks")
    names = ["cat", "dog", "quick fox", "the lazy dog", "naïve 🦊", "it"]
    rows = [
        {
            "question": f"{'so ' * i}what is it {names[i % 6]}? "
            + "over the lazy dog and the fox jumps " * (4 * (i == 7)),
            "choices": [names[(i + k) % 6] for k in range(2 + i % 3)],
            "answer": i % 2,
        }
        for i in range(12)
    ]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for output_type, rest in RESTS.items():
        name = f"local_{output_type}"
        text = TASK.format(name=name, data=data, output_type=output_type, rest=rest)
        (folder / f"{name}.yaml").write_text(text)
    return folder
