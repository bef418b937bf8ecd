# shellcheck shell=bash
# The steps from the pinned package to a built kernel tree, for `build` and
# `measure`, which source this file. Each step is a function that takes what it
# works on as arguments and ends the script with one clear line when it fails.

: "${kernel_dir:?is this folder, and set by the script that reads this file}"

say() { printf 'guest-kernel: %s\n' "$*" >&2; }

die() {
	say "error: $*"
	exit 1
}

# cache_root: where everything lives that is not worth building twice.
cache_root() { printf '%s/kernel' "${RUNV_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/runv}"; }

# What is built: by default the standard kernel, of all fragments and with all patches.
lock=$kernel_dir/version.lock
fragments=("$kernel_dir"/fragments/*.config)
patches=("$kernel_dir"/patches/*.patch)
changes=/dev/null

# choose_variant NAME: build that of variants/ instead.
choose_variant() {
	local folder=$kernel_dir/variants/$1 name

	[[ $1 != */* && -f $folder/changes.config ]] ||
		die "there is no variant $1; there are: $(cd "$kernel_dir/variants" && echo *)"
	changes=$folder/changes.config
	if [[ -f $folder/fragments ]]; then
		fragments=()
		# shellcheck disable=SC2013 # words
		for name in $(sed 's/#.*//' "$folder/fragments"); do
			[[ -f $kernel_dir/fragments/$name.config ]] || die "$folder/fragments: there is no fragments/$name.config"
			fragments+=("$kernel_dir/fragments/$name.config")
		done
	fi
	if [[ -f $folder/version.lock ]]; then
		# Another version needs patches of its own.
		lock=$folder/version.lock
		mapfile -t patches < <(find "$folder" -name '*.patch' | LC_ALL=C sort)
	fi
}

# locked KEY: the value of KEY in the lock.
locked() { sed -n "s/^$1=//p" "$lock"; }

