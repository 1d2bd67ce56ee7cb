# What each distribution does when it is installed alone: `job NAME`; scripts/proof/fresh_installs.sh calls it in an empty
# folder, with `pealm` and `python` of the new environment first in PATH and alone.py as a plugin.

train() { # train MODEL OPTION...: three steps, into ./run
    rm -rf run
    pealm train "$1" --steps 3 --batch-size 4 --micro-batch-size 4 --warmup-steps 0 --out run "${@:2}"
    test -f run/best/model.safetensors
}

small() { # small OPTION...: the small model of alone.py, on its dataset
    train small --input.counting "$@"
}

files() { # text, records, conversations and questions
    python - <<'PYTHON'
import json

lines = [f"Story {n}: one day, {n} ducks swam in the pond.\n" for n in range(400)]
open("book.txt", "w").writelines(lines)
open("docs.jsonl", "w").writelines(json.dumps({"text": line}) + "\n" for line in lines)
turns = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n + 1}!"}] for n in range(400)]
open("talk.jsonl", "w").writelines(json.dumps({"messages": turn}) + "\n" for turn in turns)
rows = [{"question": f"{n}?", "choices": ["yes", "no"], "answer": n % 2} for n in range(8)]
open("questions.jsonl", "w").writelines(json.dumps(row) + "\n" for row in rows)
row = {"activity_label": "Roofs", "ctx_a": "A man is up.", "ctx_b": "he", "ctx": "A man is up. he", "label": 1, "split": "val"}
rows = [{**row, "ind": n, "endings": ["falls.", "flies.", "eats it.", "sings."]} for n in range(8)]
open("hellaswag.jsonl", "w").writelines(json.dumps(row) + "\n" for row in rows)
PYTHON
}

evaluate() { # evaluate OPTION...: with pealm-evals, which has the command and which its message names
    if declare -F uv >/dev/null; then uv pip install -c "$home/constraints.txt" pealm-evals; fi
    pealm eval --ckpt run "$@"
}

shards() { # token shards as build-nanogpt writes them
    python - <<'PYTHON'
import os

import numpy as np

os.mkdir("shards")
for split in ("train", "val"):
    np.save(f"shards/x_{split}_000001.npy", np.arange(4000, dtype=np.uint16) % 250)
PYTHON
}

job() {
    files
    case $1 in
        pealm-pea)
            python -c 'from pea import Value; a = Value(3.0); (a * a).backward(); assert a.grad == 6'
            python -c 'import importlib.util as u; assert u.find_spec("torch") is None'
            ;;
        pealm-core) small && pealm sample --ckpt run -n 8 && pealm --help ;;
        pealm-bpe) small --tokenizer bpe --tokenizer.vocab-size 300 && pealm sample --ckpt run -n 8 ;;
        pealm-char) small --tokenizer char && pealm sample --ckpt run -n 8 ;;
        pealm-char-bigram) train char-bigram --input.counting && pealm sample --ckpt run -n 8 ;;
        pealm-char-transformer) train char-transformer --input.counting && pealm sample --ckpt run -n 8 ;;
        pealm-chat) train small --input.talking && echo hello | pealm chat --ckpt run --max-new-tokens 8 ;;
        pealm-clean) small && pealm clean run --yes && test ! -e run/best ;;
        pealm-conversations) train small --input.conversations talk.jsonl ;;
        pealm-convert) small && pealm convert run weights --dtype bf16 && pealm sample --ckpt weights -n 8 ;;
        pealm-cpu)
            python -c '
import torch, pealm_cpu
weight, x = torch.randn(32, 64), torch.randn(1, 64)
y = torch.nn.functional.linear(x, pealm_cpu.Int8Weight.of(weight))
assert (y - x @ weight.t()).norm() < 0.05 * y.norm()'
            ;;
        pealm-data)
            pealm tokenize --input.counting --tokenizer bytes --out shards
            pealm data --input.counting --tokenizer bytes
            pealm tokens "a rose is a rose" --tokenizer bytes
            ;;
        pealm-ema) small --observer.ema.decay 0.9 ;;
        pealm-estimate) pealm estimate small --batch-size 4 ;;
        pealm-evals) small --track size --track-every 2 && pealm eval --ckpt run --on size ;;
        pealm-files)
            python -c 'from pealm_files import data_files; print(data_files("--input", ".", (".txt",)))'
            ;;
        pealm-fineweb)
            python -c '
