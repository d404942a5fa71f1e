"""The manifests of a run, and rules for all manifests."""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from finetune_operator import names
from finetune_operator.api import FineTuneJob
from finetune_operator.objects import Manifest
from finetune_operator.rendering import jobs, network, quantities, trainer_config
from finetune_operator.rendering.cleanup_record import cleanup_record, read_record
from finetune_operator.rendering.pods import Gang, Needs
from finetune_operator.rendering.trainer_config import CONFIG_LIMIT_BYTES
from finetune_operator.settings import PodSecurity
from finetune_trainer import config as trainer
from finetune_trainer.contract import Stage
from tests.operator import scenes
from tests.operator.cases import read_all

GOLDEN = Path(__file__).parent / "golden" / "manifests.yaml"
LONG_NAMES = [f"{number:02d}" + "m" * 126 for number in range(64)]
"""The longest list of names of layers."""


def made(job: FineTuneJob, stage: Stage, **changes: Any) -> Manifest:
    configured = scenes.settings(changes.pop("settings", None))
    asked = scenes.asked_of(job, configured)
    if stage is Stage.CLEANUP:
        return jobs.cleanup_job(read_record(cleanup_record(job, asked, 1, scenes.NAMESPACE_UID)), configured)
    return jobs.stage_job(job, asked, configured, stage, 1, **changes)


def every(job: FineTuneJob) -> dict[str, Manifest]:
    configured = scenes.settings()
    train = {"chosen": scenes.CHOSEN, "prepared": scenes.DIGEST}
    record = cleanup_record(job, scenes.asked_of(job, configured), 1, scenes.NAMESPACE_UID)
    return {
        "prepare": made(job, Stage.PREPARE),
        "train": made(job, Stage.TRAIN, **train),
        "publish": made(job, Stage.PUBLISH, **train),
        "readback": made(job, Stage.READBACK, readback=(Stage.TRAIN, 1)),
        "cleanupRecord": record,
        "cleanup": made(job, Stage.CLEANUP),
        "cleanupNetworkPolicy": network.cleanup_network_policy(
            read_record(record),
            {**record, "metadata": {**record["metadata"], "uid": "uid-of-the-record"}},
            configured,
        ),
        "service": network.service(job),
        "networkPolicy": network.network_policy(job, scenes.asked_of(job, configured).run, configured),
    }


def test_manifests_equal_the_golden_files() -> None:
    found = every(scenes.job_of())
    if os.environ.get("FINETUNE_REGENERATE"):
        GOLDEN.write_text(yaml.safe_dump(json.loads(json.dumps(found)), sort_keys=False, width=105))
    assert [found] == read_all(GOLDEN)


@pytest.mark.parametrize(
    ("spec", "every_seconds", "keep"),
    [({}, "Auto", 2), ({"everyMinutes": 10, "keep": 5}, 600, 5), ({"everyMinutes": "Auto"}, "Auto", 2)],
)
def test_only_train_saves_checkpoints(spec: Manifest, every_seconds: int | str, keep: int) -> None:
    found = every(scenes.job_of({"spec": {"checkpoints": spec}}))
    configs = {
        kind: jobs.config_of(found[kind]) for kind in ("prepare", "train", "publish", "readback", "cleanup")
    }
    assert configs["train"]
    assert configs["train"].checkpoints == trainer.Checkpoints(every_seconds=every_seconds, keep=keep)
    assert [kind for kind, config in configs.items() if config and config.checkpoints] == ["train"]
    assert None not in configs.values()


@pytest.mark.parametrize(("spec", "expected"), [({}, 3), ({"inPlaceRestarts": 0}, 0)])
def test_only_train_restarts_in_place(spec: Manifest, expected: int) -> None:
    found = every(scenes.job_of({"spec": {"failurePolicy": spec}}))
    configs = {
        kind: jobs.config_of(found[kind]) for kind in ("prepare", "train", "publish", "readback", "cleanup")
    }
    limits = {kind: config.in_place_restarts for kind, config in configs.items() if config}
    assert limits == {**dict.fromkeys(configs), "train": expected}


@pytest.mark.parametrize("kind", ["prepare", "train", "publish", "readback", "cleanup"])
def test_pods_are_restricted_and_hold_no_api_credentials(kind: str) -> None:
    spec = every(scenes.job_of())[kind]["spec"]["template"]["spec"]

    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["fsGroup"] == 10001
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
    assert kinds <= {"projected", "emptyDir"}


