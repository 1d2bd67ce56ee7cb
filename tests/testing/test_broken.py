"""Every check of the kit fails for a plugin with one broken line, and its message says how to fix it."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest
import torch

from pealm_testing import (
    CommandConformance,
    Conformance,
    ConformanceError,
    DatasetConformance,
    EvaluatorConformance,
    FormatConformance,
    ModelConformance,
    OptimizerConformance,
    TokenizerConformance,
)

from .plugin import COMMAND, CONFIG, PARTS, PLUGIN


# ruff: noqa: RUF012 (class attributes of the kit are never modified)
class Model(ModelConformance):
    spec = "m"


class Tokenizer(TokenizerConformance):
    spec = "t"


class Dataset(DatasetConformance):
    spec = "d"
    config = {"lines": 20}


class Shards(DatasetConformance):
    spec = "s"


class Numbers(DatasetConformance):
    spec = "n"


class Evaluator(EvaluatorConformance):
    spec = "e"
    config = {"lines": 3}
    expected = {"nats": math.log(257)}


class Optimizer(OptimizerConformance):
    spec = "o"


class Format(FormatConformance):
    spec = "f"
    model = "m"


class Command(CommandConformance):
    spec = "c"
    arguments = ["--times", "2"]


KITS = (Model, Tokenizer, Dataset, Shards, Numbers, Evaluator, Optimizer, Format, Command)


@pytest.fixture
def plug(stranger: Callable[..., None], tmp_path: Path) -> Callable[..., None]:
    """Install the plugin with a change: `plug("old", "new")` in any of its modules."""

    def install(old: str = "", new: str = "") -> None:
        texts = {"plugin": PLUGIN, "config": CONFIG, "parts": PARTS, "command": COMMAND}
        if old:
            assert any(old in text for text in texts.values()), old
            texts = {name: text.replace(old, new) for name, text in texts.items()}
        stranger("pealm-it", texts.pop("plugin"))
        for module, text in texts.items():
            (tmp_path / "site-pealm-it" / f"pealm_it_{module}.py").write_text(text)
        stranger.also(*(f"pealm_it_{module}" for module in texts))  # type: ignore[attr-defined]

    return install


def checks(kit: type[Conformance]) -> list[str]:
    return [name for name in dir(kit) if name.startswith("test_")]


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.__name__)
def test_a_correct_plugin_passes(kit: type[Conformance], plug: Callable[..., None]) -> None:
    plug()
    for name in checks(kit):
        try:
            getattr(kit(), name)()
        except SkipTest as reason:
            assert re.match(
                "slow: |it has no (settings|eot_id|source|layers and unembed)|it makes its own samples", str(reason)
            ), f"{name}: {reason}"


HEAD = "logits = self.head(self.norm(self.mix(x).tanh()))"
INIT = "        self.config = config\n        self.tokens"
LAST = "nn.init.zeros_(self.head.bias)"
TRACED = "\n        self.layers = [self.norm, *[]]\n        self.unembed = "
OWN = PARTS[PARTS.index("[p for p in model.parameters()") : PARTS.index("                if p.grad is None")]
WALK = "        for t in range(x.shape[1]):"
# kit, check, what is replaced, what by, words of the message
CASES: list[tuple[type[Conformance], str, str, str, str]] = [
    # any plugin
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "import pealm_it_config, os; os.environ['IT'] = '1'\nfrom pealm_core import (", "changes the environment (IT)"),
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "print('hello')\nfrom pealm_core import (", "prints 'hello'"),
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "import random; random.seed(1)\nfrom pealm_core import (", "seeds or draws from `random`"),
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "import logging; logging.basicConfig()\nfrom pealm_core import (", "configures logging"),
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "import warnings; warnings.simplefilter('ignore')\nfrom pealm_core import (", "changes the filters of warnings"),
    (Model, "imports_are_light_and_silent", "from pealm_core import (", "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass\nfrom pealm_core import (", "opens a connection"),
    (Model, "imports_are_light_and_silent", "from dataclasses import dataclass", "import importlib; importlib.import_module('nump' + 'y')\nfrom dataclasses import dataclass", "loads numpy"),
    (Model, "imports_are_light_and_silent", "hookimpl)", "hookimpl)\nimport torch", "imports torch at its top"),
    (Model, "parts_exist_and_import_silently", "pealm_it_parts:Model", "pealm_it_parts:Modle", "fix the string in the record"),
    (Model, "parts_exist_and_import_silently", "import torch\n", "import torch\ntorch.manual_seed(1)\n", "seeds or draws from torch's generator"),
    (Evaluator, "parts_exist_and_import_silently", "pealm_it_parts:Evaluator", "pealm_it_parts:__name__", "not a class or function"),
    (Model, "settings_round_trip", 'width: int = setting(16, "width", at_least=1)', 'width: int = setting(16, "width", at_least=1)\n    def __post_init__(self):\n        object.__setattr__(self, "width", self.width * 2)', "other values: {'width': (32, 64)}"),
    (Model, "settings_round_trip", "@dataclass(frozen=True)\nclass Config", "@dataclass\nclass Config", "is not frozen"),
    (Model, "every_setting_has_help", '16, "width"', '16, ""', "width has no help line"),
    (Model, "imports_are_light_and_silent", "from dataclasses import dataclass", "import sys\nif 'pytest' not in sys.modules: raise RuntimeError('no pytest')\nfrom dataclasses import dataclass", "in a new Python fails"),
    # models
    (Model, "construction_is_silent", INIT, "        print('made')\n" + INIT, "prints 'made'"),
    (Model, "it_does_not_set_the_seed", INIT, "        torch.manual_seed(1)\n" + INIT, "sets torch's seed"),
    (Model, "shapes", "nn.Linear(config.width, config.vocab_size)", "nn.Linear(config.width, 32)", "not (4, 8, 32)"),
    (Model, "shapes", "x = x[:, at]", "x = x[:, -1:]", "index dimension 1 with it"),
    (Model, "shapes", "return logits, None", "return logits", "must return (logits, loss)"),
    (Model, "shapes", "cache=None, at=None):", "cache=None):\n        at = None", "the signature is forward"),
    (Model, "loss_is_the_mean_cross_entropy", "F.cross_entropy(logits.flatten(0, 1), targets.flatten())", "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())", "is already the token after idx[b, t]"),
    (Model, "initial_loss_is_near_uniform", "std=0.02", "std=2", "initialize the head with smaller weights"),
    (Model, "it_is_causal", HEAD, "x = x - x.mean(1, keepdim=True)\n        " + HEAD, "at the earlier position 2: mask later tokens"),
    (Model, "it_is_causal", "x = self.tokens(idx)", "x = self.tokens(0 * idx)", "idx is not used"),
    (Model, "trace_shows_what_the_model_does", LAST, LAST + TRACED + "lambda x: 2 * self.head(x)", "unembed of the last layer's output differs from the logits"),
    (Model, "trace_shows_what_the_model_does", LAST, LAST + TRACED.replace("[]", "[self.head]") + "lambda x: self.head(x)", "LM.trace fails"),
    (Model, "trace_shows_what_the_model_does", LAST, LAST + TRACED + "lambda x: x.missing", "LM.trace fails"),
    (Model, "rows_are_independent", HEAD, "x = x - x.mean(0, keepdim=True)\n        " + HEAD, "not the batch"),
    (Model, "rows_are_independent", "targets.flatten())\n", "targets.flatten(), reduction='sum')\n", "return the mean loss over all tokens"),
    (Model, "every_parameter_learns", INIT, "        self.lost = nn.Linear(2, 2)\n" + INIT, "lost.weight, lost.bias has no gradient"),
    (Model, "every_parameter_learns", "self.tokens(idx)", "self.tokens(idx).detach() + 0 * self.tokens(idx)", "tokens.weight is the same after 5 steps"),
    (Model, "state_dict_is_complete", HEAD, HEAD + "\n        self.__dict__.setdefault('drawn', torch.randn(logits.shape[-1]))\n        logits = logits + self.drawn", "has other logits"),
    (Model, "training_is_deterministic", "nn.init.zeros_(self.head.bias)", "import random; nn.init.constant_(self.head.bias, random.random())\n        self.tokens.weight.data[0] = random.random()", "use torch's generator only"),
    (Model, "it_overfits_one_batch", WALK, "        x = x.detach() * 0 + x[:, :1]\n" + WALK, "are positions used?"),
    (Model, "cache_gives_the_same_logits", "cache.h = h", "pass", "with a cache, in parts of 1 tokens"),
    (Model, "cache_gives_the_same_logits", "self.h.repeat_interleave(n, dim=0)", "self.h.repeat(n, 1, 1)", "in the order of Tensor.repeat_interleave"),
    (Model, "any_context_length", HEAD, "x = x / (x.shape[1] - 1)\n        " + HEAD, "the logits for 1 token(s) are not finite"),
    (Model, "cache_gives_the_same_logits", "self.h[rows]", "self.h[rows.sort().values]", "cache.select(rows) must return a copy of these rows"),
    (Model, "cache_gives_the_same_logits", "[self.h, *(other.h for other in others)]", "[*(other.h for other in others), self.h]", "cache.join(others) must return a cache of its rows and theirs"),
    (Model, "cache_gives_the_same_logits", "    def join(self, others):", "    def cut(self, n):\n        pass\n    def join(self, others):", "cache.cut(n) must forget the last n tokens"),
    (Model, "any_context_length", "cache.h = h", "pass", "greedy sampling with and without the cache differ"),
    (Model, "bf16_is_close_to_fp32", "self.mix(x).tanh()", "(self.mix(x) * (9 if self.mix(x).dtype == torch.bfloat16 else 1)).tanh()", "compute sums, norms and softmax in fp32"),
    (Model, "shapes", "targets.flatten())\n", "targets.flatten(), reduction='none')\n", "a scalar loss"),
    (Model, "state_dict_is_complete", INIT, "        self.extra = nn.Parameter(torch.zeros(int(torch.randint(1, 99, ()))))\n" + INIT, "its state_dict does not fit a new model"),
    (Model, "cache_gives_the_same_logits", "return State(self.h[rows])", "self.h = self.h + 1; return State((self.h - 1)[rows])", "changed the cache: return copies"),
    (Model, "bf16_is_close_to_fp32", HEAD, "h = self.mix(x)\n        h = torch.zeros(h.shape).scatter(2, torch.arange(h.shape[2]).expand(h.shape), h)\n        logits = self.head(self.norm(h.tanh()))", "with --dtype bf16 it fails"),
    # tokenizers
    (Tokenizer, "construction_is_silent", "    vocab_size = 257\n    eot_id", "    vocab_size = 257\n    def __init__(self):\n        print('made')\n    eot_id", "prints 'made'"),
    (Tokenizer, "round_trip", "list(text.encode())", "list(text.strip().encode())", "is decoded as"),
    (Tokenizer, "round_trip", "list(text.encode())", "[{}[c] for c in text]", "raises KeyError"),
    (Tokenizer, "ids_are_below_vocab_size", "vocab_size = 257\n    eot_id", "vocab_size = 128\n    eot_id", "but vocab_size is 128"),
    (Tokenizer, "every_id_decodes", '"".join("<eot>" if i == 256 else chr(0) for i in ids if i == 256) or ', "", "a model may generate any id"),
    (Tokenizer, "streaming_gives_the_same_text", "    def fit", "    def stream_decoder(self):\n        return lambda i: self.decode([i])\n    def fit", "its stream_decoder gives"),
    (Tokenizer, "encode_many_gives_the_same_ids", "for text in texts]", "for text in texts if text]", "gives other ids than encode of each text"),
    (Tokenizer, "save_and_load", "    def load(self, folder):\n        self.seen", "    def load(self, folder):\n        self.vocab_size = 256\n        self.seen", "vocab_size is 257 before saving and 256 after"),
    (Tokenizer, "save_and_load", "def save", "def keep", "it needs save(folder) and load(folder)"),
    (Tokenizer, "fit_is_deterministic", "self.seen = sorted(", "self.seen = [id(object()), *map(str, [__import__('time').perf_counter_ns()])] or sorted(", "sort sets before use"),
    (Tokenizer, "it_can_be_pickled", "self.seen = sorted(", "self.how = lambda: 0\n        self.seen = sorted(", "remove such attributes in __getstate__"),
    (Tokenizer, "special_tokens_in_text_stay_text", "list(text.encode())", "[256] if text == '<eot>' else list(text.encode())", "is encoded as the end-of-text token 256"),
    (Tokenizer, "round_trip", "list(text.encode())", "text.split()", "not a list of integers"),
    (Tokenizer, "round_trip", "list(text.encode())", "list(text.encode('ascii'))", "encode refuses a text that it was fitted on"),
    (Tokenizer, "round_trip", "list(text.encode())", "list(text.encode()) if text.isascii() or text[:2] == 'na' else (_ for _ in ()).throw(ValueError())", "raises a ValueError without a message"),
    (Tokenizer, "ids_are_below_vocab_size", "vocab_size = 257\n    eot_id", "vocab_size = '257'\n    eot_id", "not a positive int"),
    (Tokenizer, "ids_are_below_vocab_size", "eot_id = 256\n    def encode", "eot_id = 300\n    def encode", "but vocab_size is 257: count it"),
    (Tokenizer, "every_id_decodes", '.decode("utf-8", "replace")', "", "not a str"),
    (Tokenizer, "save_and_load", "    def load(self, folder):\n", "    def load(self, folder):\n        self.encode = lambda text: [0]\n", "save everything that encode and decode need"),
    (Tokenizer, "it_can_be_pickled", "    def fit", "    def __setstate__(self, state):\n        self.encode = lambda text: [0]\n    def fit", "has other ids: restore everything in __setstate__"),
    # datasets
    (Dataset, "construction_is_silent", "    entropy_floor", "        import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')\n    entropy_floor", "fails without a network"),
    (Dataset, "construction_is_silent", "    entropy_floor", "        print('made')\n    entropy_floor", "prints 'made'"),
    (Dataset, "both_splits_have_documents", 'start = 0 if split == "train" else 1000', 'start = 0 if split == "train" else 1000\n        if start: return []', "the split 'val' is empty"),
    (Dataset, "documents_are_deterministic", 'f"line {i}"', 'f"line {i} {__import__(\'random\').random()}"', "two datasets give different documents for 'train'"),
    (Dataset, "documents_are_deterministic", "return (f\"line {i}\" for i in range(start, start + self.config.lines))", "self.all = getattr(self, 'all', iter([f'line {start + i}' for i in range(9)]))\n        return self.all", "start from the top"),
    (Dataset, "splits_are_disjoint", 'start = 0 if split == "train" else 1000', 'start = 0 if split == "train" else 19', "document 0 of 'val' is also in 'train' (1 in all)"),
    (Dataset, "clear_error_without_network", 'start = 0 if split == "train" else 1000', "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9'); start = 0", "raise a UserError that says what is missing"),
    (Dataset, "clear_error_without_network", 'start = 0 if split == "train" else 1000', "from pealm_core import cache_root; (cache_root() / 'half').touch(); raise UserError('no network')", "a failed download leaves half"),
    (Dataset, "attributes_are_valid", "entropy_floor = 0.5", "def entropy_floor(self): return 0.5", "give a positive number of nats per character"),
    (Shards, "attributes_are_valid", "vocab_size = 100", "vocab_size = 49", "has id 49, but vocab_size is 49"),
    (Shards, "splits_are_disjoint", ' + (split == "val")', "", "document 0 of 'val' is also in 'train'"),
    (Dataset, "both_splits_have_documents", '(f"line {i}" for i in range(start, start + self.config.lines))', 'f"line {start}"', "return a list or iterator of texts"),
    (Dataset, "both_splits_have_documents", '(f"line {i}" for', "(i for", "not a str"),
    (Dataset, "both_splits_have_documents", 'start = 0 if split == "train" else 1000', "raise UserError('lines.txt is not there')", "its documents can't be read: lines.txt is not there"),
    (Dataset, "clear_error_without_network", 'start = 0 if split == "train" else 1000', "raise UserError('gone' + chr(10) + 'and lost')", "the error is not one line"),
    (Shards, "both_splits_have_documents", "np.arange(50)", "np.arange(50.0)", "shards are 1-D arrays of integers"),
    (Numbers, "samples_depend_on_their_numbers_alone", "(n + i) % 50", "(n + i + __import__('random').randrange(50)) % 50", "seed a generator of its own"),
    (Numbers, "samples_depend_on_their_numbers_alone", "rows[:, :-1]", "rows", "has the shapes"),
    (Numbers, "samples_depend_on_their_numbers_alone", "return Rows(block_size)", "return Rows(16) if split == 'train' else type('Empty', (Rows,), {'__len__': lambda self: 0})(16)", "the source of 'val' needs len()"),
    # evaluations
    (Evaluator, "construction_is_silent", "    def evaluate", "        print('made')\n    def evaluate", "prints 'made'"),
    (Evaluator, "result_is_well_formed", "/ tokens, 0.0)}", "/ tokens)}", "not (value, stderr)"),
    (Evaluator, "result_is_well_formed", "n=len(texts)", "n=0", "give the number of scored items"),
    (Evaluator, "known_score", "/ tokens, 0.0)", "/ len(scores), 0.0)", "expected 5.54908"),
    (Evaluator, "it_is_deterministic", "/ tokens, 0.0)", "/ tokens + __import__('time').perf_counter_ns(), 0.0)", "use a fixed seed"),
    (Evaluator, "model_is_unchanged", "texts = [f", "model.train()\n        texts = [f", "leaves the model in train mode"),
    (Evaluator, "model_is_unchanged", "texts = [f", "torch.rand(1)\n        texts = [f", "draws from torch's global generator"),
    (Evaluator, "progress_increases", "requests, progress=progress)", "requests)", "progress(done, total) is never called"),
    (Evaluator, "result_is_well_formed", "config=\"pealm_it_config:Eval\",", "config=\"pealm_it_config:Eval\", input=True,", "evaluate() got an unexpected keyword argument 'dataset'"),
    (Evaluator, "construction_is_silent", "    def evaluate", "        import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')\n    def evaluate", "fails without a network"),
    (Evaluator, "result_is_well_formed", "return EvalResult(", "return dict(", "evaluate must return an EvalResult"),
    (Evaluator, "result_is_well_formed", '{"nats": (-sum(s.log_prob for s in scores) / tokens, 0.0)}', "{}", "it has no metrics"),
    (Evaluator, "result_is_well_formed", "n=len(texts)", "n=len(texts), notes='a text'", "give a list of lines"),
    (Evaluator, "result_is_well_formed", "/ tokens, 0.0)", "/ tokens, -1.0)", "a standard error of at least 0"),
    (Evaluator, "known_score", '{"nats": (', '{"bits": (', "there is no metric 'nats', only bits"),
    (Evaluator, "model_is_unchanged", "texts = [f", "next(model.parameters()).grad = torch.zeros(())\n        texts = [f", "evaluate under torch.inference_mode"),
    (Evaluator, "model_is_unchanged", "texts = [f", "next(model.parameters()).data += 1\n        texts = [f", "it changes the model's weights"),
    (Evaluator, "progress_increases", "requests, progress=progress)", "requests)\n        progress(9, 5)", "progress goes beyond its end: (9, 5)"),
    (Evaluator, "progress_increases", "requests, progress=progress)", "requests)\n        progress(2, 5)\n        progress(1, 5)", "progress goes backwards"),
    # optimizers
    (Optimizer, "it_has_every_parameter_once", "if p.requires_grad], {", "if p.requires_grad and p.dim() > 1], {", "linear.bias is in 0 groups"),
    (Optimizer, "it_minimises_a_quadratic", "p.sub_(", "p.add_(", "check the sign"),
    (Optimizer, "zero_learning_rate_changes_nothing", "p.sub_(group", "p.mul_(0.999)\n                p.sub_(group", "multiply every update by group['lr']"),
    (Optimizer, "resume_is_exact", "self.state[p].setdefault", "vars(self).setdefault('mine', {}).setdefault(p, {}).setdefault", "keep all state in self.state[p]"),
    (Optimizer, "parameters_without_gradient_are_skipped", "if p.grad is None:\n                    continue", "pass", "skip those"),
    (Optimizer, "it_has_every_parameter_once", "class Sgd(torch.optim.Optimizer):\n", "class Sgd(torch.optim.Optimizer):\n    def __new__(cls, *args, **kwargs):\n        return 'sgd'\n", "must return a torch.optim.Optimizer"),
    (Optimizer, "it_has_every_parameter_once", OWN, OWN.replace("[p for p in model.parameters() if p.requires_grad]", "list(model.parameters())") + "                p.mul_(0.9)\n", "requires_grad=False: leave those out"),
    (Optimizer, "it_has_every_parameter_once", '"lr"', '"rate"', "a group has no `lr` for the schedule to set"),
    (Optimizer, "resume_is_exact", "mean = self.state[p]", "self.state[p]['how'] = object()\n                mean = self.state[p]", "consists of tensors, numbers and text"),
    (Optimizer, "parameters_without_gradient_are_skipped", "if p.grad is None:\n", "if p.grad is None:\n                    p.mul_(0.9)\n", "it changes a parameter without a gradient"),
    # formats
    (Format, "round_trip_gives_the_same_logits", "torch.from_numpy(v) for", "torch.from_numpy(v) * (k != 'mix.bias') for", "compare the state dicts name by name"),
    (Format, "round_trip_gives_the_same_logits", "{k: torch.from_numpy(v) for k, v in np.load(source / \"w.npz\").items()}", "{}", "can't be loaded"),
    (Format, "detect_knows_its_own_folders", "ValueError, RecursionError", "RecursionError", "detect raises JSONDecodeError for a damaged folder"),
    (Format, "detect_knows_its_own_folders", 'return "model" in', 'return "mode" in', "does not recognize what the exporter wrote"),
    (Format, "detect_knows_its_own_folders", "return False", "return True", "accepts a folder whose files are damaged"),
    (Format, "nothing_is_overwritten", "check_free(target)\n    target.mkdir()", "target.mkdir(exist_ok=True)", "the exporter writes into a folder that is not empty"),
    (Format, "nothing_is_overwritten", "check_free(target)\n    target.mkdir()", "(source / 'x').touch()\n    check_free(target)\n    target.mkdir()", "changes the checkpoint that it reads"),
    (Format, "a_wrong_folder_is_refused", '    if not (source / "w.npz").exists():\n        raise UserError(f"{source} has no w.npz")\n', "", "raises FileNotFoundError for a folder of something else"),
    (Format, "a_wrong_folder_is_refused", '    if not (source / "w.npz").exists():', '    target.mkdir()\n    if not (source / "w.npz").exists():', "a failed import leaves a folder"),
    (Format, "nothing_is_overwritten", "check_free(target)\n    target.mkdir()", "target.mkdir(exist_ok=True)\n    (target / 'x').touch()\n    if (target / 'diary.txt').exists():\n        raise UserError('full')", "but leaves files in it"),
    (Format, "a_wrong_folder_is_refused", '        raise UserError(f"{source} has no w.npz")', "        return", "accepts a folder without any file of its format"),
    (Format, "a_wrong_folder_is_refused", '{source} has no w.npz', '{source}{chr(10)}has no w.npz', "the importer's error is not one line"),
    # commands
    (Command, "it_is_a_click_command", "@click.command()\n@click.option(\"--times\", type=int, default=1, help=\"How often.\")\n", "", "decorate the function with @click.command()"),
    (Command, "help_is_complete_and_light", "import click\n", "import click\nimport numpy\n", "--help loads numpy"),
    (Command, "help_is_complete_and_light", '    """Say it."""\n', "", "give the function a docstring"),
    (Command, "help_is_complete_and_light", ', help="How often."', "", "--times has no help"),
    (Command, "a_wrong_option_is_refused", "@click.command()", "@click.command(context_settings={'ignore_unknown_options': True, 'allow_extra_args': True})", "let click handle wrong options"),
    (Command, "it_runs", 'click.echo("it " * times)', "raise SystemExit(4)", "ends with 4"),
    (Command, "help_is_complete_and_light", "@click.command()", "@click.command(add_help_option=False)", "--help ends with 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kit", "check", "old", "new", "words"), CASES, ids=[f"{c[0].__name__}-{c[1]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_broken_plugin_fails(
    kit: type[Conformance], check: str, old: str, new: str, words: str, plug: Callable[..., None]
) -> None:
    plug(old, new)
    with pytest.raises(ConformanceError) as failure:
        getattr(kit(), f"test_{check}")()
    message = str(failure.value)
    assert words in message and len(message) > 20, message


RANK = "(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)"
SLOW_CASES: list[tuple[type[Conformance], str, str, str, str]] = [
    (Evaluator, "two_processes_give_the_same_score", "/ tokens, 0.0)", f"/ tokens + {RANK}, 0.0)", "on rank 1 of two"),
    (Evaluator, "two_processes_give_the_same_score", "texts = [f", f"1 / (1 - {RANK})\n        texts = [f", "rank 1 of 2 failed: ZeroDivisionError: division by zero"),
    (Model, "two_processes_train_like_one", HEAD, f"{HEAD} * (1 + {RANK})", "without dropout they are equal"),
    (Model, "compile_gives_the_same_loss", HEAD, f"{HEAD} * (9 if torch.compiler.is_compiling() else 1)", "with torch.compile the loss is"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kit", "check", "old", "new", "words"), SLOW_CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(SLOW_CASES)]
)
def test_a_broken_plugin_fails_a_slow_check(
    kit: type[Conformance], check: str, old: str, new: str, words: str, plug: Callable[..., None]
) -> None:
    plug(old, new)
    slow = kit.with_attributes({"slow": True})
    with pytest.raises(ConformanceError) as failure:
        getattr(slow, f"test_{check}")()
    assert words in str(failure.value) and "gloo" not in str(failure.value), str(failure.value)


def test_every_check_has_a_case() -> None:
    covered = {(kit.__base__, f"test_{check}") for kit, check, *_ in (*CASES, *SLOW_CASES)}
    shared = set(checks(Conformance))
    for kit in KITS:
        for name in set(checks(kit)) - shared:
            assert (kit.__base__, name) in covered, f"{kit.__name__}.{name}"
    assert {name for _, name in covered} >= shared


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.__name__)
def test_every_check_has_a_docstring(kit: type[Conformance]) -> None:
    for name in checks(kit):
        doc: Any = getattr(kit, name).__doc__
        assert doc and doc.startswith("Catches "), name


def test_missing_plugin() -> None:
    class Missing(ModelConformance):
        spec = "no-such-model"

    with pytest.raises(ConformanceError, match="Is the plugin installed"):
        Missing().test_shapes()


def test_plugin_that_failed_to_load(plug: Callable[..., None]) -> None:
    plug("@hookimpl\ndef pealm_models", "def pealm_models")
    with pytest.raises(ConformanceError, match="is not marked @hookimpl"):
        Model().test_shapes()


def test_evaluator_that_refuses_the_documents(plug: Callable[..., None]) -> None:
    """By default the kit's documents may not suit it; where the author gave some, or settings, they must."""
    plug(
        "*, config, progress):\n        texts",
        "*, config, progress):\n        raise UserError('too few verbs')\n        texts",
    )

    class Plain(EvaluatorConformance):
        spec = "e"

    with pytest.raises(SkipTest, match=r"set config = \{\.\.\.\}: too few verbs"):
        Plain().result()
    for words in ({"texts": ["a"]}, {"config": {"lines": 3}}):
        with pytest.raises(ConformanceError, match="it can't evaluate: too few verbs"):
            type("Given", (Plain,), words)().result()


