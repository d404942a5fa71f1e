"""NetworkPolicies, which kube-router enforces on the node: a job trains, and its pods reach nothing else."""

import socket
from collections.abc import Callable

from devcluster.cluster import API_PORT, Cluster
from devcluster.places import DevclusterError
from examples import demo
from tests.e2e.scene import SLOW_SECONDS, Manifest, Scene, stopped, succeeded, tiny, training, until

PROGRESS_PORT = 8080
SERVER_PORT = 8000
SERVER = f"""
from http.server import HTTPServer, SimpleHTTPRequestHandler
HTTPServer(("", {SERVER_PORT}), SimpleHTTPRequestHandler).serve_forever()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
Destination = tuple[str, int]


def server(scene: Scene) -> Manifest:
    """A running pod of somebody else, which no NetworkPolicy selects, and which serves HTTP."""
    allowed = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "server",
        "image": scene.target.images["operator"],
        "command": ["python", "-c", SERVER],
        "securityContext": {**allowed, "seccompProfile": {"type": "RuntimeDefault"}},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    scene.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "server"},
            "spec": {
                "containers": [container],
                "securityContext": {"runAsNonRoot": True, "runAsUser": 10001},
                "automountServiceAccountToken": False,
            },
        }
    )

    def look() -> Manifest | None:
        pod = scene.get("Pod", "server")
        ready = pod and any(c.get("ready") for c in pod["status"].get("containerStatuses", ()))
        return pod if ready else None

    return until("the server runs", SLOW_SECONDS, look)


def reaches(target: demo.Target, namespace: str, pod: str, destination: Destination) -> bool:
    """Whether a process in a pod can open a TCP connection."""
    host, port = destination
    try:
        demo.kubectl(target, "-n", namespace, "exec", pod, "--", "python", "-c", CONNECT, host, str(port))
    except DevclusterError as error:
        assert any(name in str(error) for name in ("ConnectionRefusedError", "TimeoutError")), error  # noqa: PT017
        return False
    return True


def test_policies_let_a_job_train_and_let_its_pods_reach_nothing_else(
    scene: Scene, new_scene: Callable[..., Scene], cluster: Cluster
) -> None:
    target, namespace = scene.target, scene.namespace
    other = new_scene("network-other")
    foreign: Destination = (server(other)["status"]["podIP"], SERVER_PORT)
    with socket.create_server((cluster.host_address, 0)) as listener:
        outside: Destination = (cluster.host_address, listener.getsockname()[1])
        api: Destination = ("kubernetes.default.svc", 443)
        node_api: Destination = (cluster.address, API_PORT)
        store: Destination = ("minio.storage.svc.cluster.local", 9000)
        everything = (foreign, outside, api, node_api, store)
        assert all(reaches(target, other.namespace, "server", each) for each in everything)

        scene.apply(tiny("networked", scene, training={"epochs": 20}, resources={"nodes": 2}))
        pods = training(scene, "networked", count=2)
        first, second = (pod["metadata"]["name"] for pod in pods)
        progress: Destination = (pods[0]["status"]["podIP"], PROGRESS_PORT)
        with stopped(pods):
            assert reaches(target, namespace, second, progress), "the pods of a run reach each other"
            assert [each for each in everything if reaches(target, namespace, first, each)] == [store]
            assert not reaches(target, other.namespace, "server", progress)
            operator = "deploy/finetune-operator"
            by_operator = [
                each for each in (*everything, progress) if reaches(target, demo.SYSTEM, operator, each)
            ]
            assert by_operator == [api, node_api, progress]
    succeeded(scene, "networked")
