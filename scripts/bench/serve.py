"""A server under load: clients that stream, beside transformers' `generate` on a model of the same shape.

    python scripts/bench/serve.py                       32 clients for a minute
    python scripts/bench/serve.py --clients 4 --seconds 3 --rounds 1

Starts `pealm serve` and sends one request after another from every client: texts of 8 to 64 tokens, streamed. Rounds
alternate with transformers' `generate` (greedy, in this process, without HTTP, while the server rests): one text at
a time, and as many as there are clients, all of the same length. Prints tokens a second and the ratios, the processor
time of a token, failed requests, the time to the first token beside a fair share (what a lone client waits for it,
and the time in which each client gets a token), the least and the most tokens of a client, and the server's memory
while it has no request: before and after all rounds, and at its start; and its largest memory.

The rounds follow a warm-up: one request each of 1, 2, 3, ... clients at the same time, then a load of twenty requests
of each client. The memory grows until every batch size has occurred, mostly because oneDNN keeps the kernels that it
compiles for each: for `weights/gpt2-shakespeare` by about 2.2 MB a size.
"""

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

WEIGHTS = Path(__file__).parents[2] / "weights"
PROMPT = "ROMEO:\n"


@dataclass
class Client:
    """What one client has got in a round."""

    tokens: int = 0
    requests: int = 0
    errors: list[str] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)  # seconds to the first token

    def work(self, host: str, until: float, chance: Random) -> None:
        """Send requests one after another, at least one, until a time; each stream is read to its end."""
        while True:
            try:
                self._stream(host, chance.randint(8, 64))
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
            if time.perf_counter() >= until:
                return

    def _stream(self, host: str, tokens: int) -> None:
        connection = http.client.HTTPConnection(host, timeout=60)
        started, first = time.perf_counter(), True
        body = json.dumps({"prompt": PROMPT, "max_tokens": tokens, "stream": True, "temperature": 0})
        connection.request("POST", "/v1/completions", body)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"status {answer.status}: {answer.read().decode()}")
        ended = False
        for line in answer:
            if line.startswith(b"data: {"):
                if first:
                    self.firsts.append(time.perf_counter() - started)
                first = False
                self.tokens += 1
            ended = ended or line.startswith(b"data: [DONE]")
        if not ended:
            raise ValueError("the stream was cut")
        self.requests += 1
        connection.close()


def load(host: str, clients: int, seconds: float) -> tuple[list[Client], float]:
    """Run the clients; return them, and the seconds until the last one ended."""
    started = time.perf_counter()
    made = [Client() for _ in range(clients)]
    threads = [
        threading.Thread(target=client.work, args=(host, started + seconds, Random(number)))
        for number, client in enumerate(made)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made, time.perf_counter() - started


def memory(process: int, host: str) -> tuple[float, float]:
    """Return the megabytes of a server's memory when it has no request, and the most that it has had."""
    while json.loads(urllib.request.urlopen(f"http://{host}/health").read())["active"]:
        time.sleep(0.05)
    time.sleep(2)  # after a second the server returns what is free to the system
    status = Path(f"/proc/{process}/status").read_text()
    now, most = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


def processor_time(process: int) -> float:
    """Return the seconds that a process has computed, on all cores."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def peer() -> Any:
    """Return transformers' model of the shape of weights/gpt2-shakespeare, with other weights."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=1024, n_positions=128, n_embd=192, n_layer=4, n_head=4, bos_token_id=None, eos_token_id=None
    )
    return GPT2LMHeadModel(config).train(False)


def peer_speed(model: Any, seconds: float, texts: int) -> float:
    """Return the tokens a second of `generate`, 64 at a time for each of some texts."""
    import torch

    ids, tokens = torch.ones(texts, 3, dtype=torch.long), 0
    how = {"max_new_tokens": 64, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}
    started = time.perf_counter()
    with torch.inference_mode():
        while (spent := time.perf_counter() - started) < seconds:
            tokens += texts * (model.generate(ids, **how).shape[1] - 3)
    return tokens / spent


