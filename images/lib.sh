# Shared by the image scripts: the cache, errors, progress, and apt with a state of its own.
#
# Everything is made under $XDG_CACHE_HOME/freehold, first as NAME.part and renamed when whole, so
# that what has its final name is complete. Errors are one sentence on standard error, status 2.
# Trusted: the host's apt configuration and keys. Packages are verified by apt against them.

# Debian's ordinary users do not have the folders of mke2fs in theirs.
PATH=$PATH:/usr/sbin:/sbin
cache=${XDG_CACHE_HOME:-$HOME/.cache}/freehold
apt_dir=$cache/apt
log=
job=
work=
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
    command -v "$1" >/dev/null ||
        die "making guest images needs $1; install it with: sudo apt-get install $2"
}

# Ends the step under way, all of its processes, which get 20 s to clean up behind themselves.
job_end()
{
    kill -- "-$job" 2>/dev/null || :
    tries=0
    while kill -0 -- "-$job" 2>/dev/null && [ "$tries" -lt 100 ]; do
        sleep 0.2
        tries=$((tries + 1))
    done
    wait "$job" 2>/dev/null || :
}

# Ends the command under way and removes what was not finished; a leftover never has a final name.
clean_up()
{
    status=$?
    [ -z "$job" ] || job_end
    [ "$status" -lt 128 ] || echo "freehold: stopped; packages fetched so far are kept" >&2
    [ -z "$log" ] || rm -f "$log"
    if [ -n "$work" ]; then
        chmod -R u+rwX "$work" 2>/dev/null || :
        rm -rf "$work"
    fi
    exit "$status"
}

# cache_room MEGABYTES: makes the cache folder, where that much must be free; packages that are
# there already count as room.
cache_room()
{
    mkdir -p "$cache" 2>/dev/null || die "can't make the cache folder $cache; set XDG_CACHE_HOME"
    [ -w "$cache" ] || die "can't write to the cache folder $cache; set XDG_CACHE_HOME"
    free=$(df -Pm "$cache" | awk 'NR == 2 { print $4 }')
    have=$(($(bytes_of "$apt_dir") / 1048576))
    [ "$((free + have))" -ge "$1" ] ||
        die "making this image needs $(($1 - have)) MiB in $cache, where only $free are free;" \
            "make room or set XDG_CACHE_HOME"
}

# cache_open MEGABYTES: cache_room, and this process alone makes images until it ends. When another
# one was at it, this script starts over, since there may be nothing left to do.
cache_open()
{
    cache_room "$1"
    exec 9>"$cache/lock"
    if ! flock -n 9; then
        say "waiting for another process that makes images in $cache"
        flock 9
        exec "$0"
    fi
    log=$(mktemp) || die "can't make a file in ${TMPDIR:-/tmp}"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
}

bytes_of()
{
    du -s --block-size=1 "$1" 2>/dev/null | awk '{ sum = $1 } END { print sum + 0 }'
}

# step PATH WHAT COMMAND...: runs the command, its output to the log, and shows how many bytes PATH
# has and how many seconds went by. A session of its own lets clean_up end all of its processes.
step()
{
    path=$1 what=$2 begun=$(date +%s)
    shift 2
    setsid "$@" >"$log" 2>&1 </dev/null &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        sleep 0.2
        if [ -t 1 ]; then
            printf '\rfreehold: %s: %s bytes, %s s ' "$what" "$(bytes_of "$path")" \
                "$(($(date +%s) - begun))"
        fi
    done
    [ ! -t 1 ] || printf '\r'
    ended=$job job=
    wait "$ended" || step_failed "$what"
    say "$what: $(bytes_of "$path") bytes, $(($(date +%s) - begun)) s"
}

# The line of the log that says best what went wrong: apt's and mmdebstrap's errors come first.
complaint()
{
    { grep -E '^E:' "$log" || grep -iE 'error|fail|cannot' "$log" || tail -n 1 "$log"; } |
        head -n 1 | cut -c 1-300
}

