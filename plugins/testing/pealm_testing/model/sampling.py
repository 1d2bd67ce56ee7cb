"""Checks of sampling: the key-value cache, and prompts of any length."""

from typing import Any
from unittest import SkipTest

import torch

from pealm_core import Sampling, generate_ids, score
from pealm_testing.core import has
from pealm_testing.errors import ConformanceError
from pealm_testing.model.base import ModelKit, call


class SamplingChecks(ModelKit):
    """Checks of sampling."""

    @torch.no_grad()
    def test_cache_gives_the_same_logits(self) -> None:
        """Catches a cache that changes generated text or scores: wrong positions, masks or order of rows."""
        model = self.noisy()
        if not has(model, "make_cache"):
            raise SkipTest("it has no make_cache; sampling recomputes the whole context for each token")
        block, atol = model.config.block_size, 10 * self.tolerance
        idx, _ = self.batch(model, rows=2, tokens=block)
        logits, _ = call(model, idx)
        for sizes in ([1] * block, [block], [block // 2, 1, block - block // 2 - 1]):
            cache = model.make_cache(2, block)
            parts = [call(model, part, cache=cache)[0] for part in idx.split([n for n in sizes if n], dim=1)]
            worst = (torch.cat(parts, dim=1) - logits).abs().amax(dim=(0, 2))
            if not float(worst.max()) <= atol:
                raise ConformanceError(
                    f"with a cache, in parts of {'1' if set(sizes) == {1} else sizes} tokens, the logits differ from "
                    f"position {int((worst > atol).nonzero()[0])} on (by {float(worst.max()):.2g}): each call "
                    f"appends its T tokens to the cache, and positions continue from its length"
                )
        if block < 2:
            return
        cache = model.make_cache(2, block)
        call(model, idx[:, :1], cache=cache)
        repeated = call(model, idx[:, 1:2].repeat_interleave(3, dim=0), cache=cache.repeat(3))[0]
        if not torch.allclose(repeated, logits[:, 1:2].repeat_interleave(3, dim=0), atol=atol):
            raise ConformanceError(
                "cache.repeat(3) must return a copy with each row three times, in the order of "
                "Tensor.repeat_interleave(3, dim=0)"
            )
        if has(cache, "select"):
            rows = torch.tensor([1, 0, 1])
            selected = call(model, idx[rows, 1:2], cache=cache.select(rows))[0]
            if not torch.allclose(selected, logits[rows, 1:2], atol=atol):
                raise ConformanceError("cache.select(rows) must return a copy of these rows, in this order")
        if not torch.allclose(call(model, idx[:, 1:2], cache=cache)[0], logits[:, 1:2], atol=atol):
            raise ConformanceError("using the result of cache.repeat or select changed the cache: return copies")

        self._scores_are_those_without_a_cache(model, idx)

    def _scores_are_those_without_a_cache(self, model: Any, idx: torch.Tensor) -> None:
        """On a CPU, scoring packs requests into one row of a `KVCache`: two continuations of one beginning."""
        half = idx.shape[1] // 2
        rows = torch.stack([idx[0], torch.cat([idx[0, :half], idx[1, half:]])])
        log_p = call(model, rows)[0].log_softmax(-1)[:, half - 1 : -1]
        wanted = log_p.gather(2, rows[:, half:, None]).sum((1, 2))
        scores = score(model, [(row[:half], row[half:]) for row in rows.tolist()])
        if not torch.allclose(
            torch.tensor([s.log_prob for s in scores]), wanted, rtol=1e-3, atol=10 * self.tolerance
        ):
            raise ConformanceError(
                f"log-likelihoods of two continuations differ with a cache: {[s.log_prob for s in scores]}, not "
                f"{wanted.tolist()}: cache.positions(T) may be any T positions, not only consecutive ones"
            )

    def test_any_context_length(self) -> None:
        """Catches a model that fails on one token, on a full block, or when sampling continues beyond the block."""
        model = self.noisy()
        block = model.config.block_size
        for length in (1, block):
            logits, _ = call(model, self.batch(model, rows=1, tokens=length)[0])
            if not bool(logits.isfinite().all()):
                raise ConformanceError(f"the logits for {length} token(s) are not finite")
        for ids in ([0], list(range(self.vocab_size)) * (block // self.vocab_size + 1)):
            prompt, sampling = ids[: block + 1], Sampling(max_new_tokens=block + 3, temperature=0, num_samples=2)
            texts = [torch.stack(list(generate_ids(model, prompt, sampling, use_cache=use))) for use in (True, False)]
            if not torch.equal(*texts):
                raise ConformanceError(
                    f"after a prompt of {len(prompt)} tokens, greedy sampling with and without the cache differ: see "
                    f"test_cache_gives_the_same_logits"
                )
