# Process 1 of a node, until it becomes the node's own init. Runs inside the node's namespaces; the mount namespace is
# private, so nothing mounted here reaches the machine. NODE_* variables say what to do, file descriptor 3 tells the
# lab that it is done.
set -e
umask 022

# This shell's process id as the machine counts it: /proc is still the machine's.
read -r pid rest </proc/self/stat

mount -t proc proc /proc
# Lazily, which takes along what is mounted below, and is what every umount can do.
umount -l /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf

# A cgroup that has processes of its own cannot hand controllers on to those below it.
mkdir -p /sys/fs/cgroup/init
echo 0 >/sys/fs/cgroup/init/cgroup.procs

mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock /run/netlab

# The lab's directory is held by a mount of its own while overlays cover the path to it.
mount --bind "$NODE_LAB" /run/netlab
for d in $NODE_OVERLAYS; do
	o=/run/netlab/nodes/$NODE_NAME/overlay$d
	mkdir -p "$o/upper" "$o/work"
	mount -t overlay -o "lowerdir=$d,upperdir=$o/upper,workdir=$o/work" overlay "$d"
done
mount --bind /run/netlab "$NODE_LAB"
umount /run/netlab

echo "$NODE_BINDS" | while IFS='|' read -r source target; do
	[ -n "$source" ] || continue
	if [ -d "$source" ]; then mkdir -p "$target"; elif [ ! -e "$target" ]; then : >"$target"; fi
	mount --rbind "$source" "$target"
done

# Sysctls that belong to the whole machine: the node sees a file that takes any value and does nothing.
mkdir -p /run/sysctl
echo "$NODE_SYSCTLS" | while IFS='|' read -r name value; do
	[ -n "$name" ] || continue
	file=/run/sysctl/${name##*/}
	echo "$value" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done

mount --make-rshared /
echo "$NODE_NAME" >/proc/sys/kernel/hostname

unset NODE_LAB NODE_OVERLAYS NODE_BINDS NODE_SYSCTLS
cd /
echo "$pid" >&3
exec 3>&-
[ $# -eq 0 ] || exec "$@"

# Waiting for a job of its own makes a shell reap every process that is left to it.
while :; do
	sleep 100000 &
	wait $! || :
done