def test_a_session_token_is_mounted_with_the_keys_and_may_be_missing() -> None:
    ref = {"name": "sts", "sessionTokenKey": "token"}
    job = scenes.job_of({"spec": {"storage": {"endpoint": "https://minio:9000", "secretRef": ref}}})
    volumes = made(job, Stage.PREPARE)["spec"]["template"]["spec"]["volumes"]
    (volume,) = [volume for volume in volumes if volume["name"] == "storage-output"]

    keys, token = (source["secret"] for source in volume["projected"]["sources"])
    assert [item["path"] for item in keys["items"]] == ["accessKey", "secretKey"]
    assert "optional" not in keys
    assert token == {"name": "sts", "items": [{"key": "token", "path": "sessionToken"}], "optional": True}


@pytest.mark.parametrize(
    ("kind", "roles"),
    [
        ("prepare", ["data", "model", "output"]),
        ("train", ["model", "output"]),
        ("publish", ["model", "output"]),
        ("readback", ["output"]),
        ("cleanup", ["output"]),
    ],
)
def test_each_stage_gets_only_the_keys_that_the_stage_uses(kind: str, roles: list[str]) -> None:
    stores = {
        role: {"storage": {"endpoint": f"https://{role}:9000", "secretRef": {"name": f"keys-of-{role}"}}}
        for role in ("data", "model", "output")
    }
    job = scenes.job_of({"spec": {"dataset": stores.pop("data"), **stores}})

    spec = every(job)[kind]["spec"]["template"]["spec"]
    assert re.findall("keys-of-([a-z]+)", str(spec["volumes"]))[::2] == roles


def test_a_cleanup_record_has_only_fields_that_the_job_sets() -> None:
    """An earlier version of the operator refuses fields that it does not know."""
    record = every(scenes.job_of())["cleanupRecord"]
    assert record["data"]["job"]["spec"].keys() == {*scenes.BASE["spec"], "output"}
    read = read_record(record)
    assert read.job.spec.checkpoints == scenes.job_of().spec.checkpoints


def test_the_cleanup_record_outlives_its_fine_tune_job_and_creates_no_pods() -> None:
    record = every(scenes.job_of())["cleanupRecord"]

    assert record["kind"] == "ControllerRevision"
    assert "ownerReferences" not in record["metadata"]
    assert record["metadata"]["labels"][names.LABEL_UID] == scenes.UID


def test_a_cleanup_job_has_a_deadline_and_a_ttl() -> None:
    cleanup = made(scenes.job_of(), Stage.CLEANUP)

    assert cleanup["spec"]["activeDeadlineSeconds"] == scenes.settings().deadlines.cleanup
    assert cleanup["spec"]["ttlSecondsAfterFinished"] > 0
    assert "ownerReferences" not in cleanup["metadata"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"namespace": "other"}}, "is not the record of the run"),
        ({"metadata": {"labels": {names.LABEL_UID: "another"}}}, "is not the record of the run"),
        ({"metadata": {"name": "tickets-0b5c3-c7"}}, "is not the record of the run"),
        ({"data": {"run": {"runs": "s3://models/"}}}, "is not the record of the run"),
        (
            {"data": {"run": {"runs": "s3://models/.finetune-runs/other/" + scenes.UID + "/"}}},
            "not the record",
        ),
        ({"data": {"run": None}}, "cannot be read: 'run'"),
        ({"data": None}, "cannot be read"),
        ({"metadata": {"annotations": None}}, "cannot be read"),
    ],
)
def test_a_forged_cleanup_record_is_refused(change: Manifest, message: str) -> None:
    record = scenes.merged(every(scenes.job_of())["cleanupRecord"], change)

    with pytest.raises(ValueError, match=message):
        read_record(record)


def test_train_pods_meet_at_the_full_name_of_index_0() -> None:
    train = made(scenes.job_of(), Stage.TRAIN, settings={"cluster_domain": "corp.internal"})
    config = jobs.config_of(train)

    assert config
    assert config.rendezvous.master_address == "tickets-0b5c3-t1-0.tickets-0b5c3.demo.svc.corp.internal."
    assert (
        train["spec"]["template"]["spec"]["subdomain"] == network.service(scenes.job_of())["metadata"]["name"]
    )


