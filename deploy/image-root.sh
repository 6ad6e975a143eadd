#!/bin/sh
# Makes the root folder of the image: sh deploy/image-root.sh BINARY FOLDER
# The Dockerfile calls it, and so does the test that runs the result in a chroot.
set -eu
binary=$1
root=$2
mkdir -p "$root/usr/local/bin" "$root/etc/ringway" "$root/tmp"
chmod 1777 "$root/tmp"
cp "$binary" "$root/usr/local/bin/ringway"
# The dynamic loader and what `ldd` lists, at the paths where the loader looks for them.
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
done
# Whom TLS towards endpoints trusts in most bootstraps, at the path that they name.
authorities=/etc/ssl/certs/ca-certificates.crt
if [ -e "$authorities" ]; then
    mkdir -p "$root$(dirname "$authorities")"
    cp -L "$authorities" "$root$authorities"
fi
printf 'root:x:0:0:::\nringway:x:65532:65532:::\n' >"$root/etc/passwd"
printf 'root:x:0:\nringway:x:65532:\n' >"$root/etc/group"
