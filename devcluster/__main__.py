"""The command line: `python -m devcluster up`."""

import argparse
import json
import os
import sys
import time
from typing import Any

from devcluster import binaries, builder, status
from devcluster.cluster import Cluster, chosen
from devcluster.down import down
from devcluster.places import DevclusterError
from devcluster.progress import say
from devcluster.up import up

_DESCRIPTION = """\
A real one-node Kubernetes cluster on this machine, with a name server, an image registry and a MinIO
object store. It needs root on Debian. DEVCLUSTER_NAME names the cluster (default: finetune); clusters of
different names do not disturb each other."""


def main() -> int:
    """Run one command; return the exit status."""
    arguments = _parser().parse_args()
    try:
        cluster = chosen()
        return int(arguments.run(cluster, arguments))
    except DevclusterError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on, or `down` to clear up")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m devcluster", description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    bring_up = commands.add_parser(
        "up", help="bring the cluster up, or what of it is missing; safe to run again"
    )
    bring_up.set_defaults(run=_up)
    take_down = commands.add_parser("down", help="take the cluster down and leave nothing behind")
    take_down.add_argument(
        "--images", action="store_true", help="also forget the images its node has pulled (minutes, if large)"
    )
    take_down.set_defaults(run=_down)
    show = commands.add_parser(
        "status", help="show what runs and how to reach it; exit status 1 unless all is well"
    )
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(run=_status)
    kubeconfig = commands.add_parser("kubeconfig", help="print the path of an administrator's kubeconfig")
    kubeconfig.set_defaults(run=_kubeconfig)
    tool = commands.add_parser("program", help="print the path of a program, building it first if need be")
    tool.add_argument("program", choices=sorted(binaries.PROGRAMS), metavar="NAME", help="kubectl, helm, ...")
    tool.set_defaults(run=_program)
    make = commands.add_parser("build", help="build the project's images; only what changed")
    make.add_argument(
        "targets", nargs="+", choices=builder.TARGETS, metavar="TARGET", help=", ".join(builder.TARGETS)
    )
    make.set_defaults(run=_build)
    push = commands.add_parser("load", help="push local images to the registry the cluster pulls from")
    push.add_argument(
        "images", nargs="+", metavar="IMAGE", help="operator, trainer, or any local image's name"
    )
    push.set_defaults(run=_load)
    return parser


def _require_root() -> None:
    if os.geteuid() != 0:
        raise DevclusterError("namespaces, links and mounts need root: run it as root or with sudo")


def _up(cluster: Cluster, _: argparse.Namespace) -> int:
    _require_root()
    started = time.monotonic()
    up(cluster)
    say(f"cluster {cluster.name} is up ({time.monotonic() - started:.1f} s); use it with")
    print(f"export KUBECONFIG={cluster.kubeconfig}")
    return 0


def _down(cluster: Cluster, arguments: argparse.Namespace) -> int:
    _require_root()
    down(cluster, images=arguments.images)
    return 0


def _kubeconfig(cluster: Cluster, _: argparse.Namespace) -> int:
    if not cluster.kubeconfig.exists():
        raise DevclusterError(f"cluster {cluster.name} is not up: run `python -m devcluster up`")
    print(cluster.kubeconfig)
    return 0


def _program(_: Cluster, arguments: argparse.Namespace) -> int:
    print(binaries.path(arguments.program))
    return 0


def _build(_: Cluster, arguments: argparse.Namespace) -> int:
    _require_root()
    for target in arguments.targets:
        print(builder.build(target))
    return 0


def _load(cluster: Cluster, arguments: argparse.Namespace) -> int:
    _require_root()
    for image in arguments.images:
        print(builder.load(cluster, image))
    return 0


def _status(cluster: Cluster, arguments: argparse.Namespace) -> int:
    report = status.report(cluster)
    print(json.dumps(report, indent=2) if arguments.json else _readable(report))
    return 0 if report["healthy"] else 1


def _readable(report: dict[str, Any]) -> str:
    lines = [f"cluster {report['name']}: {'healthy' if report['healthy'] else 'not healthy'}"]
    lines += [
        f"  {name:24} {'pid ' + str(pid) if pid else 'not running'}"
        for name, pid in report["components"].items()
    ]
    lines += [f"  {name:24} {'ok' if well else 'no'}" for name, well in report["checks"].items()]
    lines += [f"{name}: {value}" for name, value in report["reach"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