def test_jobs_ask_for_the_gpus_and_threads_of_their_processes() -> None:
    asked = {"nodes": 2, "gpusPerNode": 4, "cpu": 16, "memory": "64Gi"}
    container = made(scenes.job_of({"spec": {"resources": asked}}), Stage.TRAIN)["spec"]["template"]["spec"][
        "containers"
    ][0]

    assert container["resources"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "4"}
    assert {"name": "OMP_NUM_THREADS", "value": "4"} in container["env"]


@pytest.mark.parametrize(
    ("cpu", "memory", "requests"),
    [
        ("2", "4Gi", {"cpu": "100m", "memory": "512Mi"}),
        ("100m", "512Mi", {}),
        ("50m", "256Mi", {}),
    ],
)
def test_only_readback_and_cleanup_request_less_than_their_limits(
    cpu: str, memory: str, requests: dict[str, str]
) -> None:
    cpu_stages = {"profiles": {"default": {"cpuStages": {"cpu": cpu, "memory": memory}}}}
    for stage in Stage:
        reported = {"readback": (Stage.TRAIN, 1)} if stage is Stage.READBACK else {}
        spec = made(scenes.job_of(), stage, settings=cpu_stages, **reported)["spec"]["template"]["spec"]
        resources = spec["containers"][0]["resources"]
        changed = requests if stage in (Stage.READBACK, Stage.CLEANUP) else {}
        assert resources["requests"] == resources["limits"] | changed


@pytest.mark.parametrize(("scratch", "limit"), [("50Gi", "103424Mi"), ("500M", "1978Mi")])
def test_ephemeral_storage_is_limited_where_the_settings_say_so(scratch: str, limit: str) -> None:
    profile = {"profiles": {"default": {"scratch": scratch}}}
    for stage in Stage:
        reported = {"readback": (Stage.TRAIN, 1)} if stage is Stage.READBACK else {}
        for limited in (True, False):
            settings = profile | {"limitEphemeralStorage": limited}
            job = made(scenes.job_of(), stage, settings=settings, **reported)
            resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
            assert resources["limits"].get("ephemeral-storage") == (limit if limited else None)
            assert resources["requests"].get("ephemeral-storage") == ("1Gi" if limited else None)


def test_prepare_asks_for_no_gpu() -> None:
    job = scenes.job_of({"spec": {"resources": {"gpusPerNode": 4}}})

    assert "gpu" not in str(
        made(job, Stage.PREPARE)["spec"]["template"]["spec"]["containers"][0]["resources"]
    )


def test_config_at_maximum_lengths_fits_its_annotation() -> None:
    key, name = "k" * 253, "n" * 253
    store = {
        "endpoint": "https://" + "h" * 292,
        "region": "r" * 63,
        "secretRef": {"name": name, "accessKeyKey": key, "secretKeyKey": key, "sessionTokenKey": key},
        "caBundleRef": {"name": name, "key": key},
    }
    uri = "s3://bucket/" + "\u4e2d" * 1012
    files = {"uri": None, "uris": [f"s3://bucket/{n:0>3}" + "\u4e2d" * 49 for n in range(64)]}
    job = scenes.job_of(
        {
            "metadata": {"name": "a" * 253, "namespace": "b" * 63, "generation": 2**62},
            "spec": {
                "model": {"uri": uri, "storage": store},
                "dataset": {"train": files, "validation": files, "test": files, "storage": store},
                "output": {"uri": uri[:600], "suffix": "s" * 64, "storage": store},
                "method": {
                    "type": "LoRA",
                    "lora": {
                        "targetModules": LONG_NAMES,
                        "excludeModules": LONG_NAMES[:16],
                        "moduleRanks": [{"modules": LONG_NAMES[:8], "rank": 1024}] * 8,
                    },
                },
            },
        }
    )
    train = made(job, Stage.TRAIN, chosen=scenes.CHOSEN, prepared=scenes.DIGEST)
    annotation = train["spec"]["template"]["metadata"]["annotations"][names.ANNOTATION_CONFIG]

    assert len(annotation.encode()) < CONFIG_LIMIT_BYTES
    assert len(train["metadata"]["name"]) <= 63 - len("-1023-abcde")
    assert all(len(value) <= 63 for value in train["metadata"]["labels"].values())


