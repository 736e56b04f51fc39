# Shared by the image scripts: the cache, errors, progress, and apt with a state of its own.
#
# Everything is made under $XDG_CACHE_HOME/freehold, first as NAME.part and renamed when whole, so
# that what has its final name is complete. Errors are one sentence on standard error, status 2.
# Trusted: the host's apt configuration and keys. Packages are verified by apt against them.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/freehold
apt_dir=$cache/apt
log=
here=$(cd "$(dirname "$0")" && pwd)

die()
{
    echo "freehold: $*" >&2
    exit 2
}

say()
{
    echo "freehold: $*"
}

# need COMMAND PACKAGE: dies unless the host has the command.
need()
{
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ] ||
        die "making guest images needs $1; install it with: sudo apt-get install $2"
}

# Removes what was not finished; a leftover here never has a final name.
clean_up()
{
    status=$?
    [ -z "$log" ] || rm -f "$log"
    [ -z "${work-}" ] || rm -rf "$work" 2>/dev/null || chmod -R u+rwx "$work" && rm -rf "$work"
    exit "$status"
}

# cache_open MEGABYTES: makes the cache folder, where that much must be free.
cache_open()
{
    mkdir -p "$cache" 2>/dev/null || die "can't make the cache folder $cache; set XDG_CACHE_HOME"
    [ -w "$cache" ] || die "can't write to the cache folder $cache; set XDG_CACHE_HOME"
    free=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
    [ "$free" -ge "$1" ] ||
        die "making this image needs $1 MiB in $cache, where only $free are free;" \
            "make room or set XDG_CACHE_HOME"
    log=$(mktemp)
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

bytes_of()
{
    du -s --block-size=1 "$1" 2>/dev/null | awk '{ print $1 }' || :
}

# step PATH WHAT COMMAND...: runs the command, its output to the log, and shows how many bytes PATH
# has and how many seconds went by.
step()
{
    path=$1 what=$2 begun=$(date +%s)
    shift 2
    "$@" >"$log" 2>&1 </dev/null &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if [ -t 1 ]; then
            printf '\rfreehold: %s: %s bytes, %s s ' "$what" "$(bytes_of "$path")" \
                "$(($(date +%s) - begun))"
        fi
    done
    [ ! -t 1 ] || printf '\r'
    wait "$job" || step_failed "$what"
    say "$what: $(bytes_of "$path") bytes, $(($(date +%s) - begun)) s"
}

step_failed()
{
    free=$(df -Pk "$cache" | awk 'NR == 2 { print $4 }')
    [ "$free" -gt 1024 ] || die "$1: the disk that holds $cache is full; make room, then run again"
    cp "$log" "$cache/failed.log" 2>/dev/null || :
    die "$1: failed: $(grep -iE '^E:|error|fail|cannot' "$log" | head -n 1 | cut -c 1-300)" \
        "(all of it: $cache/failed.log)"
}

# apt_conf FILE: a configuration for apt that leaves the host's state alone and needs no root.
apt_conf()
{
    cat >"$1" <<END
Dir::State "$apt_dir";
Dir::State::lists "$apt_dir/lists";
Dir::State::status "$apt_dir/status";
Dir::Cache "$apt_dir";
Dir::Cache::archives "$apt_dir/archives";
Debug::NoLocking "true";
APT::Sandbox::User "";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Install-Recommends "false";
Acquire::Languages "none";
APT::Keep-Downloaded-Packages "true";
END
}

# The host's own Debian sources, as "deb URI SUITE COMPONENT" lines; other origins are left out.
debian_sources()
{
    apt-get indextargets --format '$(ORIGIN)|$(CREATED_BY)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)' |
        awk -F '|' '$1 == "Debian" && $2 == "Packages" && !seen[$0]++ {
            print "deb", $3, $4, $5 }'
}

# Makes $apt_dir ready, with indexes not older than a day, and $apt_dir/sources.list.
apt_open()
{
    need apt-get apt
    mkdir -p "$apt_dir/lists/partial" "$apt_dir/archives/partial"
    : >"$apt_dir/status"
    apt_conf "$apt_dir/apt.conf"
    export APT_CONFIG="$apt_dir/apt.conf"
    if [ ! -s "$apt_dir/sources.list" ] ||
        [ -z "$(find "$apt_dir/sources.list" -mtime -1)" ]; then
        step "$apt_dir/lists" "fetching Debian's package lists" apt-get update
        debian_sources >"$apt_dir/sources.list.part"
        [ -s "$apt_dir/sources.list.part" ] ||
            die "this host's apt has no Debian source; add one to /etc/apt/sources.list.d"
        mv "$apt_dir/sources.list.part" "$apt_dir/sources.list"
    fi
    # From here on only Debian's own packages are seen.
    {
        echo "Dir::Etc::sourcelist \"$apt_dir/sources.list\";"
        echo 'Dir::Etc::sourceparts "/dev/null";'
        echo 'Dir::Etc::preferences "/dev/null";'
        echo 'Dir::Etc::preferencesparts "/dev/null";'
    } >>"$apt_dir/apt.conf"
}

# package_fetch NAME: downloads one package and verifies it; its path is left in $package.
package_fetch()
{
    version=$(apt-cache show --no-all-versions "$1" | awk '/^Version:/ { print $2 }')
    file=$1_$(echo "$version" | sed 's/:/%3a/')_amd64.deb
    package=$apt_dir/archives/$file
    sum=$(apt-cache show --no-all-versions "$1" | awk '/^SHA256:/ { print $2 }')
    [ -n "$sum" ] || die "Debian's package lists have no $1"
    if ! echo "$sum  $package" | sha256sum --check --status 2>/dev/null; then
        rm -f "$package"
        step "$apt_dir/archives" "fetching $1" \
            sh -c "cd \"\$1\" && exec apt-get download \"\$2\"" sh "$apt_dir/archives" "$1"
        echo "$sum  $package" | sha256sum --check --status ||
            die "fetching $1: the file $package does not have the right checksum"
    fi
}

# The real package behind linux-image-cloud-amd64.
kernel_package()
{
    apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }'
}

# seal FOLDER FILE...: records the checksums of what a script made.
seal()
{
    (cd "$1" && shift && sha256sum "$@" >SHA256SUMS.part && mv SHA256SUMS.part SHA256SUMS)
}

sealed()
{
    [ -f "$1/SHA256SUMS" ] && (cd "$1" && sha256sum --check --status SHA256SUMS 2>/dev/null)
}
