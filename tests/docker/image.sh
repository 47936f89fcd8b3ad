#!/usr/bin/env bash
# Builds the image without Docker, and runs it as it is meant to run: read-only, as user 10001, without rights.
#
# For a Debian machine and root; `apt-get install buildah debootstrap` first. Docker Hub is not needed: the base is Debian 12's own
# Python, made by debootstrap, in the place of python:3.12-slim-bookworm. A few minutes the first time; CI does not run it.
set -euo pipefail
cd "$(dirname "$0")/../.."
mirror=${MIRROR:-http://deb.debian.org/debian}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if ! buildah inspect --type image localhost/paceline-base >/dev/null 2>&1; then
  debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/base" "$mirror" >"$work/debootstrap.log"
  base=$(buildah from scratch)
  buildah add --quiet "$base" "$work/base" /
  buildah commit --quiet "$base" localhost/paceline-base
  buildah rm "$base" >/dev/null
fi
buildah build --isolation chroot --volume /etc/ssl/certs:/etc/ssl/certs:ro --file docker/Dockerfile \
  --build-arg BASE=localhost/paceline-base --tag localhost/paceline .

container=$(buildah from --pull-never localhost/paceline)
trap 'buildah rm "$container" >/dev/null; rm -rf "$work"' EXIT
root=$(buildah mount "$container")
python3 -c 'import json, sys; print("SBOM:", len(json.load(open(sys.argv[1]))["components"]), "components")' \
  "$root/usr/share/doc/paceline/sbom.json"

cat >"$work/inside" <<'INSIDE'
set -eu
cd /var/lib/paceline
id
paceline --version
! touch /opt/x 2>/dev/null
python3 -c 'import importlib.metadata as m; assert m.packages_distributions()["proxy"] == ["paceline"]'
soon() { for _ in $(seq 50); do healthy "$@" 2>/dev/null && return; sleep 0.2; done; healthy "$@"; }
paceline engine --dialect openai --port 8001 &
engine=$!
soon http://127.0.0.1:8001/health
paceline serve --upstream http://127.0.0.1:8001 --meter simulated &
proxy=$!
soon
paceline load --url http://127.0.0.1:8080 --admin http://127.0.0.1:9464 --dialect openai --requests 8 --rate 4
kill "$proxy"
wait "$proxy"
kill "$engine"
echo "the image is good"
INSIDE

export root work
unshare --mount --net --pid --fork --kill-child --mount-proc bash -euc '
  mount --make-rprivate /
  mount --bind "$root" "$root" && mount -o remount,bind,ro "$root"
  mount -t proc proc "$root/proc" && mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp" && cp "$work/inside" "$root/tmp/inside" && chmod 0755 "$root/tmp/inside"
  mount -t tmpfs -o uid=10001,gid=10001,mode=0750 tmpfs "$root/var/lib/paceline"
  python3 -c "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sH14x\", b\"lo\", 0x41))"
  exec chroot --userspec=10001:10001 --groups= "$root" env -i PATH=/opt/paceline/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/lib/paceline PYTHONDONTWRITEBYTECODE=1 sh /tmp/inside'
