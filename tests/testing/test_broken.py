"""Every check of the kit can fail, and says what to do: a small plugin of every kind, and one broken line at a time."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import SkipTest

import pytest

from pealm_core.testing import (
    CommandConformance,
    Conformance,
    DatasetConformance,
    EvaluatorConformance,
    FormatConformance,
    ModelConformance,
    OptimizerConformance,
    TokenizerConformance,
)

from .plugin import COMMAND, CONFIG, PARTS, PLUGIN


# ruff: noqa: RUF012 (what the kit reads off its classes is never changed)
class Model(ModelConformance):
    spec = "m"


class Tokenizer(TokenizerConformance):
    spec = "t"


class Dataset(DatasetConformance):
    spec = "d"
    config = {"lines": 20}


class Shards(DatasetConformance):
    spec = "s"


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


KITS = (Model, Tokenizer, Dataset, Shards, Evaluator, Optimizer, Format, Command)


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
def test_what_keeps_the_contract_passes(kit: type[Conformance], plug: Callable[..., None]) -> None:
    plug()
    for name in checks(kit):
        try:
            getattr(kit(), name)()
        except SkipTest as reason:
            assert "slow" in str(reason) or "settings" in str(reason), f"{name}: {reason}"


HEAD = "logits = self.head(self.norm(self.mix(x).tanh()))"
INIT = "        self.config = config\n        self.tokens"
OWN = PARTS[PARTS.index("[p for p in model.parameters()") : PARTS.index("                if p.grad is None")]
WALK = "        for t in range(x.shape[1]):"
# kit, check, what is replaced, what by, words of the message
CASES: list[tuple[type[Conformance], str, str, str, str]] = [
    # any plugin
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "import pealm_it_config, os; os.environ['IT'] = '1'\nfrom pealm_core import (", "changes the environment (IT)"),
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "print('hello')\nfrom pealm_core import (", "prints 'hello'"),
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "import random; random.seed(1)\nfrom pealm_core import (", "seeds or draws from `random`"),
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "import logging; logging.basicConfig()\nfrom pealm_core import (", "configures logging"),
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "import warnings; warnings.simplefilter('ignore')\nfrom pealm_core import (", "changes the filters of warnings"),
    (Model, "its_imports_are_light_and_quiet", "from pealm_core import (", "import socket\ntry: socket.create_connection(('127.0.0.1', 9), 1)\nexcept OSError: pass\nfrom pealm_core import (", "opens a connection"),
    (Model, "its_imports_are_light_and_quiet", "from dataclasses import dataclass", "import importlib; importlib.import_module('nump' + 'y')\nfrom dataclasses import dataclass", "loads numpy"),
    (Model, "its_imports_are_light_and_quiet", "hookimpl)", "hookimpl)\nimport torch", "imports torch at its top"),
    (Model, "its_parts_are_there_and_import_quietly", "pealm_it_parts:Model", "pealm_it_parts:Modle", "mend the string in the record"),
    (Model, "its_parts_are_there_and_import_quietly", "import torch\n", "import torch\ntorch.manual_seed(1)\n", "seeds or draws from torch's generator"),
    (Evaluator, "its_parts_are_there_and_import_quietly", "pealm_it_parts:Evaluator", "pealm_it_parts:__name__", "should be a class or function"),
    (Model, "its_settings_survive_toml_and_options", 'width: int = setting(16, "width", at_least=1)', 'width: int = setting(16, "width", at_least=1)\n    def __post_init__(self):\n        object.__setattr__(self, "width", self.width * 2)', "other values: {'width': (32, 64)}"),
    (Model, "its_settings_survive_toml_and_options", "@dataclass(frozen=True)\nclass Config", "@dataclass\nclass Config", "is not frozen"),
    (Model, "every_setting_has_a_help_line", '16, "width"', '16, ""', "width has no help line"),
    (Model, "its_imports_are_light_and_quiet", "from dataclasses import dataclass", "import sys\nif 'pytest' not in sys.modules: raise RuntimeError('no pytest')\nfrom dataclasses import dataclass", "in a fresh Python fails"),
    (Model, "its_settings_survive_toml_and_options", 'setting(16, "width", at_least=1)', 'setting(16, "width", at_least=32)', "can't be read back from a TOML table"),
    # models
    (Model, "making_it_is_quiet", INIT, "        print('made')\n" + INIT, "prints 'made'"),
    (Model, "making_it_is_quiet", INIT, "        torch.manual_seed(1)\n" + INIT, "sets torch's seed"),
    (Model, "shapes", "nn.Linear(config.width, config.vocab_size)", "nn.Linear(config.width, 32)", "not (4, 8, 32)"),
    (Model, "shapes", "x = x[:, at]", "x = x[:, -1:]", "index dimension 1 with it"),
    (Model, "shapes", "return logits, None", "return logits", "must give (logits, loss)"),
    (Model, "shapes", "cache=None, at=None):", "cache=None):\n        at = None", "the signature is forward"),
    (Model, "the_loss_is_the_mean_cross_entropy_of_its_logits", "F.cross_entropy(logits.flatten(0, 1), targets.flatten())", "F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())", "is what follows idx[b, t] already"),
    (Model, "it_starts_from_knowing_nothing", "std=0.02", "std=2", "start the head with smaller weights"),
    (Model, "no_token_sees_a_later_one", HEAD, "x = x - x.mean(1, keepdim=True)\n        " + HEAD, "before it: mask what follows"),
    (Model, "no_token_sees_a_later_one", "x = self.tokens(idx)", "x = self.tokens(0 * idx)", "idx is not used"),
    (Model, "rows_do_not_see_each_other", HEAD, "x = x - x.mean(0, keepdim=True)\n        " + HEAD, "not over the batch"),
    (Model, "rows_do_not_see_each_other", "targets.flatten())\n", "targets.flatten(), reduction='sum')\n", "give the mean loss over all tokens"),
    (Model, "every_parameter_learns", INIT, "        self.lost = nn.Linear(2, 2)\n" + INIT, "lost.weight, lost.bias has no gradient"),
    (Model, "every_parameter_learns", "self.tokens(idx)", "self.tokens(idx).detach() + 0 * self.tokens(idx)", "tokens.weight is the same after 5 steps"),
    (Model, "a_checkpoint_holds_all_of_it", HEAD, HEAD + "\n        self.__dict__.setdefault('drawn', torch.randn(logits.shape[-1]))\n        logits = logits + self.drawn", "gives other logits"),
    (Model, "the_same_seed_gives_the_same_model", "nn.init.zeros_(self.head.bias)", "import random; nn.init.constant_(self.head.bias, random.random())\n        self.tokens.weight.data[0] = random.random()", "draw from torch's generator only"),
    (Model, "it_learns_one_batch_by_heart", WALK, "        x = x.detach() * 0 + x[:, :1]\n" + WALK, "are positions used?"),
    (Model, "the_cache_changes_nothing", "cache.h = h", "pass", "with a cache, in parts of 1 tokens"),
    (Model, "the_cache_changes_nothing", "self.h.repeat_interleave(n, dim=0)", "self.h.repeat(n, 1, 1)", "as Tensor.repeat_interleave"),
    (Model, "texts_of_any_length", HEAD, "x = x / (x.shape[1] - 1)\n        " + HEAD, "a text of 1 token(s) gives logits that are not finite"),
    (Model, "the_cache_changes_nothing", "self.h[rows]", "self.h[rows.sort().values]", "cache.select(rows) must give a copy of these rows"),
    (Model, "texts_of_any_length", "cache.h = h", "pass", "greedy text differs with and without"),
    (Model, "bf16_is_near_fp32", "self.mix(x).tanh()", "(self.mix(x) * (9 if self.mix(x).dtype == torch.bfloat16 else 1)).tanh()", "take sums, norms and softmax in fp32"),
    (Model, "shapes", "targets.flatten())\n", "targets.flatten(), reduction='none')\n", "a scalar loss"),
    (Model, "a_checkpoint_holds_all_of_it", INIT, "        self.extra = nn.Parameter(torch.zeros(int(torch.randint(1, 99, ()))))\n" + INIT, "its state_dict does not fit a new model"),
    (Model, "the_cache_changes_nothing", "return State(self.h[rows])", "self.h = self.h + 1; return State((self.h - 1)[rows])", "changed the cache itself: they give copies"),
    (Model, "bf16_is_near_fp32", HEAD, "h = self.mix(x)\n        h = torch.zeros(h.shape).scatter(2, torch.arange(h.shape[2]).expand(h.shape), h)\n        logits = self.head(self.norm(h.tanh()))", "with --dtype bf16 it fails"),
    # tokenizers
    (Tokenizer, "making_it_is_quiet", "    vocab_size = 257\n    eot_id", "    vocab_size = 257\n    def __init__(self):\n        print('made')\n    eot_id", "prints 'made'"),
    (Tokenizer, "any_text_comes_back_or_is_refused", "list(text.encode())", "list(text.strip().encode())", "comes back as"),
    (Tokenizer, "any_text_comes_back_or_is_refused", "list(text.encode())", "[{}[c] for c in text]", "raises KeyError"),
    (Tokenizer, "ids_are_below_vocab_size", "vocab_size = 257\n    eot_id", "vocab_size = 128\n    eot_id", "and vocab_size is 128"),
    (Tokenizer, "every_id_has_a_text", '"".join("<eot>" if i == 256 else chr(0) for i in ids if i == 256) or ', "", "a model may draw any id"),
    (Tokenizer, "a_stream_gives_the_same_text", "    def fit", "    def stream_decoder(self):\n        return lambda i: self.decode([i])\n    def fit", "its stream_decoder gives"),
    (Tokenizer, "what_is_saved_comes_back", "    def load(self, folder):\n        self.seen", "    def load(self, folder):\n        self.vocab_size = 256\n        self.seen", "vocab_size is 257 before saving and 256 after"),
    (Tokenizer, "what_is_saved_comes_back", "def save", "def keep", "it needs save(folder) and load(folder)"),
    (Tokenizer, "the_same_texts_give_the_same_tokenizer", "self.seen = sorted(", "self.seen = [id(object()), *map(str, [__import__('time').perf_counter_ns()])] or sorted(", "sort what is in a set"),
    (Tokenizer, "it_can_be_sent_to_a_worker", "self.seen = sorted(", "self.how = lambda: 0\n        self.seen = sorted(", "leave what can't be out in __getstate__"),
    (Tokenizer, "special_tokens_in_text_are_inert", "list(text.encode())", "[256] if text == '<eot>' else list(text.encode())", "is read as the end-of-text token 256"),
    (Tokenizer, "any_text_comes_back_or_is_refused", "list(text.encode())", "text.split()", "no list of whole numbers"),
    (Tokenizer, "any_text_comes_back_or_is_refused", "list(text.encode())", "list(text.encode('ascii'))", "it refuses text that it was fitted on"),
    (Tokenizer, "any_text_comes_back_or_is_refused", "list(text.encode())", "list(text.encode()) if text.isascii() or text[:2] == 'na' else (_ for _ in ()).throw(ValueError())", "without a word: raise ValueError(what, where)"),
    (Tokenizer, "ids_are_below_vocab_size", "vocab_size = 257\n    eot_id", "vocab_size = '257'\n    eot_id", "no positive int"),
    (Tokenizer, "ids_are_below_vocab_size", "eot_id = 256\n    def encode", "eot_id = 300\n    def encode", "vocab_size 257 must count it"),
    (Tokenizer, "every_id_has_a_text", '.decode("utf-8", "replace")', "", "no str"),
    (Tokenizer, "what_is_saved_comes_back", "    def load(self, folder):\n", "    def load(self, folder):\n        self.encode = lambda text: [0]\n", "save all that encode and decode need"),
    (Tokenizer, "it_can_be_sent_to_a_worker", "    def fit", "    def __setstate__(self, state):\n        self.encode = lambda text: [0]\n    def fit", "pickled and back, it has other ids"),
    # datasets
    (Dataset, "making_it_touches_nothing", "    entropy_floor", "        import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')\n    entropy_floor", "fails without a network"),
    (Dataset, "making_it_touches_nothing", "    entropy_floor", "        print('made')\n    entropy_floor", "prints 'made'"),
    (Dataset, "both_splits_have_something", 'start = 0 if split == "train" else 1000', 'start = 0 if split == "train" else 1000\n        if start: return []', "the split 'val' is empty"),
    (Dataset, "every_pass_is_the_same", 'f"line {i}"', 'f"line {i} {__import__(\'random\').random()}"', "two passes over 'train'"),
    (Dataset, "every_pass_is_the_same", "return (f\"line {i}\" for i in range(start, start + self.config.lines))", "self.all = getattr(self, 'all', iter([f'line {start + i}' for i in range(9)]))\n        return self.all", "start anew on every call"),
    (Dataset, "train_and_val_share_nothing", 'start = 0 if split == "train" else 1000', 'start = 0 if split == "train" else 19', "document 0 of 'val' is in 'train' as well (1 are)"),
    (Dataset, "without_a_network_it_says_so_in_one_line", 'start = 0 if split == "train" else 1000', "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9'); start = 0", "raise UserError with what is missing"),
    (Dataset, "without_a_network_it_says_so_in_one_line", 'start = 0 if split == "train" else 1000', "from pealm_core import cache_root; (cache_root() / 'half').touch(); raise UserError('no network')", "a failed download leaves half"),
    (Dataset, "what_it_knows_of_itself_is_right", "entropy_floor = 0.5", "def entropy_floor(self): return 0.5", "a positive number of nats per character, no method"),
    (Shards, "what_it_knows_of_itself_is_right", "vocab_size = 100", "vocab_size = 49", "has id 49, and vocab_size is 49"),
    (Shards, "train_and_val_share_nothing", ' + (split == "val")', "", "document 0 of 'val' is in 'train'"),
    (Dataset, "both_splits_have_something", '(f"line {i}" for i in range(start, start + self.config.lines))', 'f"line {start}"', "give a list or iterator of texts"),
    (Dataset, "both_splits_have_something", '(f"line {i}" for', "(i for", "no str"),
    (Dataset, "both_splits_have_something", 'start = 0 if split == "train" else 1000', "raise UserError('lines.txt is not there')", "its documents can't be read: lines.txt is not there"),
    (Dataset, "without_a_network_it_says_so_in_one_line", 'start = 0 if split == "train" else 1000', "raise UserError('gone' + chr(10) + 'and lost')", "it says more than a line"),
    (Shards, "both_splits_have_something", "np.arange(50)", "np.arange(50.0)", "shards are 1-D and of whole numbers"),
    # evaluations
    (Evaluator, "making_it_touches_nothing", "    def evaluate", "        print('made')\n    def evaluate", "prints 'made'"),
    (Evaluator, "the_result_is_well_formed", "/ tokens, 0.0)}", "/ tokens)}", "no (value, stderr)"),
    (Evaluator, "the_result_is_well_formed", "n=len(texts)", "n=0", "how many things were scored"),
    (Evaluator, "a_known_score", "/ tokens, 0.0)", "/ len(scores), 0.0)", "5.54908 is expected"),
    (Evaluator, "the_same_model_gets_the_same_score", "/ tokens, 0.0)", "/ tokens + __import__('time').perf_counter_ns(), 0.0)", "draw with a seed of its own"),
    (Evaluator, "the_model_stays_as_it_is", "texts = [f", "model.train()\n        texts = [f", "leaves the model in train mode"),
    (Evaluator, "the_model_stays_as_it_is", "texts = [f", "torch.rand(1)\n        texts = [f", "draws from torch's global generator"),
    (Evaluator, "progress_goes_forward", "requests, progress=progress)", "requests)", "progress(done, total) is never called"),
    (Evaluator, "the_result_is_well_formed", "config=\"pealm_it_config:Eval\",", "config=\"pealm_it_config:Eval\", input=True,", "evaluate() got an unexpected keyword argument 'dataset'"),
    (Evaluator, "making_it_touches_nothing", "    def evaluate", "        import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')\n    def evaluate", "fails without a network"),
    (Evaluator, "the_result_is_well_formed", "return EvalResult(", "return dict(", "evaluate must give an EvalResult"),
    (Evaluator, "the_result_is_well_formed", '{"nats": (-sum(s.log_prob for s in scores) / tokens, 0.0)}', "{}", "it gives no metric"),
    (Evaluator, "the_result_is_well_formed", "n=len(texts)", "n=len(texts), notes='a text'", "give a list of lines"),
    (Evaluator, "the_result_is_well_formed", "/ tokens, 0.0)", "/ tokens, -1.0)", "a standard error of 0 or more"),
    (Evaluator, "a_known_score", '{"nats": (', '{"bits": (', "there is no metric 'nats', but bits"),
    (Evaluator, "the_model_stays_as_it_is", "texts = [f", "next(model.parameters()).grad = torch.zeros(())\n        texts = [f", "evaluate under inference_mode"),
    (Evaluator, "the_model_stays_as_it_is", "texts = [f", "next(model.parameters()).data += 1\n        texts = [f", "it changes the model's weights"),
    (Evaluator, "progress_goes_forward", "requests, progress=progress)", "requests)\n        progress(9, 5)", "progress says (9, 5) (done, total)"),
    (Evaluator, "progress_goes_forward", "requests, progress=progress)", "requests)\n        progress(2, 5)\n        progress(1, 5)", "progress runs backwards"),
    # optimizers
    (Optimizer, "it_takes_every_parameter_once", "if p.requires_grad], {", "if p.requires_grad and p.dim() > 1], {", "linear.bias is in 0 groups"),
    (Optimizer, "it_minimises_a_quadratic", "p.sub_(", "p.add_(", "is the sign right?"),
    (Optimizer, "a_rate_of_zero_changes_nothing", "p.sub_(group", "p.mul_(0.999)\n                p.sub_(group", "use group['lr'] in each step"),
    (Optimizer, "it_goes_on_bit_for_bit", "self.state[p].setdefault", "vars(self).setdefault('mine', {}).setdefault(p, {}).setdefault", "keep all state in self.state[p]"),
    (Optimizer, "a_parameter_without_a_gradient_is_left_alone", "if p.grad is None:\n                    continue", "pass", "skip those"),
    (Optimizer, "it_takes_every_parameter_once", "class Sgd(torch.optim.Optimizer):\n", "class Sgd(torch.optim.Optimizer):\n    def __new__(cls, *args, **kwargs):\n        return 'sgd'\n", "must give a torch.optim.Optimizer"),
    (Optimizer, "it_takes_every_parameter_once", OWN, OWN.replace("[p for p in model.parameters() if p.requires_grad]", "list(model.parameters())") + "                p.mul_(0.9)\n", "requires_grad=False: leave those out"),
    (Optimizer, "it_takes_every_parameter_once", '"lr"', '"rate"', "a group has no `lr` for the schedule to set"),
    (Optimizer, "it_goes_on_bit_for_bit", "mean = self.state[p]", "self.state[p]['how'] = object()\n                mean = self.state[p]", "it holds tensors, numbers and text"),
    (Optimizer, "a_parameter_without_a_gradient_is_left_alone", "if p.grad is None:\n", "if p.grad is None:\n                    p.mul_(0.9)\n", "it changes a parameter without a gradient"),
    # formats
    (Format, "there_and_back_gives_the_same_logits", "torch.from_numpy(v) for", "torch.from_numpy(v) * (k != 'mix.bias') for", "compare the state dicts name by name"),
    (Format, "there_and_back_gives_the_same_logits", "{k: torch.from_numpy(v) for k, v in np.load(source / \"w.npz\").items()}", "{}", "can't be loaded"),
    (Format, "what_is_there_is_not_overwritten", "check_free(target)\n    target.mkdir()", "target.mkdir(exist_ok=True)", "the exporter writes into a folder that holds something"),
    (Format, "what_is_there_is_not_overwritten", "check_free(target)\n    target.mkdir()", "(source / 'x').touch()\n    check_free(target)\n    target.mkdir()", "changes the checkpoint that it reads"),
    (Format, "a_folder_of_something_else_is_refused", '    if not (source / "w.npz").exists():\n        raise UserError(f"{source} has no w.npz")\n', "", "raises FileNotFoundError on a folder of something else"),
    (Format, "a_folder_of_something_else_is_refused", '    if not (source / "w.npz").exists():', '    target.mkdir()\n    if not (source / "w.npz").exists():', "a failed import leaves a folder"),
    (Format, "what_is_there_is_not_overwritten", "check_free(target)\n    target.mkdir()", "target.mkdir(exist_ok=True)\n    (target / 'x').touch()\n    if (target / 'diary.txt').exists():\n        raise UserError('full')", "and leaves something in it"),
    (Format, "a_folder_of_something_else_is_refused", '        raise UserError(f"{source} has no w.npz")', "        return", "takes a folder that holds nothing of its format"),
    (Format, "a_folder_of_something_else_is_refused", '{source} has no w.npz', '{source}{chr(10)}has no w.npz', "it says more than a line"),
    # commands
    (Command, "it_is_a_click_command", "@click.command()\n@click.option(\"--times\", type=int, default=1, help=\"How often.\")\n", "", "decorate the function with @click.command()"),
    (Command, "help_is_there_and_light", "import click\n", "import click\nimport numpy\n", "--help loads numpy"),
    (Command, "help_is_there_and_light", '    """Say it."""\n', "", "give the function a docstring"),
    (Command, "help_is_there_and_light", ', help="How often."', "", "--times has no help"),
    (Command, "a_mistake_is_one_line", "@click.command()", "@click.command(context_settings={'ignore_unknown_options': True, 'allow_extra_args': True})", "leave wrong options to click"),
    (Command, "it_runs", 'click.echo("it " * times)', "raise SystemExit(4)", "ends with 4"),
    (Command, "help_is_there_and_light", "@click.command()", "@click.command(add_help_option=False)", "--help ends with 2"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kit", "check", "old", "new", "words"), CASES, ids=[f"{c[0].__name__}-{c[1]}-{i}" for i, c in enumerate(CASES)]
)
def test_what_breaks_it_is_told(
    kit: type[Conformance], check: str, old: str, new: str, words: str, plug: Callable[..., None]
) -> None:
    plug(old, new)
    with pytest.raises(AssertionError) as failure:
        getattr(kit(), f"test_{check}")()
    message = str(failure.value)
    assert words in message and len(message) > 20, message


RANK = "(torch.distributed.get_rank() if torch.distributed.is_initialized() else 0)"
SLOW_CASES: list[tuple[type[Conformance], str, str, str, str]] = [
    (Evaluator, "two_processes_get_the_same_score", "/ tokens, 0.0)", f"/ tokens + {RANK}, 0.0)", "on rank 1 of two"),
    (Evaluator, "two_processes_get_the_same_score", "texts = [f", f"1 / (1 - {RANK})\n        texts = [f", "rank 1 of 2 failed: ZeroDivisionError: division by zero"),
    (Model, "two_processes_learn_what_one_does", HEAD, f"{HEAD} * (1 + {RANK})", "without dropout, a loss that is the mean"),
    (Model, "a_compiled_one_gives_the_same_loss", HEAD, f"{HEAD} * (9 if torch.compiler.is_compiling() else 1)", "torch.compile gives a loss of"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kit", "check", "old", "new", "words"), SLOW_CASES, ids=[f"{case[1]}-{i}" for i, case in enumerate(SLOW_CASES)]
)
def test_what_breaks_it_among_processes_or_compiled_is_told(
    kit: type[Conformance], check: str, old: str, new: str, words: str, plug: Callable[..., None]
) -> None:
    plug(old, new)
    slow = type(kit.__name__, (kit,), {"slow": True})
    with pytest.raises(AssertionError) as failure:
        getattr(slow(), f"test_{check}")()
    assert words in str(failure.value) and "gloo" not in str(failure.value), str(failure.value)


def test_every_check_is_seen_to_fail() -> None:
    covered = {(kit, f"test_{check}") for kit, check, *_ in (*CASES, *SLOW_CASES)}
    shared = set(checks(Conformance))
    for kit in KITS:
        if kit is Shards:
            continue
        for name in set(checks(kit)) - shared:
            assert (kit, name) in covered, f"{kit.__name__}.{name}"
    assert {name for _, name in covered} >= shared


@pytest.mark.parametrize("kit", KITS, ids=lambda kit: kit.__name__)
def test_every_check_says_what_it_catches(kit: type[Conformance]) -> None:
    for name in checks(kit):
        doc: Any = getattr(kit, name).__doc__
        assert doc and doc.startswith("Catches "), name


def test_a_plugin_that_is_not_there_is_told() -> None:
    class Missing(ModelConformance):
        spec = "no-such-model"

    with pytest.raises(AssertionError, match="Is the plugin installed"):
        Missing().test_shapes()


def test_a_plugin_that_did_not_load_is_told(plug: Callable[..., None]) -> None:
    plug("@hookimpl\ndef pealm_models", "def pealm_models")
    with pytest.raises(AssertionError, match="is not marked @hookimpl"):
        Model().test_shapes()


def test_an_evaluation_of_documents_that_finds_none_to_use(plug: Callable[..., None]) -> None:
    """By default the kit's documents may not suit it; where the author gave some, or settings, they must."""
    plug(
        "*, config, progress):\n        texts",
        "*, config, progress):\n        raise UserError('too few verbs')\n        texts",
    )

    class Plain(EvaluatorConformance):
        spec = "e"

    with pytest.raises(SkipTest, match=r"config = \{\.\.\.\} says where: too few verbs"):
        Plain().result()
    for words in ({"texts": ["a"]}, {"config": {"lines": 3}}):
        with pytest.raises(AssertionError, match="it can't evaluate: too few verbs"):
            type("Given", (Plain,), words)().result()


def test_an_evaluation_of_documents_gets_the_kits(plug: Callable[..., None], tmp_path: Path) -> None:
    plug('config="pealm_it_config:Eval",', 'config="pealm_it_config:Eval", input=True,')
    parts = tmp_path / "site-pealm-it" / "pealm_it_parts.py"
    reads = "*, config, progress, dataset, split):\n        if len(list(dataset.documents(split))) < 60:\n"
    parts.write_text(
        parts.read_text().replace("*, config, progress):\n", reads + "            raise UserError('too few')\n")
    )

    class Plain(EvaluatorConformance):
        spec = "e"

    with pytest.raises(SkipTest, match=r"it can't use the kit's documents; texts = \[\.\.\.\] gives others: too few"):
        Plain().result()

    class Given(Plain):
        texts = [f"line {i}" for i in range(60)]

    assert Given().result().n > 0


def test_an_evaluation_gets_documents_of_several_sentences_and_words() -> None:
    texts = EvaluatorConformance.texts
    assert len(set(texts)) == len(texts) > 50 and all(text.endswith("\n") and text.count(".") == 2 for text in texts)
    assert len({text.split()[-1] for text in texts}) >= 4