def test_the_trainer_reads_the_rendered_config() -> None:
    job = scenes.job_of()
    config = jobs.config_of(made(job, Stage.TRAIN, chosen=scenes.CHOSEN, prepared=scenes.DIGEST))

    assert config
    assert config.run == scenes.asked_of(job, scenes.settings()).run
    assert config.chosen == scenes.CHOSEN


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        ({}, "Full"),
        ({"method": {"type": "LoRA"}}, trainer.Lora(rank=16, alpha=32)),
        ({"method": {"type": "LoRA", "lora": {"rank": 4}}}, trainer.Lora(rank=4, alpha=8)),
        (
            {
                "method": {"type": "LoRA", "lora": {"alpha": 5, "dropout": 0.1, "targetModules": ["query"]}},
                "output": {"mergeAdapter": True},
            },
            trainer.Lora(rank=16, alpha=5, dropout=0.1, target_modules=("query",), merge=True),
        ),
        (
            {
                "method": {
                    "type": "LoRA",
                    "lora": {
                        "scaling": "RankStabilized",
                        "initialization": "PiSSA",
                        "weightDecomposition": True,
                        "excludeModules": ["mlp.gate"],
                        "moduleRanks": [
                            {"modules": ["query"], "rank": 64},
                            {"modules": ["key", "value"], "rank": 4, "alpha": 5},
                        ],
                        "trainEmbeddings": True,
                    },
                }
            },
            trainer.Lora(
                rank=16,
                alpha=8,
                scaling="RankStabilized",
                initialization="PiSSA",
                weight_decomposition=True,
                exclude_modules=("mlp.gate",),
                module_ranks=(
                    trainer.ModuleRank(modules=("query",), rank=64, alpha=8),
                    trainer.ModuleRank(modules=("key", "value"), rank=4, alpha=5),
                ),
                train_embeddings=True,
            ),
        ),
        (
            {
                "task": "TextGeneration",
                "method": {
                    "type": "LoRA",
                    "lora": {"trainEmbeddings": True, "addedTokens": ["<|sql|>", "<|ticket|>"]},
                },
            },
            trainer.Lora(rank=16, train_embeddings=True, added_tokens=("<|sql|>", "<|ticket|>")),
        ),
        (
            {"method": {"type": "LoRA", "lora": {"quantization": "NF4"}}},
            trainer.Lora(rank=16, quantization="NF4"),
        ),
        (
            {"method": {"type": "LoRA", "lora": {"moduleRanks": [{"modules": ["query"], "rank": 64}]}}},
            trainer.Lora(module_ranks=(trainer.ModuleRank(modules=("query",), rank=64, alpha=128),)),
        ),
        (
            {"method": {"type": "LoRA"}, "output": {"servedBaseName": "org/minilm"}},
            trainer.Lora(rank=16, alpha=32, served_base_name="org/minilm"),
        ),
        (
            {"method": {"type": "FreezeLayers", "freezeLayers": {"trainLast": 2}}},
            trainer.FreezeLayers(train_last=2),
        ),
    ],
)
def test_the_config_holds_the_method(spec: Manifest, method: trainer.Method) -> None:
    job = scenes.job_of({"spec": spec})
    config = jobs.config_of(made(job, Stage.TRAIN, chosen=scenes.CHOSEN, prepared=scenes.DIGEST))

    assert config
    assert config.run.method == method


def test_methods_and_their_numbers_have_digests_of_their_own() -> None:
    methods = ["Full", trainer.Lora(), trainer.Lora(rank=8), trainer.FreezeLayers(train_last=1)]
    methods += [trainer.Lora(added_tokens=tokens) for tokens in (("<|a|>", "<|b|>"), ("<|b|>", "<|a|>"))]
    run = scenes.asked_of(scenes.job_of(), scenes.settings()).run

    assert len({run.model_copy(update={"method": method}).digest() for method in methods}) == len(methods)


def test_the_config_holds_all_files_of_a_split_and_a_single_file_stays_a_uri() -> None:
    def dataset(changes: Manifest) -> trainer.Dataset:
        return scenes.asked_of(scenes.job_of({"spec": {"dataset": changes}}), scenes.settings()).run.dataset

    several = ["s3://data/a/", "s3://data/b.parquet"]
    asked = dataset({"train": {"uri": None, "uris": several}, "test": {"uri": "s3://data/test/"}})
    assert (asked.train.uri, asked.train.uris) == (None, tuple(several))
    assert (asked.test.uri, asked.test.uris, asked.test.split) == ("s3://data/test/", (), None)
    assert (asked.validation.uri, asked.validation.split) == (None, 0.1)
    assert trainer.digest_of(dataset({})) != trainer.digest_of(asked)
    plain = dataset({}).model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert plain["train"] == {"uri": "s3://data/train.jsonl"}


