#!/usr/bin/env bash
# Training on two hosts, of which one is lost in the middle and comes back. Each host is a network namespace of its own,
# joined to the other by a virtual cable; both see the same disk. Needs root, Linux and `ip` (package iproute2).
#
#   sudo scripts/proof/two_hosts.sh
#
# 1. Both hosts train undisturbed.
# 2. The second host is killed in the middle (torchrun and its worker, SIGKILL) and its command started again: the
#    first host's torchrun has waited, and both resume from the newest checkpoint.
# 3. The second host loses its power, and comes back with empty memory.
# 4. The first host is killed. It keeps torchrun's store, so that the second's torchrun ends by itself; the commands
#    of both are started again.
# All must end with the same losses, every step once. Namespaces and files are removed at the end, whatever happens.
set -euo pipefail

die() {
    printf 'two hosts: %s\n' "$1" >&2
    exit 1
}

[[ $(uname) == Linux ]] || die "network namespaces need Linux"
((EUID == 0)) || die "making network namespaces needs root: sudo $0"
command -v ip >/dev/null || die "needs the command ip: apt-get install iproute2 (Debian, Ubuntu), dnf install iproute"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export PATH="$root/.venv/bin:$PATH" OMP_NUM_THREADS=1
command -v torchrun >/dev/null || die "needs torchrun and pealm: run scripts/setup first"

steps=600 every=50 port=29400
home=$(mktemp -d -t two-hosts.XXXXXX)
export PEALM_CACHE=$home/cache
host=("pealm-$$-0" "pealm-$$-1") address=(10.77.0.1 10.77.0.2)

