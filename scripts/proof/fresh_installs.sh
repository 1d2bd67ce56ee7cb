#!/usr/bin/env bash
# Install each distribution from its wheel into a new, empty environment, and check that it works alone.
#
#   scripts/proof/fresh_installs.sh                      # all; an hour if the download of torch is slow
#   scripts/proof/fresh_installs.sh pealm-gpt2 pealm-pea # some
#
# Wheels are built from this checkout. Dependencies on each other come from these wheels, all others from pip's index
# (with its cache, and the pins of constraints.txt). Checked in each environment: our distributions in it are exactly
# those that the metadata requires; `pip check`; `pealm --help` and `python -m pealm` work; every plugin loads and passes
# `pealm plugins check`. `pealm-pea` installs no torch. tests/examples/test_alone.py is a quick version of this.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
python=${PYTHON:-$root/.venv/bin/python}
home=$(mktemp -d -t fresh-installs.XXXXXX)
trap 'rm -rf "$home"' EXIT
export PEALM_CACHE=$home/cache PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf '%s\n' "$*"; }

PYTHON=$python scripts/release --draft "$home/wheels" >"$home/build.log" || { cat "$home/build.log"; exit 1; }

# One line for each distribution: its name, then all of ours that it requires, directly or indirectly.
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
    closure, todo = set(), [name]
    while todo:
        one = todo.pop()
        if one in needs and one not in closure:
            closure.add(one)
            todo += needs[one]
    print(name, *sorted(closure))
PYTHON

# Constrain our names to these wheels, because an index may have other projects under the same names.
for wheel in "$home"/wheels/*.whl; do
    name=${wheel##*/}
    name=${name%%-*}
    printf '%s @ file://%s\n' "${name//_/-}" "$wheel"
done >"$home/ours.txt"

# `check` runs in a shell of its own, because bash ignores `set -e` in a function called as a condition.
check() { # check NAME CLOSURE...
    "$python" -m venv "$venv"
    "$venv/bin/pip" install --find-links "$home/wheels" -c "$home/ours.txt" -c constraints.txt "$1"
    "$venv/bin/pip" check
    cd "$home"
    local ours plugin names
    ours=$("$venv/bin/pip" freeze | sed -n 's/^\(pealm[a-z0-9-]*\) .*/\1/p' | sort | xargs)
    if [[ $ours != "$(printf '%s\n' "${@:2}" | sort | xargs)" ]]; then
        echo "installed of ours: $ours; required: ${*:2}"
        return 1
    fi
    if [[ $1 == pealm-pea ]]; then
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
