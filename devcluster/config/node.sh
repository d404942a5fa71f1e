# The node: a network and a mount namespace, held by a process that only sleeps.
# Arguments: the cluster's state folder, then folders of the machine that the cluster sees as its own.
# When the last process in them ends, so do both namespaces, and with them every mount and link inside.
set -e
state=$1
shift
for folder in "$@"; do
  own=$state/node$folder
  mkdir -p "$own"
  mount --bind "$own" "$folder"
done
# Shared among what runs inside, as kubelet and containerd expect; nothing reaches the machine.
mount --make-rshared /
ip link set lo up
exec sleep infinity