step_failed()
{
    free=$(df -Pk "$cache" | awk 'NR == 2 { print $4 }')
    if [ "$free" -le 1024 ] || grep -q 'No space left on device' "$log"; then
        die "$1: no space left on the disk that holds $cache or ${TMPDIR:-/tmp};" \
            "make room, then run again"
    fi
    cp "$log" "$cache/failed.log" 2>/dev/null || :
    die "$1: failed: $(complaint) (all of it: $cache/failed.log)"
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

# apt-get update ends well even when it fetched nothing; its log tells which it was.
no_sources()
{
    rm -f "$apt_dir/sources.list.part"
    failure=$(grep -E '^[EW]: Failed to fetch' "$log" | head -n 1 | cut -c 1-300)
    [ -z "$failure" ] || die "can't fetch Debian's package lists; is there a network?" \
        "(apt-get says: ${failure#[EW]: })"
    die "this host's apt has no Debian source; add one to /etc/apt/sources.list.d"
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
        [ -s "$apt_dir/sources.list.part" ] || no_sources
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

# How mmdebstrap may work for this user; in $mode.
mode_choose()
{
    if [ "$(id -u)" = 0 ]; then
        mode=root
    elif unshare -U true 2>/dev/null && grep -q "^$(id -un):" /etc/subuid 2>/dev/null; then
        mode=unshare
        need newuidmap uidmap
    elif command -v fakechroot >/dev/null; then
        mode=fakechroot
    elif unshare -U true 2>/dev/null; then
        die "making a Debian image without root needs subordinate ids; add them with:" \
            "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $(id -un)"
    else
        die "this host lets $(id -un) make no user namespace, so making a Debian image needs" \
            "fakechroot; install it with: sudo apt-get install fakechroot"
    fi
    [ "$mode" = root ] || need fakeroot fakeroot
}

# Dies unless a Debian root can be made here.
tools_check()
{
    need mmdebstrap mmdebstrap
    need mke2fs e2fsprogs
    mode_choose
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

# -- a Debian root for programs: as a folder, and as a disk image of the same files --
#
# A script that makes one sets `packages`, `size` (of the disk) and `out`, and goes through
# root_is_made, root_begin, what is its own, and root_end. The two longest parts are steps, and so
# the script once more, with --bootstrap or --file-system as its first word.

# root_bootstrap WORK MODE CODENAME [OPTION...]: installs, with more options for mmdebstrap.
root_bootstrap()
{
    root_tar=$1/root.tar root_mode=$2 root_codename=$3
    shift 3
    mmdebstrap --mode="$root_mode" --variant=minbase --architectures=amd64 --format=tar \
        --include="$(echo $packages | tr ' ' ',')" \
        --setup-hook='mkdir -p "$1/var/cache/apt/archives"' \
        --setup-hook="sync-in '$apt_dir/archives' /var/cache/apt/archives" \
        --customize-hook='rm -rf "$1"/var/cache/apt/archives/*' "$@" \
        "$root_codename" "$root_tar" "$apt_dir/sources.list"
}

# root_file_system WORK: as root, or as fakeroot's pretended root, so that mke2fs reads owners.
root_file_system()
{
    mkdir "$1/root"
    tar -x -C "$1/root" --exclude='./dev/*' -f "$1/root.tar"
    truncate -s "$size" "$1/root.raw"
    mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d "$1/root" "$1/root.raw"
    rm "$1/root.tar"
}

# root_is_made [--again]: by the scripts as they are now.
root_is_made()
{
    source_sum=$(cat "$0" "$here/lib.sh" | sha256sum)
    [ "${1-}" != --again ] && [ -f "$out/root.raw" ] && [ "$(cat "$out/source")" = "$source_sum" ]
}

# Fetches what is needed; then there is a new folder $work.
root_begin()
{
    tools_check
    cache_open 3000
    apt_open
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    step "$apt_dir/archives" "fetching Debian's packages" \
        apt-get install --yes --download-only '?essential' '?priority(required)' apt $packages
    work=$out.part
    chmod -R u+rwX "$work" 2>/dev/null || :
    rm -rf "$work"
    mkdir -p "$work"
}

root_end()
{
    step "$work" "installing Debian ($mode)" "$0" --bootstrap "$work" "$mode" "$codename"
    if [ "$mode" = root ]; then
        step "$work" "making the disk image" "$0" --file-system "$work"
    else
        step "$work" "making the disk image" fakeroot "$0" --file-system "$work"
    fi
    echo "$source_sum" >"$work/source"
    chmod -R u+rwX "$out" 2>/dev/null || :
    rm -rf "$out"
    mv "$work" "$out"
    say "made $out: $(bytes_of "$out") bytes"
}