def main() -> int:
    """Measure, print, and return 1 if a request failed or the memory at rest grew by more than 2 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60, help="of load, over all rounds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ckpt", default=str(WEIGHTS / "gpt2-shakespeare"))
    args = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "pealm_core._pealm",
        "serve",
        "--port",
        "0",
        "--device",
        "cpu",
        "--ckpt",
        args.ckpt,
    ]
    other, all_clients, speeds, sizes = peer(), list[Client](), list[float](), list[tuple[float, float]]()
    peers: dict[int, list[float]] = {1: [], args.clients: []}
    shares = [[0] * args.clients for _ in range(args.rounds)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        address = re.search(r"http://(\S+)", line)
        if address is None:
            print(line + server.stderr.read())
            return 1
        try:
            sizes.append(memory(server.pid, address[1]))
            warm = 0
            for number in range(1, args.clients + 1):  # every batch size
                clients, _ = load(address[1], number, 0)
                warm += sum(client.requests for client in clients)
            enough = warm + 20 * args.clients
            while warm < enough and not any(client.errors for client in clients):
                clients, _ = load(address[1], args.clients, args.seconds / args.rounds)
                warm += sum(client.requests for client in clients)
            sizes.append(memory(server.pid, address[1]))
            for texts in peers:
                peer_speed(other, 0.01, texts)  # the first call also loads what it needs
            (lone,), _ = load(address[1], 1, min(5.0, args.seconds / args.rounds))
            computed = processor_time(server.pid)
            for number in range(args.rounds):
                for texts, values in peers.items():
                    values.append(peer_speed(other, min(5.0, args.seconds / args.rounds), texts))
                clients, spent = load(address[1], args.clients, args.seconds / args.rounds)
                all_clients += clients
                shares[number] = [client.tokens for client in clients]
                speeds.append(sum(shares[number]) / spent)
            computed = processor_time(server.pid) - computed
            sizes.append(memory(server.pid, address[1]))
        finally:
            server.terminate()
            log = server.stderr.read()
    errors = [error for client in (lone, *all_clients) for error in client.errors]
    firsts = sorted(first for client in all_clients for first in client.firsts)
    (start, _), (before, _), (after, most) = sizes
    growth = after / before - 1
    print(f"{args.clients} clients, {sum(c.requests for c in all_clients):,} requests, {len(errors)} failed")
    print(f"pealm serve         {median(speeds):8,.0f} tokens/s ({min(speeds):,.0f} to {max(speeds):,.0f})")
    print(f"processor time      {1000 * computed / sum(map(sum, shares)):8.2f} ms a token, on all cores")
    for texts, values in peers.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds, values, strict=True)]
        low, high = min(values), max(values)
        print(f"transformers, B ={texts:3} {median(values):8,.0f} tokens/s ({low:,.0f} to {high:,.0f})")
        print(f"ratio               {median(ratios):8.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    alone, turn = 1000 * median(lone.firsts), 1000 * args.clients / median(speeds)
    late = 1000 * firsts[int(0.95 * len(firsts))]
    print(f"first token         {1000 * median(firsts):8.1f} ms median, {late:.1f} ms at 95 %")
    print(f"a fair share        {alone + turn:8.1f} ms: {alone:.1f} alone, and {turn:.1f} for a token of each client")
    print(f"tokens of a client  {min(map(min, shares)):8,} to {max(map(max, shares)):,} in a round")
    print(f"memory at rest      {before:8.1f} MB, after the load {after:.1f} MB ({100 * growth:+.1f} %)")
    print(f"                    {start:8.1f} MB before the warm-up of {warm} requests; at most {most:.1f} MB")
    print("\n".join([*errors[:5], log.strip()]).strip())
    return 1 if errors or growth > 0.02 or "Traceback" in log else 0


if __name__ == "__main__":
    sys.exit(main())
