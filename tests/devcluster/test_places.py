import subprocess
import sys
from pathlib import Path

from devcluster.places import locked, write_whole


def test_a_written_file_replaces_the_old_one_and_leaves_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    write_whole(target, "old")
    write_whole(target, b"new", mode=0o600)
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(target.parent.iterdir()) == [target]


def test_a_lock_keeps_other_processes_out_until_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    holding = "import sys; from pathlib import Path; from devcluster.places import locked\n"
    holding += "with locked(Path(sys.argv[1])):\n print('held', flush=True)\n import time; time.sleep(600)"
    asking = ["flock", "--nonblock", str(lock), "true"]
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", holding, lock], stdout=subprocess.PIPE, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert subprocess.run(asking, check=False).returncode == 1
        holder.kill()
    with locked(lock):
        assert subprocess.run(asking, check=False).returncode == 1
    assert subprocess.run(asking, check=False).returncode == 0