# require_packages: every package of the list is installed, or say which is not.
require_packages() {
	local package missing=()

	command -v dpkg-query >/dev/null || die "dpkg-query is missing: the kernel is built from a Debian package, on Debian"
	while read -r package; do
		[[ $package != \#* && -n $package ]] || continue
		dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
			missing+=("$package")
	done <"$kernel_dir/packages"
	[[ ${#missing[@]} -eq 0 ]] || die "packages are missing; install them with: apt-get install -y ${missing[*]}"
}

# download FOLDER: print the path of the pinned package, verified, fetched if needed.
download() {
	local folder=$1 package version sha256 deb
	package=$(locked package) version=$(locked version) sha256=$(locked sha256)
	deb="$folder/${package}_${version}.deb"

	mkdir -p "$folder"
	if [[ ! -f $deb ]]; then
		say "fetching $package $version (about 150 MB)"
		fetch "$package" "$version" "$deb"
	fi
	printf '%s  %s\n' "$sha256" "$deb" | sha256sum --check --status ||
		die "$deb does not have the sha256 of $lock; remove the file and try again"
	printf '%s' "$deb"
}

# fetch PACKAGE VERSION FILE: get the package from the archive that apt knows.
fetch() {
	local package=$1 version=$2 deb=$3 part
	part=$(mktemp -d "$deb.XXXXXX")

	if ! (cd "$part" && apt-get -q download -o APT::Sandbox::User=root "$package=$version") >"$part/log" 2>&1; then
		sed 's/^/  /' "$part/log" >&2
		rm -rf "$part"
		die "apt cannot download $package $version: run 'apt-get update' first; if the archive no longer" \
			"has this version, fetch it from https://snapshot.debian.org/package/linux/ to $deb," \
			"or take a newer one (README.md, 'To take another version')"
	fi
	mv "$part"/*.deb "$deb"
	rm -rf "$part"
}

# unpack DEB TREE: the kernel source, with the patches, into the new folder TREE.
unpack() {
	local deb=$1 tree=$2 patch

	say "unpacking the source"
	mkdir -p "$tree"
	dpkg-deb --fsys-tarfile "$deb" | tar -xO --wildcards './usr/src/linux-source-*.tar.xz' |
		tar -xJ --strip-components=1 -C "$tree"
	for patch in "${patches[@]}"; do
		patch --quiet --strip=1 --directory="$tree" <"$patch" >&2 ||
			die "$patch does not fit $(locked package) $(locked version); README.md, 'To take another version'"
	done
}

# kernel_make TREE ARG...: make, shut off from the environment, so that the bytes
# which come out depend on the source, the configuration and the compiler only.
# PATH may lead to a ccache.
kernel_make() {
	local tree=$1
	shift
	env -i PATH="$PATH" HOME="$HOME" ${CCACHE_DIR:+CCACHE_DIR="$CCACHE_DIR"} LC_ALL=C LOCALVERSION= \
		SOURCE_DATE_EPOCH=1767225600 KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 2026' \
		KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=runv KBUILD_BUILD_HOST=runv \
		make -C "$tree" ARCH=x86_64 "$@"
}

# merged: the fragments without the lines that the changes replace, and the changes.
merged() {
	awk '
		/^CONFIG_/ { option = substr($0, 1, index($0, "=") - 1) }
		/^# CONFIG_.* is not set$/ { option = $2 }
		!/^CONFIG_/ && !/^# CONFIG_.* is not set$/ { next }
		FILENAME == ARGV[1] { changed[option] = 1; print; next }
		!(option in changed)
	' "$changes" "${fragments[@]}"
}

# configure TREE: .config from the fragments and changes, checked against them.
configure() {
	local tree=$1 lost
	merged >"$tree/fragments.config"
	kernel_make "$tree" KCONFIG_ALLCONFIG=fragments.config allnoconfig >"$tree/configure.log" 2>&1 ||
		die "the configuration failed: $(tail -n 1 "$tree/configure.log")"
	if grep -q reassigning "$tree/configure.log"; then
		die "an option is asked for twice: $(grep reassigning "$tree/configure.log")"
	fi
	lost=$(lost_options "$tree/fragments.config" "$tree/.config")
	[[ -z $lost ]] || die "these options did not come out as the fragments ask" \
		"(renamed, or a dependency is off): ${lost//$'\n'/, }"
}

# lost_options ASKED GOT: lines of ASKED that GOT does not honour.
lost_options() {
	# An option that is off because it is not even visible has no line in .config.
	awk '
		FNR == NR { if ($0 ~ /^CONFIG_/ || $0 ~ /^# CONFIG_.* is not set$/) asked[++n] = $0; next }
		/^CONFIG_/ { got[$0] = 1; set[substr($0, 1, index($0, "=") - 1)] = 1 }
		END {
			for (i = 1; i <= n; i++) {
				if (asked[i] ~ /^CONFIG_/) { if (!(asked[i] in got)) print asked[i] }
				else { split(asked[i], word, " "); if (word[2] in set) print asked[i] }
			}
		}' "$1" "$2"
}

# compile TREE LOG: vmlinux, with a line of progress instead of one for each file.
compile() {
	local tree=$1 log=$2

	say "compiling with $(nproc) jobs; all that make says is in $log"
	if ! kernel_make "$tree" -j"$(nproc)" vmlinux 2>&1 | tee "$log" | progress; then
		grep -E -A 5 'error|Error|undefined reference' "$log" | tail -n 40 >&2
		die "the kernel does not build; see $log"
	fi
}

# progress: count make's steps on stdin; redraw a line on a terminal, else
# print one every 20 seconds.
progress() {
	local done=0 shown=0 every=20 end='\n' line
	[[ -t 2 ]] && every=1 end='\r'

	SECONDS=0
	while read -r line; do
		[[ $line =~ ^(CC|AS|HOSTCC|AR)\  ]] && done=$((done + 1))
		if ((SECONDS >= shown + every)); then
			shown=$SECONDS
			# shellcheck disable=SC2059 # the line end differs
			printf "guest-kernel: compiled %d files, %d s$end" "$done" "$SECONDS" >&2
		fi
	done
	printf 'guest-kernel: compiled %d files in %d s\n' "$done" "$SECONDS" >&2
}

# relocations TREE FILE: what to change in a kernel that is moved (README.md, "KASLR"), into FILE.
relocations() {
	local tree=$1 file=$2

	if [[ -f $tree/arch/x86/boot/compressed/vmlinux.relocs ]]; then
		cp "$tree/arch/x86/boot/compressed/vmlinux.relocs" "$file"
	else
		# Before 6.5 they are made with the bzImage only, and stay in vmlinux.
		"$tree/arch/x86/tools/relocs" "$tree/vmlinux" >"$file"
	fi
}

# pack_kernel TREE FILE: the kernel as it is booted, into FILE (see pack.c).
pack_kernel() {
	local tree=$1 file=$2

	gcc -O2 -o "$tree/pack" "$kernel_dir/pack.c"
	strip --strip-all --remove-section=.comment -o "$tree/vmlinux.stripped" "$tree/vmlinux"
	"$tree/pack" "$tree/vmlinux.stripped" "$file"
}
