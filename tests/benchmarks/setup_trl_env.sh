#!/bin/sh
# Makes .bench-venv at the root of the repository, once, for side (b) of the benchmark: TRL 1.10 and CPU torch, from the
# exact pins in requirements-trl.txt. PYTHON names the Python 3.11 to use. torch is looked for through pip's own
# configuration first, then at PyTorch's index of CPU builds.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
venv="$root/.bench-venv"
pins="$here/requirements-trl.txt"
torch=torch==2.13.0+cpu

cmp -s "$pins" "$venv/installed.txt" && exit 0

echo "bench: making .bench-venv with TRL 1.10, once"
rm -rf "$venv"
"${PYTHON:-python3.11}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@" >>"$venv/setup.log" 2>&1; }
pip install --no-deps "$torch" || pip install --no-deps "$torch" --extra-index-url https://download.pytorch.org/whl/cpu || {
    echo "bench: $torch could not be installed; the reason is in $venv/setup.log" >&2
    exit 2
}
pip install --no-deps -r "$pins" || {
    echo "bench: the pins of TRL 1.10 could not be installed; the reason is in $venv/setup.log" >&2
    exit 2
}
cp "$pins" "$venv/installed.txt"
