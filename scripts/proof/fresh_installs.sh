#!/usr/bin/env bash
# Every distribution, installed alone from its wheel into an environment of its own with nothing else in it.
#
#   scripts/proof/fresh_installs.sh                      # all of them, an hour where torch comes over a slow line
#   scripts/proof/fresh_installs.sh pealm-gpt2 pea       # some
#
# Wheels are built from this checkout; what they need of each other comes from these wheels, the rest from pip's usual
# index (with its cache, and the pins of constraints.txt). In each environment: the distributions of ours are exactly
# those that its metadata asks for; `pip check`; `pealm --help` and `python -m pealm` work; every plugin is ok and keeps
# the contract (`pealm plugins check`). `pea` comes without torch. The cheap version is tests/examples/test_alone.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
home=$(mktemp -d -t fresh-installs.XXXXXX)
trap 'rm -rf "$home"' EXIT
export PEALM_CACHE=$home/cache PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

PYTHON=$python scripts/release --draft "$home/wheels" >"$home/build.log" || { cat "$home/build.log"; exit 1; }

# Name, and those of ours that it asks for, directly or through others.
"$python" - "$home/wheels" >"$home/closures" <<'PYTHON'
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

needs = {}
for wheel in sorted(Path(sys.argv[1]).glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        about = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        head = Parser().parsestr(archive.read(about).decode())
    parsed = [Requirement(line) for line in head.get_all("Requires-Dist", [])]
    needs[head["Name"]] = {r.name for r in parsed if r.marker is None or r.marker.evaluate({"extra": ""})}
for name in needs:
    found, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one in needs and one not in found:
            found.add(one)
            todo += needs[one]
    print(name, *sorted(found))
PYTHON

# Ours are these wheels and no others: an index may have something else under one of the names.
for wheel in "$home"/wheels/*.whl; do
    name=${wheel##*/}
    name=${name%%-*}
    printf '%s @ file://%s\n' "${name//_/-}" "$wheel"
done >"$home/ours.txt"

# In a shell of its own: where a command is a condition, bash forgets `set -e` in all of it.
check() { # check NAME CLOSURE...
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --find-links "$home/wheels" -c "$home/ours.txt" -c constraints.txt "$1"
    "$venv/bin/pip" check
    cd "$home"
    local ours plugin names
    ours=$("$venv/bin/pip" freeze | sed -n 's/^\(pea\|pealm[a-z0-9-]*\) .*/\1/p' | sort | xargs)
    if [[ $ours != "$(printf '%s\n' "${@:2}" | sort | xargs)" ]]; then
        echo "of ours it has $ours, and asks for ${*:2}"
        return 1
    fi
    if [[ $1 == pea ]]; then
        "$venv/bin/python" -c 'from pea import Value; a = Value(3.0); (a * a).backward(); assert a.grad == 6'
        "$venv/bin/python" -c 'import importlib.util as u; assert u.find_spec("torch") is None'
        return
    fi
    "$venv/bin/pealm" --help
    "$venv/bin/python" -m pealm --version
    "$venv/bin/pealm" plugins
    names=$("$venv/bin/pealm" plugins --json | "$venv/bin/python" -c '
import json, sys
rows = json.load(sys.stdin)
assert all(row["status"] == "ok" for row in rows), rows
print(*(row["dist"] for row in rows))')
    "$venv/bin/pip" install --find-links "$home/wheels" -c "$home/ours.txt" -c "$OLDPWD/constraints.txt" pealm-testing
    for plugin in $names; do "$venv/bin/pealm" plugins check "$plugin"; done
}
venv=$home/env
export -f check
export home venv python

failed=0
while read -r name closure; do
    if (($# > 0)) && [[ " $* " != *" $name "* ]]; then continue; fi
    rm -rf "$venv"
    read -ra names <<<"$closure"
    if bash -euo pipefail -c 'check "$@"' check "$name" "${names[@]}" >"$home/$name.log" 2>&1 </dev/null; then
        say "ok      $name: ${#names[@]} of ours, $("$venv/bin/pip" freeze | wc -l) distributions in all"
    else
        say "FAILED  $name:"
        tail -n 15 "$home/$name.log"
        failed=1
    fi
done <"$home/closures"
exit "$failed"