import json, pyarrow as a, pyarrow.parquet as p
p.write_table(a.table({"text": [json.loads(line)["text"] for line in open("docs.jsonl")]}), "docs.parquet")'
            mkdir parquet && mv docs.parquet parquet
            pealm tokenize --input.fineweb-edu --input.source parquet --input.layout build-nanogpt --tokenizer tiktoken \
                --shard-size 641 --out shards
            train small --input.fineweb shards --tokenizer tiktoken
            ;;
        pealm-formats) python -c 'import pealm_formats.folders, pealm_formats.gguf_file, pealm_formats.vocabulary' ;;
        pealm-fsdp) torchrun --standalone --nproc-per-node 2 -m pealm train small --input.counting --strategy fsdp --steps 3 --batch-size 4 --out run ;;
        pealm-gpt2)
            shards
            train gpt2 --input.npy-shards shards --tokenizer bytes --model.n-layer 1 --model.n-head 1 --model.n-embd 8 --model.block-size 16
            ;;
        pealm-hellaswag) small && evaluate --on hellaswag --eval.file hellaswag.jsonl ;;
        pealm-hf-datasets)
            mkdir data && mv docs.jsonl data/train.jsonl
            train small --input.hf-dataset ./data
            ;;
        pealm-hf-tokenizer)
            python -c '
from tokenizers import Tokenizer, models, pre_tokenizers, decoders, trainers
t = Tokenizer(models.BPE()); t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
t.train(["book.txt"], trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False))
t.save("tokenizer.json")'
            small --tokenizer hf --tokenizer.path tokenizer.json && pealm sample --ckpt run -n 8
            ;;
        pealm-kindergarten) train small --input.kindergarten && evaluate --on kindergarten --eval.stories 4 ;;
        pealm-llama) train llama --preset nano --model.block-size 32 --input.counting --tokenizer bytes && pealm sample --ckpt run -n 8 ;;
        pealm-lm-eval)
            mkdir tasks
            printf '%s\n' 'task: mine' 'dataset_path: json' 'dataset_kwargs: {data_files: {validation: questions.jsonl}}' \
                'validation_split: validation' 'output_type: multiple_choice' 'doc_to_text: "{{question}}"' \
                'doc_to_choice: choices' 'doc_to_target: answer' >tasks/mine.yaml
            small && evaluate --on lm-eval --eval.tasks mine --eval.include-path tasks
            ;;
        pealm-lora)
            small && mv run base
            small --init base --adapter lora --adapter.targets all
            ;;
        pealm-multiple-choice) small && evaluate --on multiple-choice --eval.file questions.jsonl ;;
        pealm-muon) small --optimizer muon ;;
        pealm-npy-shards) shards && train small --input.npy-shards shards --tokenizer bytes ;;
        pealm-perplexity) small && evaluate --input.counting ;;
        pealm-records) train small --input.records docs.jsonl ;;
        pealm-report) small && pealm runs run && pealm report run --output page.html && test -s page.html ;;
        pealm-schedules) small --schedule wsd ;;
        pealm-serve)
            small
            python - <<'PYTHON'
import json, re, subprocess, urllib.request

server = subprocess.Popen(["pealm", "serve", "--ckpt", "run", "--port", "0"], stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
try:
    url = next(m[0] for line in server.stdout if (m := re.search(r"http://127[^\s/]*", line)))
    body = json.dumps({"model": "run", "prompt": "3", "max_tokens": 4}).encode()
    ask = urllib.request.Request(f"{url}/v1/completions", body, {"Content-Type": "application/json"})
    print(urllib.request.urlopen(ask).read().decode())
finally:
    server.terminate()
    server.wait()
PYTHON
            ;;
        pealm-sprout) train sprout --preset tiny --input.counting && pealm sample --ckpt run -n 8 ;;
        pealm-sweep)
            printf '%s\n' '[model]' 'name = "small"' '[input]' 'counting = true' '[train]' 'steps = 2' 'batch-size = 4' \
                'warmup-steps = 0' '[sweep]' 'trials = 2' '[sweep.options]' 'lr = [0.01, 0.1]' >study.toml
            pealm sweep study.toml --out study && test -d study/trial-0001
            ;;
        pealm-tensorboard) small --observer.tensorboard.every 1 && test -n "$(ls run/tensorboard)" ;;
        pealm-testing)
            pealm new-plugin model mine && cd pealm-mine && PYTHONPATH=. python -c 'import pealm_mine.model'
            ;;
        pealm-text) train small --input.text book.txt ;;
        pealm-tiktoken) small --tokenizer tiktoken && pealm sample --ckpt run -n 8 ;;
        pealm-tinyshakespeare) train small --input.tinyshakespeare ${TINYSHAKESPEARE:-} ;; # downloaded, or the file with its text
        pealm-wandb) small --observer.wandb.project alone --observer.wandb.mode offline && test -n "$(ls run/wandb)" ;;
        pealm)
            train sprout --preset tiny --input.text book.txt
            pealm sample --ckpt run -n 8
            pealm eval --ckpt run
            pealm runs run
            pealm convert run weights
            ;;
        *) echo "no job is known for $1: add it to scripts/proof/jobs.sh" >&2 && return 1 ;;
    esac
}
