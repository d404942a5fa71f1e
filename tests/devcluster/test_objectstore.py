import io
import ssl
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from minio import Minio

from devcluster.objectstore import Kind, ObjectStore, object_store

ROOT = Path(__file__).parents[2]


def client(store: ObjectStore) -> Minio:
    pool = urllib3.PoolManager(ca_certs=str(store.ca_file)) if store.ca_file else None
    return Minio(
        endpoint=urlsplit(store.endpoint).netloc,
        access_key=store.access_key,
        secret_key=store.secret_key,
        secure=store.ca_file is not None,
        http_client=pool,
    )


@pytest.mark.parametrize("kind", ["minio", "versitygw"])
@pytest.mark.parametrize("tls", [True, False])
def test_an_object_comes_back_as_it_was_stored(tmp_path: Path, kind: Kind, *, tls: bool) -> None:
    with object_store(tmp_path, kind, tls=tls) as store:
        s3 = client(store)
        s3.make_bucket(bucket_name="bucket")
        s3.put_object(bucket_name="bucket", object_name="a/b", data=io.BytesIO(b"content"), length=7)
        assert s3.get_object(bucket_name="bucket", object_name="a/b").read() == b"content"
        assert (store.data / "bucket").is_dir()
    assert not Path(f"/proc/{store.pid}").exists()


def test_without_its_authority_the_server_is_not_trusted(tmp_path: Path) -> None:
    with object_store(tmp_path) as store:
        pool = urllib3.PoolManager(retries=False)
        with pytest.raises(urllib3.exceptions.SSLError) as refused:
            pool.request("GET", store.endpoint)
        assert isinstance(refused.value.args[0], ssl.SSLCertVerificationError)


def test_two_stores_are_strangers(tmp_path: Path) -> None:
    with object_store(tmp_path / "one") as one, object_store(tmp_path / "two") as two:
        assert one.endpoint != two.endpoint
        assert (one.access_key, one.secret_key) != (two.access_key, two.secret_key)


def test_the_server_ends_when_its_owner_is_killed(tmp_path: Path) -> None:
    owner = "import sys, time; from pathlib import Path; from devcluster.objectstore import object_store\n"
    owner += "with object_store(Path(sys.argv[1])) as store: print(store.pid, flush=True); time.sleep(600)"
    command = [sys.executable, "-c", owner, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
