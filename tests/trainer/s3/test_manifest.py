import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from finetune_trainer.config import JobRef
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.digests import digest_of_file
from finetune_trainer.s3.manifest import (
    MANIFEST,
    Manifest,
    ManifestFile,
    download_folder,
    read_manifest,
    upload_folder,
)
from finetune_trainer.s3.store import Store
from tests.trainer.storage import on_both_stores

ONE = "sha256:" + "1" * 64


def manifest_of(folder: Path) -> Manifest:
    job = JobRef(namespace="team", name="tickets", uid="1234", generation=1)
    return Manifest.of(
        folder, job=job, created="2026-01-01T00:00:00Z", base_model=ONE, data=ONE, config=ONE, lineage=()
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "evaluation").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "evaluation" / "rows.jsonl").write_text("[]\n")
    (made / MANIFEST).write_text("an older one")
    return made


def test_a_manifest_lists_all_files_except_itself(folder: Path) -> None:
    manifest = manifest_of(folder)
    assert [file.path for file in manifest.files] == ["config.json", "evaluation/rows.jsonl"]
    assert [file.digest for file in manifest.files] == [
        digest_of_file(folder / file.path) for file in manifest.files
    ]
    assert manifest.size == 5
    assert Manifest.model_validate_json(manifest.encode()) == manifest
    assert manifest.encode() == manifest_of(folder).encode()


@pytest.mark.parametrize(
    "path", ["../x", "a/../x", "a/..", "..", "./x", "/x", "a//b", "a/", "", "a b", "a\\b", "x" * 300]
)
def test_a_path_outside_the_folder_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        ManifestFile(path=path, size=1, digest=ONE)


@on_both_stores
def test_a_downloaded_folder_is_equal_to_the_uploaded_folder(
    store: Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/model/"
    digest = upload_folder(store, folder, uri, manifest_of(folder))
    assert download_folder(store, uri, tmp_path / "back") == manifest_of(folder)
    assert (tmp_path / "back/evaluation/rows.jsonl").read_text() == "[]\n"
    store.download(uri + MANIFEST, tmp_path / "manifest")
    assert digest_of_file(tmp_path / "manifest") == digest


def test_the_manifest_is_written_last(store: Store, bucket: str, folder: Path) -> None:
    manifest = manifest_of(folder)
    (folder / "evaluation" / "rows.jsonl").write_text("changed")
    with pytest.raises(StageFailure, match="FileChanged"):
        upload_folder(store, folder, f"s3://{bucket}/model/", manifest)
    assert read_manifest(store, f"s3://{bucket}/model/") is None


@on_both_stores
def test_a_folder_without_a_manifest_or_with_changed_files_is_refused(
    store: Store, bucket: str, folder: Path, tmp_path: Path
) -> None:
    uri = f"s3://{bucket}/model/"
    upload_folder(store, folder, uri, manifest_of(folder))
    store.write(uri + "config.json", b"[]")
    with pytest.raises(StageFailure, match="ObjectCorrupt") as caught:
        download_folder(store, uri, tmp_path / "back")
    assert "config.json" in caught.value.message
    store.delete([uri + "config.json"])
    with pytest.raises(StageFailure, match="ObjectMissing"):
        download_folder(store, uri, tmp_path / "back")
    for content in (b"", b"{}", json.dumps({"files": []}).encode()):
        store.write(uri + MANIFEST, content)
        with pytest.raises(StageFailure, match="FolderIncomplete"):
            download_folder(store, uri, tmp_path / "back")