def test_output_and_runs_are_where_the_contract_says() -> None:
    job = scenes.job_of({"spec": {"output": {"uri": "s3://models/support", "suffix": None}}})

    assert trainer_config.output_uri(job) == "s3://models/support/demo/tickets/0b5c3f1e/"
    assert trainer_config.runs_uri(job) == f"s3://models/.finetune-runs/demo/{scenes.UID}/"


def test_jobs_with_the_same_output_share_no_folder() -> None:
    jobs = [
        scenes.job_of({"metadata": meta})
        for meta in ({}, {"name": "other"}, {"namespace": "other"}, {"name": "demo", "namespace": "tickets"})
    ]
    folders = {trainer_config.output_uri(job) for job in jobs}

    assert folders == {
        "s3://models/support/demo/tickets/v2/",
        "s3://models/support/demo/other/v2/",
        "s3://models/support/other/tickets/v2/",
        "s3://models/support/tickets/demo/v2/",
    }
    later = {
        "metadata": {"uid": "99999999-7a52-4d3c-9f5e-2f3a9c1d8e7b"},
        "spec": {"output": {"suffix": None}},
    }
    assert trainer_config.output_uri(scenes.job_of(later)) == "s3://models/support/demo/tickets/99999999/"


def test_a_job_sets_the_hang_timeout_of_all_its_stages() -> None:
    changed = scenes.job_of({"spec": {"failurePolicy": {"hangTimeout": "20m"}}})
    for stage in (Stage.PREPARE, Stage.TRAIN, Stage.PUBLISH):
        configs = [jobs.config_of(made(job, stage)) for job in (scenes.job_of(), changed)]
        assert [config and config.hang_timeout_seconds for config in configs] == [600, 1200]


def test_the_spec_digest_changes_with_the_work_only() -> None:
    def digest(spec: Manifest) -> str:
        return scenes.asked_of(scenes.job_of({"spec": spec}), scenes.settings()).spec_digest

    same: list[Manifest] = [
        {},
        {"suspend": True},
        {"ttl": {"afterFinished": "1h"}},
        {"training": {"seed": 42}},
    ]
    other: list[Manifest] = [
        {"training": {"seed": 43}},
        {"storage": {"secretRef": {"name": "other"}}},
        {"storage": {"caBundleRef": None}},
        {"resources": {"memory": "9Gi"}},
    ]
    assert len({digest(spec) for spec in same}) == 1
    assert len({digest(spec) for spec in [{}, *other]}) == 1 + len(other)


@pytest.mark.parametrize(
    ("ids", "shown"),
    [
        ({"runAsUser": None, "runAsGroup": None, "fsGroup": None}, {}),
        ({"runAsUser": None, "fsGroup": 1234}, {"runAsGroup": 10001, "fsGroup": 1234}),
    ],
)
def test_ids_that_the_platform_chooses_are_left_out(ids: Manifest, shown: Manifest) -> None:
    configured = scenes.settings().model_copy(update={"pod_security": PodSecurity.model_validate(ids)})
    job = scenes.job_of()
    made = jobs.stage_job(job, scenes.asked_of(job, configured), configured, Stage.PREPARE, 1)

    assert made["spec"]["template"]["spec"]["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
        **shown,
    }


@pytest.mark.parametrize(("quantity", "number"), [("500m", 0.5), ("2", 2), ("1.5", 1.5), ("2k", 2000)])
def test_quantities_are_numbers(quantity: str, number: float) -> None:
    assert quantities.parse(quantity) == number


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.CLEANUP])
def test_labels_and_annotations_of_the_profile_are_on_the_pods_only(stage: Stage) -> None:
    own = {
        "pod_labels": {"sidecar.istio.io/inject": "false"},
        "pod_annotations": {"linkerd.io/inject": "disabled"},
    }
    plain = made(scenes.job_of(), stage)
    job = made(scenes.job_of(), stage, settings={"profiles": {"default": own}})

    before, meta = plain["spec"]["template"]["metadata"], job["spec"]["template"]["metadata"]
    assert meta["labels"] == before["labels"] | own["pod_labels"]
    assert meta["annotations"] == before["annotations"] | own["pod_annotations"]
    assert job["metadata"] == plain["metadata"]


