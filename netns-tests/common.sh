# For the scripts beside it and .ci/run: what the namespace lab needs of the machine. Sourced, not run.
# shellcheck shell=bash

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Under sudo, find the toolchain of the user who called it.
user_home=$HOME
if [ -n "${SUDO_USER:-}" ]; then
    user_home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    export CARGO_HOME="${CARGO_HOME:-$user_home/.cargo}" RUSTUP_HOME="${RUSTUP_HOME:-$user_home/.rustup}"
fi
export PATH="$PATH:$user_home/.cargo/bin:/usr/local/cargo/bin:/usr/sbin:/sbin"

say() { printf '==> %s\n' "$*"; }

stop() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    printf 'fix it with: %s\n' "$2" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

need_root() {
    [ "$(id -u)" -eq 0 ] || stop 'network namespaces need root' "sudo $*"
}

need_tun() {
    [ -c /dev/net/tun ] && : 2>/dev/null <>/dev/net/tun && return
    if [ -e /dev/net/tun ]; then
        stop '/dev/net/tun is there but cannot be opened' 'sudo modprobe tun   (in a container: start it with --device /dev/net/tun --privileged)'
    fi
    stop 'there is no /dev/net/tun' 'sudo modprobe tun   (in a container: start it with --device /dev/net/tun --privileged)'
}

need_namespaces() {
    local probe="lab$$x0-probe"
    if ! ip netns add "$probe" 2>/dev/null; then
        stop 'this machine does not let root make network namespaces' "run it on the machine itself, or in a container started with --privileged"
    fi
    ip netns del "$probe"
}

need_cargo() {
    command -v cargo >/dev/null || stop 'there is no Rust toolchain' 'sudo apt-get install curl gcc && curl -sSf https://sh.rustup.rs | sh'
    command -v cc >/dev/null || need_packages cc:gcc libc6-dev
}

# need_packages PROGRAM:PACKAGE... installs the Debian packages whose program is missing, saying so first.
need_packages() {
    local pair missing=()
    for pair in "$@"; do
        if [ "$pair" = "${pair%%:*}" ] || ! command -v "${pair%%:*}" >/dev/null; then missing+=("${pair#*:}"); fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || stop "these programs are missing, and this is not Debian: ${missing[*]}" 'install them with the package manager of this system'
    say "installing from Debian: ${missing[*]}"
    if ! { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null; }; then
        stop 'the packages could not be installed' "sudo apt-get update && sudo apt-get install ${missing[*]}"
    fi
}

# Routers come with services that would run on the machine itself. The lab starts its own, in its namespaces.
need_routers() {
    local policy=/usr/sbin/policy-rc.d unit made='' failed=''
    if command -v babeld >/dev/null && command -v bird >/dev/null && command -v miniupnpd >/dev/null; then return; fi
    # Debian's way to install without starting (invoke-rc.d(8)).
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
        made=1
    fi
    (need_packages babeld:babeld bird:bird2 miniupnpd:miniupnpd-nftables) || failed=1
    [ -z "$made" ] || as_root rm "$policy"
    [ -z "$failed" ] || exit 1
    [ -d /run/systemd/system ] || return 0
    for unit in babeld bird miniupnpd; do as_root systemctl --quiet disable "$unit"; done
}

need_lab() {
    need_packages ip:iproute2 ping:iputils-ping nft:nftables iperf3:iperf3 tcpdump:tcpdump ethtool:ethtool \
        conntrack:conntrack wireguard-go:wireguard-go wg:wireguard-tools sysctl:procps setpriv:util-linux systemd-analyze:systemd \
        faketime:faketime dbus-daemon:dbus-daemon
    need_routers
    need_tun
    need_namespaces
}

# What root has built belongs to the user who called sudo, or the user's next build fails.
give_back() {
    if [ -n "${SUDO_UID:-}" ]; then
        for directory in target "$CARGO_HOME/registry" "$CARGO_HOME/git"; do
            [ ! -d "$directory" ] || chown -R "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" "$directory"
        done
    fi
}
trap give_back EXIT

has_nextest() { cargo nextest --version >/dev/null 2>&1; }
