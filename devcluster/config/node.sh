# The node: a network and a mount namespace, held by a process that only sleeps.
# Arguments: pairs of a folder of the cluster, and the folder of the machine that it is mounted over.
# When the last process in them ends, so do both namespaces, and with them every mount and link inside.
set -e
while [ $# -gt 0 ]; do
  mkdir -p "$1"
  mount --bind "$1" "$2"
  shift 2
done
# Shared among what runs inside, as kubelet and containerd expect; nothing reaches the machine.
mount --make-rshared /
ip link set lo up
exec sleep infinity