FABRIC = {
    "env": {"NCCL_IB_HCA": "mlx5_0,mlx5_1", "NCCL_DEBUG": "WARN"},
    "extended_resources": {"rdma/hca": 2},
    "ipc_lock": True,
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "fabric", "operator": "Exists"}]}]
            }
        }
    },
}


def test_train_pods_with_gpus_get_the_network_of_the_profile() -> None:
    settings = {"profiles": {"default": FABRIC}}
    job = scenes.job_of({"spec": {"resources": {"gpusPerNode": 1, "nodes": 2}}})
    spec = made(job, Stage.TRAIN, settings=settings)["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env.items() >= FABRIC["env"].items()
    assert container["resources"]["limits"]["rdma/hca"] == "2"
    assert container["resources"]["requests"]["rdma/hca"] == "2"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["IPC_LOCK"]}
    assert spec["affinity"] == FABRIC["affinity"]


def test_avoided_nodes_are_added_to_the_affinity_of_the_profile() -> None:
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    wish = {"weight": 1, "preference": {"matchExpressions": [{"key": "rack", "operator": "Exists"}]}}
    own = scenes.merged(FABRIC, {"affinity": {"nodeAffinity": {preferred: [wish]}, "podAffinity": {"a": 1}}})
    settings = {"profiles": {"default": own}}
    spec = made(scenes.job_of(), Stage.TRAIN, settings=settings, gang=Gang(avoided_nodes=("n1", "n2")))[
        "spec"
    ]["template"]["spec"]
    fields = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n1", "n2")]
    avoiding = {"weight": 100, "preference": {"matchFields": fields}}
    assert spec["affinity"] == scenes.merged(own["affinity"], {"nodeAffinity": {preferred: [wish, avoiding]}})
    assert (
        made(scenes.job_of(), Stage.TRAIN, settings=settings)["spec"]["template"]["spec"]["affinity"]
        == (own["affinity"])
    )


def test_a_smaller_gang_has_fewer_pods_of_the_same_run() -> None:
    job = scenes.job_of({"spec": {"resources": {"nodes": 3, "minNodes": 1}}})
    whole, two, one = (made(job, Stage.TRAIN, gang=Gang(nodes=nodes)) for nodes in (None, 2, 1))
    for manifest, pods in ((whole, 3), (two, 2), (one, 1)):
        config = jobs.config_of(manifest)
        assert config
        assert manifest["spec"]["completions"] == manifest["spec"]["parallelism"] == pods
        assert (config.world.nodes, config.run.world.nodes, config.min_nodes) == (pods, 3, None)
        spread = "topologySpreadConstraints" in manifest["spec"]["template"]["spec"]
        assert spread is (pods > 1)
    assert len({m["metadata"]["annotations"][names.ANNOTATION_CONFIG_DIGEST] for m in (whole, two, one)}) == 1


@pytest.mark.parametrize(("least", "told"), [(None, None), (1, 1), (3, None)])
def test_prepare_knows_the_smallest_gang(least: int | None, told: int | None) -> None:
    resources = {"nodes": 3} | ({"minNodes": least} if least else {})
    config = jobs.config_of(made(scenes.job_of({"spec": {"resources": resources}}), Stage.PREPARE))
    assert config
    assert (config.min_nodes, config.nodes) == (told, None)