clean_up() {
    local status=$? name
    trap - EXIT
    for name in "${host[@]}"; do
        kill_host "$name"
        ip netns delete "$name" 2>/dev/null || true # and with it the end of the cable
    done
    wait 2>/dev/null || true
    if ((status)); then tail -n 20 "$home"/*.log >&2 || true; fi
    rm -rf "$home"
    exit "$status"
}

kill_host() { # every process of a host, at once
    local pids
    pids=$(ip netns pids "$1" 2>/dev/null) || return 0
    [[ -z $pids ]] || xargs kill -KILL <<<"$pids" 2>/dev/null || true
}

trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

plug() { # a cable between the hosts
    local rank
    ip link add eth0 netns "${host[0]}" type veth peer name eth0 netns "${host[1]}"
    for rank in 0 1; do
        ip -n "${host[rank]}" address add "${address[rank]}/24" dev eth0
        ip -n "${host[rank]}" link set lo up
        ip -n "${host[rank]}" link set eth0 up
    done
}

for rank in 0 1; do
    ip netns add "${host[rank]}" || die "the kernel refuses network namespaces; a container needs CAP_SYS_ADMIN"
done
plug
for ((i = 0; i < 2000; i++)); do printf '%d times %d is %d. ' $i $i $((i * i)); done >"$home/book.txt"

pids=("" "")
start() { # start RANK RUN: the same command starts a run and resumes it
    # gloo listens on what the host's name resolves to, which here is none of the namespace's addresses.
    (
        export GLOO_SOCKET_IFNAME=eth0
        ip netns exec "${host[$1]}" torchrun --nnodes=2 --nproc_per_node=1 --node_rank="$1" \
            --master_addr="${address[0]}" --master_port=$port --max-restarts=3 --monitor-interval=0.2 \
            -m pealm train char-transformer --input.text "$home/book.txt" --out "$home/$2" --steps $steps \
            --model.block-size 32 --model.n-layer 1 --model.n-embd 32 --model.n-head 2 --model.dropout 0.1 \
            --batch-size 8 --eval-every 200 --eval-tokens 2048 --save-every $every --warmup-steps 20 || exit $?
    ) >>"$home/$2-host$1.log" 2>&1 &
    pids[$1]=$!
}

say() { printf '%4d s  %s\n' $SECONDS "$1"; }

finish() { # both hosts must end with 0
    wait "${pids[0]}" || die "$1: host 0 ended with $?"
    wait "${pids[1]}" || die "$1: host 1 ended with $?"
}

lines() { wc -l 2>/dev/null <"$home/$1/metrics.jsonl" || echo 0; }

reach() { # reach RUN STEP
    while (($(lines "$1") < $2)); do
        kill -0 "${pids[0]}" "${pids[1]}" 2>/dev/null || die "$1: a host ended before step $2"
        sleep 0.05
    done
}

heard() { grep -h "resuming from" "$home/$1-host0.log" | tail -n 1 | sed "s|$home/||"; }

again() { # again RUN COUNT: wait until the run has resumed COUNT times
    until (($(grep -c "resuming from" "$home/$1-host0.log" || true) >= $2)); do
        kill -0 "${pids[0]}" 2>/dev/null || die "$1: host 0 ended"
        sleep 0.05
    done
}

start 0 straight
start 1 straight
finish straight
say "undisturbed: $(lines straight) steps on hosts ${address[0]} and ${address[1]}, a save every $every"

start 0 one-lost
start 1 one-lost
reach one-lost 270
kill_host "${host[1]}"
wait "${pids[1]}" || true
say "host 1 killed at step $(lines one-lost): torchrun and worker, SIGKILL"
sleep 3
kill -0 "${pids[0]}" || die "host 0 should have waited"
say "host 0 waits: $(ip netns pids "${host[0]}" | wc -l) processes, $(lines one-lost) steps in metrics.jsonl"
start 1 one-lost
say "host 1's command started again"
again one-lost 1
say "$(heard one-lost)"
finish one-lost
say "done: $(lines one-lost) steps"

start 0 power-cut
start 1 power-cut
reach power-cut 330
ip -n "${host[1]}" link set eth0 down # connections are not closed
kill_host "${host[1]}"
wait "${pids[1]}" || true
ip -n "${host[0]}" link delete eth0
ip netns delete "${host[1]}" # and no socket is remembered
say "host 1 lost its power at step $(lines power-cut)"
sleep 5
say "host 0 knows nothing of it: $(lines power-cut) steps in metrics.jsonl"
ip netns add "${host[1]}"
plug
start 1 power-cut
say "host 1 is back, its command started again"
again power-cut 1
say "$(heard power-cut)"
finish power-cut
say "done: $(lines power-cut) steps"

start 0 both-again
start 1 both-again
reach both-again 420
kill_host "${host[0]}"
wait "${pids[0]}" || true
say "host 0 killed at step $(lines both-again)"
code=0
wait "${pids[1]}" || code=$?
((code)) || die "host 1 should have ended with an error"
say "host 1 ended by itself with $code: torchrun's store was on host 0"
start 0 both-again
start 1 both-again
again both-again 1
say "both commands started again; $(heard both-again)"
finish both-again
say "done: $(lines both-again) steps"

python - "$home" $steps <<'END'
import json, sys
from pathlib import Path

home, steps = Path(sys.argv[1]), int(sys.argv[2])

def metrics(run):
    rows = [json.loads(line) for line in (home / run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in rows if row["step"]]

straight = metrics("straight")
assert [row["step"] for row in straight] == list(range(1, steps + 1))
for run in ("one-lost", "power-cut", "both-again"):
    rows = metrics(run)
    assert [row["step"] for row in rows] == list(range(1, steps + 1)), f"{run}: not every step once"
    worst = max(abs(a["loss"] - b["loss"]) / a["loss"] for a, b in zip(straight, rows, strict=True))
    same = "to the last bit" if rows == straight else f"to {worst:.1e}"
    assert worst <= 1e-5, f"{run}: losses differ by {worst}"
    print(f"{run}: every step once, losses equal to the undisturbed run's {same}; {rows[-1]['val_loss']:.6f} at the end")
END
say "two hosts: all as it should be"
