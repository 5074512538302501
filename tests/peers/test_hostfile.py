"""Hostfiles of MLX: what is read of them, and one sentence for every other file."""

import json
from pathlib import Path

import pytest
from mlx._distributed_utils.common import Host, Hostfile

from dsv4_mlx.errors import UsageError
from dsv4_mlx.peers.hostfile import meeting_place, read_hosts, read_ring, ring_text

HOSTS = [{"ssh": "studio", "ips": ["10.0.0.1"]}, {"ssh": "mini.local", "ips": ["10.0.0.2"]}]


def written(folder: Path, found: object) -> Path:
    path = folder / "hosts.json"
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    return path


def test_the_file_of_distributed_config_is_read(tmp_path: Path) -> None:
    hosts = [Host(0, "studio", ["10.0.0.1"], []), Host(1, "mini", ["10.0.0.2", "10.0.1.2"], [])]
    found = read_hosts(written(tmp_path, Hostfile(hosts, "ring", ["A=b=c"]).to_json()))
    assert [host.ssh for host in found.hosts] == ["studio", "mini"]
    assert found.backend == "ring" and found.variables == {"A": "b=c"}
    ring = found.ring(32323)
    assert ring == (("10.0.0.1:32323",), ("10.0.0.2:32324", "10.0.1.2:32325"))
    assert meeting_place(ring) == ("10.0.0.1", 32326)


def test_a_list_of_hosts_and_places_of_ones_own_are_read(tmp_path: Path) -> None:
    mini = HOSTS[1] | {"python": "/opt/python", "model": "/Volumes/pro"}
    found = read_hosts(written(tmp_path, [HOSTS[0], mini]))
    assert (found.hosts[1].python, found.hosts[1].model) == ("/opt/python", "/Volumes/pro")
    assert not found.hosts[1].is_local


def test_the_kernel_that_spins_stays_off(tmp_path: Path) -> None:
    table = {"backend": "ring", "envs": ["MLX_METAL_FAST_SYNCH=1", "X=1"], "hosts": HOSTS}
    assert read_hosts(written(tmp_path, table)).variables == {"X": "1"}


def test_jaccl_needs_devices(tmp_path: Path) -> None:
    table = {"backend": "jaccl", "hosts": HOSTS}
    with pytest.raises(UsageError, match="no RDMA devices"):
        read_hosts(written(tmp_path, table))
    with_devices = [
        HOSTS[0] | {"rdma": [None, "rdma_en2"]},
        HOSTS[1] | {"rdma": ["rdma_en3", None]},
    ]
    found = read_hosts(written(tmp_path, {"backend": "jaccl", "hosts": with_devices}))
    assert found.hosts[1].rdma == ("rdma_en3", None)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([HOSTS[0]], "names 1 machine; a model runs on exactly two"),
        (HOSTS + HOSTS[:1], "names 3 machines; a model runs on exactly two"),
        ("{", "not valid JSON"),
        ({"backend": "ring"}, "no list of hosts"),
        ("3", "no list of hosts"),
        ([HOSTS[0], {"ssh": "mini"}], '"ips", a list'),
        ([HOSTS[0], {"ssh": "mini", "ips": []}], '"ips", a list'),
        ([HOSTS[0], {"ssh": "mini", "ips": "10.0.0.2"}], '"ips", a list'),
        ([HOSTS[0], {"ssh": "-oProxyCommand=x", "ips": ["10.0.0.2"]}], "is no name of a host"),
        ({"backend": "mpi", "hosts": HOSTS}, "the backend 'mpi', expected ring or jaccl"),
    ],
)
def test_other_files_are_refused_in_one_sentence(
    tmp_path: Path, found: object, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        read_hosts(written(tmp_path, found))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_hosts(tmp_path / "none.json")


def test_a_ring_is_read_as_it_is_written(tmp_path: Path) -> None:
    ring = (("10.0.0.1:5000", "10.0.1.1:5001"), ("10.0.0.2:5000",))
    assert read_ring(written(tmp_path, ring_text(ring))) == ring


@pytest.mark.parametrize(
    "found", [{"hosts": []}, [["10.0.0.1:1"], []], [["10.0.0.1"], ["b:2"]], [["a:x"], ["b:70000"]]]
)
def test_what_is_no_ring_is_refused(tmp_path: Path, found: object) -> None:
    with pytest.raises(UsageError, match="no hostfile of MLX"):
        read_ring(written(tmp_path, found))