def test_other_pods_do_not_get_the_network_of_the_profile() -> None:
    job = scenes.job_of({"spec": {"resources": {"gpusPerNode": 1, "nodes": 2}}})
    for stage in (Stage.PREPARE, Stage.PUBLISH, Stage.CLEANUP):
        assert made(job, stage, settings={"profiles": {"default": FABRIC}}) == made(job, stage)
    on_cpus = made(scenes.job_of(), Stage.TRAIN, settings={"profiles": {"default": FABRIC}})
    (container,) = on_cpus["spec"]["template"]["spec"]["containers"]
    assert "rdma/hca" not in container["resources"]["limits"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("env", {"HOME": "/root"}),
        ("env", {"POD_NAME": "x"}),
        ("env", {"1A": "x"}),
        ("extended_resources", {"cpu": 1}),
        ("extended_resources", {"rdma/hca": 0}),
        ("affinity", {"nodeName": {}}),
    ],
)
def test_a_profile_cannot_set_what_the_operator_sets(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        scenes.settings({"profiles": {"default": {field: value}}})


@pytest.mark.parametrize(
    "name",
    [
        names.LABEL_ROLE,
        "x.finetune.dev/y",
        "batch.kubernetes.io/job-name",
        "job-name",
        "controller-uid",
        "a b",
    ],
)
@pytest.mark.parametrize("field", ["pod_labels", "pod_annotations"])
def test_a_profile_cannot_set_labels_of_the_operator(field: str, name: str) -> None:
    with pytest.raises(ValidationError, match=name.partition("/")[0]):
        scenes.settings({"profiles": {"default": {field: {name: "x"}}}})


def test_the_key_of_the_progress_is_added_to_a_copy_of_the_job() -> None:
    plain = made(scenes.job_of({}), Stage.TRAIN)
    before = copy.deepcopy(plain)
    keyed = jobs.with_progress_key(plain, "a key")
    assert plain == before
    annotations = keyed["spec"]["template"]["metadata"]["annotations"]
    assert annotations.pop("finetune.dev/progress-key") == "a key"
    assert keyed == before


@pytest.mark.parametrize(
    ("resources", "profile", "needed", "memory"),
    [
        ({}, {}, None, "8Gi"),
        ({}, {}, 8 * 2**30, "8Gi"),
        ({}, {}, 8 * 2**30 + 1, "8193Mi"),
        ({}, {"maxMemory": "100Gi"}, 144 * 2**30, "100Gi"),
        ({}, {"maxMemory": "100Gi"}, 60 * 2**30, "61440Mi"),
        ({"memory": "4Gi"}, {}, 60 * 2**30, "4Gi"),
    ],
)
def test_train_pods_have_the_memory_that_they_need(
    resources: Manifest, profile: Manifest, needed: int | None, memory: str
) -> None:
    job, settings = scenes.job_of({"spec": {"resources": resources}}), {"profiles": {"default": profile}}
    (container,) = made(job, Stage.TRAIN, settings=settings, needs=Needs(memory=needed))["spec"]["template"][
        "spec"
    ]["containers"]
    assert container["resources"]["limits"]["memory"] == memory
    assert container["resources"]["requests"]["memory"] == memory


@pytest.mark.parametrize(
    ("needed", "scratch", "storage"),
    [(None, "50Gi", "103424Mi"), (50 * 2**30, "50Gi", "103424Mi"), (300 * 2**30, "307200Mi", "615424Mi")],
)
def test_volumes_for_files_have_the_size_that_they_need(
    needed: int | None, scratch: str, storage: str
) -> None:
    settings = {"limitEphemeralStorage": True}
    job = made(scenes.job_of(), Stage.TRAIN, settings=settings, needs=Needs(scratch=needed))
    spec = job["spec"]["template"]["spec"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert volumes["tmp"]["emptyDir"] == volumes["cache"]["emptyDir"] == {"sizeLimit": scratch}
    assert spec["containers"][0]["resources"]["limits"]["ephemeral-storage"] == storage


def test_the_publish_pod_has_the_memory_that_it_needs() -> None:
    spec = made(scenes.job_of(), Stage.PUBLISH, needs=Needs(memory=20 * 2**30))["spec"]["template"]["spec"]
    assert spec["containers"][0]["resources"]["limits"]["memory"] == "20480Mi"


@pytest.mark.parametrize(
    ("resources", "profile", "limits"),
    [
        ({}, {}, trainer.MemoryLimits()),
        ({}, {"gpuMemory": "80Gi"}, trainer.MemoryLimits(gpu=80 * 2**30)),
        ({}, {"maxMemory": "1Ti"}, trainer.MemoryLimits(train=2**40)),
        ({"memory": "64Gi"}, {"maxMemory": "1Ti"}, trainer.MemoryLimits(train=2**36)),
    ],
)
def test_prepare_is_told_the_memory_in_which_the_job_must_fit(
    resources: Manifest, profile: Manifest, limits: trainer.MemoryLimits
) -> None:
    job, settings = scenes.job_of({"spec": {"resources": resources}}), {"profiles": {"default": profile}}
    config = jobs.config_of(made(job, Stage.PREPARE, settings=settings))
    assert config
    assert config.memory == limits
    other = jobs.config_of(made(job, Stage.TRAIN, settings=settings, chosen=scenes.CHOSEN))
    assert other
    assert other.memory is None
    assert other.run.digest() == config.run.digest()
