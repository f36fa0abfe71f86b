#!/bin/sh
# The first process of a test guest: makes the host's file system its own, without being able to change it, runs what it was
# given, and tells how that ended. Written for busybox; everything that it calls is in the initial RAM file system.
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
say() { echo "guest: $*" > /dev/console; }
end() { say "$*"; sync; poweroff -f; sleep 60; }

for module in $(cat /modules/order 2>/dev/null); do
  insmod "/modules/$module" || say "no module $module"
done

# Ports get their names some time after they appear.
turn=0 out= status=
while [ $turn -lt 500 ] && { [ -z "$out" ] || [ -z "$status" ]; }; do
  for port in /sys/class/virtio-ports/*; do
    name=
    read -r name < "$port/name"
    case "$name" in
      out) out=/dev/${port##*/} ;;
      status) status=/dev/${port##*/} ;;
    esac
  done 2>/dev/null
  turn=$((turn + 1))
  usleep 20000
done
[ -n "$status" ] || end "fatal: no ports"

mkdir -p /host /over /root
mount -t virtiofs -o ro host /host || end "fatal: the host's file system could not be mounted"
mount -t tmpfs -o size=60% tmpfs /over
mkdir /over/upper /over/work
# Where the kernel comes without overlayfs the file system stays as it is, but for what is mounted over it.
mount -t overlay -o lowerdir=/host,upperdir=/over/upper,workdir=/over/work overlay /root 2>/dev/null ||
  mount --bind /host /root
cd /root
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm dev/mqueue
mount -t devpts -o ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t mqueue mqueue dev/mqueue
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  [ -e "dev/${link%%:*}" ] || ln -s "/proc/self/${link#*:}" "dev/${link%%:*}"
done
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777,size=50% tmpfs tmp
# The repository is to be seen though it stands in a folder that is empty here.
read -r line < /run-this
checkout=${line#cd \'} checkout=${checkout%\'}
case $checkout in
  /tmp/* | /run/*) mkdir -p ".$checkout" && mount --bind "/host$checkout" ".$checkout" ;;
esac
mount -t tracefs tracefs sys/kernel/tracing 2>/dev/null
mount -t debugfs debugfs sys/kernel/debug 2>/dev/null
mount -t bpf bpf sys/fs/bpf 2>/dev/null
mount -t cgroup2 cgroup2 sys/fs/cgroup 2>/dev/null
mount -t securityfs securityfs sys/kernel/security 2>/dev/null
modules=$(cat /modules/folder 2>/dev/null)
if [ -n "$modules" ] && [ -d "./$modules" ]; then
  mkdir -p "lib/modules/$(uname -r)" && mount --bind "./$modules" "lib/modules/$(uname -r)"
fi
ifconfig lo 127.0.0.1 up
hostname guest
cp /run-this tmp/run-this
say "ready"
# Its root is to be the root of the mount namespace, as it is everywhere: paths are told from there.
mount --move . /
setsid chroot . /bin/bash /tmp/run-this < /dev/null > "$out" 2>&1
code=$?
echo "$code" > "$status"
end "the end: $code"