def test_evaluator_gets_documents(plug: Callable[..., None], tmp_path: Path) -> None:
    plug('config="pealm_it_config:Eval",', 'config="pealm_it_config:Eval", input=True,')
    parts = tmp_path / "site-pealm-it" / "pealm_it_parts.py"
    reads = "*, config, progress, dataset, split):\n        if len(list(dataset.documents(split))) < 60:\n"
    parts.write_text(
        parts.read_text().replace("*, config, progress):\n", reads + "            raise UserError('too few')\n")
    )

    class Plain(EvaluatorConformance):
        spec = "e"

    with pytest.raises(SkipTest, match=r"it can't use the kit's documents; set texts = \[\.\.\.\]: too few"):
        Plain().result()

    class Given(Plain):
        texts = [f"line {i}" for i in range(60)]

    assert Given().result().n > 0


def test_documents_for_evaluators() -> None:
    texts = EvaluatorConformance.texts
    assert len(set(texts)) == len(texts) > 50 and all(text.endswith("\n") and text.count(".") == 2 for text in texts)
    assert len({text.split()[-1] for text in texts}) >= 4


def test_a_model_that_needs_consecutive_positions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from pealm_core.inference.shared_prefixes import TreeCache

    class Transformer(ModelConformance):
        spec = "char-transformer"
        config = {"block_size": 16, "n_layer": 1, "n_head": 2, "n_embd": 16}

    Transformer().test_cache_gives_the_same_logits()
    monkeypatch.setattr(TreeCache, "positions", lambda self, tokens: torch.arange(tokens)[None].clamp(max=15))
    with pytest.raises(ConformanceError, match="may be any T positions"):
        Transformer().test_cache_gives_the_same_logits()
