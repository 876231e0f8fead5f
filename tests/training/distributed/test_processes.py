import csv
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from cafe_cli.config.load import dump_config
from cafe_cli.config.schema import TrainSettings
from cafe_cli.errors import ConfigError, InputError, TrainingError
from cafe_cli.model import stored
from cafe_cli.training.distributed import processes, sync_batchnorm
from cafe_cli.training.distributed.processes import Launcher, Processes, detect_launcher, plan
from cafe_cli.training.report.run import BEST
from cafe_cli.training.train import train
from tests.support.engines import settings

pytest_plugins = ["tests.support.fixtures"]
pytestmark = [pytest.mark.slow, pytest.mark.distributed]

CHANGES = {
    "train__epochs": 2, "train__batch_size": 6, "train__accumulate": 3, "train__freeze_epochs": 1,
    "train__optimizer": "sgd", "train__learning_rate": 1e-2, "train__checkpointing": True,
}  # fmt: skip
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {
    "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
}  # fmt: skip


@pytest.fixture
def environment(monkeypatch):
    for name in (*TORCHRUN, *SRUN, *processes._NAMES, "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(*pair) for pair in values.items()]


# --- how many ----------------------------------------------------------------------------------


def test_processes_of_the_settings(environment):
    assert detect_launcher() is None
    assert plan("cpu", TrainSettings()).world == 1
    assert plan("cpu", TrainSettings(devices=3)).world == 3


@pytest.mark.parametrize(("started", "name"), [(TORCHRUN, "torchrun"), (SRUN, "srun")])
def test_processes_of_a_launcher(environment, started, name):
    environment(started)
    assert detect_launcher() == Launcher(name, devices=2, nodes=2)
    assert plan("cpu", TrainSettings()).world == 4
    assert plan("cpu", TrainSettings(devices=2, num_nodes=2)).world == 4
    message = rf"train\.devices is 3, but {name} started 2 process\(es\) on each of 2 node\(s\)"
    with pytest.raises(ConfigError, match=message):
        plan("cpu", TrainSettings(devices=3))
    with pytest.raises(ConfigError, match=r"train\.num_nodes is 1, but"):
        plan("cpu", TrainSettings(num_nodes=1))


def test_job_without_srun(environment):
    environment({k: v for k, v in SRUN.items() if k != "SLURM_STEP_ID"})
    with pytest.raises(ConfigError, match="has 4 tasks, but one process was started: begin"):
        detect_launcher()


def test_tasks_without_a_number_per_node(environment):
    environment({k: v for k, v in SRUN.items() if k != "SLURM_NTASKS_PER_NODE"})
    with pytest.raises(ConfigError, match=r"4 tasks, .* srun --nodes 2 --ntasks-per-node 2"):
        detect_launcher()


def test_a_machine_with_srun_needs_no_srun(environment, monkeypatch, tmp_path):
    """Nothing is said where SLURM is installed and a run has one process."""
    (tmp_path / "srun").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    launched = processes.launch(plan("cpu", TrainSettings()), TrainSettings())
    assert launched.world == 1


@pytest.mark.parametrize(
    ("restarts", "shared", "warned"),
    [("3", "True", True), ("3", "False", False), ("0", "True", False), (None, None, False)],
)
def test_restarts_that_would_fail(environment, caplog, restarts, shared, warned):
    values = {"TORCHELASTIC_MAX_RESTARTS": restarts, "TORCHELASTIC_USE_AGENT_STORE": shared}
    environment({name: value for name, value in values.items() if value is not None})
    processes.launch(plan("cpu", TrainSettings()), TrainSettings())
    assert ("begin with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun" in caplog.text) == warned


def test_nodes_without_a_launcher(environment):
    environment({"MASTER_ADDR": "10.0.0.1", "NODE_RANK": "1"})
    with pytest.raises(ConfigError, match=r"train\.num_nodes is 2: .*\(MASTER_PORT is missing\)"):
        plan("cpu", TrainSettings(num_nodes=2))


def test_one_gpu_for_several_processes(environment, monkeypatch):
    monkeypatch.setattr(processes, "choose_device", lambda name: torch.device("cuda", 1))
    with pytest.raises(ConfigError, match="cuda:1 is one GPU, but the run has 2 processes"):
        plan("cuda:1", TrainSettings(devices=2))


def test_more_processes_than_gpus(environment, monkeypatch):
    monkeypatch.setattr(processes, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"train\.devices is 2, but 1 GPU\(s\) were found"):
        plan("cuda", TrainSettings(devices=2))


@pytest.mark.parametrize(
    ("asked", "device", "capability", "found"),
    [
        ("auto", "cpu", None, "32-true"),
        ("auto", "cuda", (7, 5), "32-true"),  # imitates bf16, slowly
        ("auto", "cuda", (8, 0), "bf16-mixed"),
        ("32-true", "cuda", (9, 0), "32-true"),
        ("bf16-mixed", "cpu", None, "bf16-mixed"),
    ],
)
def test_precision(monkeypatch, asked, device, capability, found):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = processes.precision_of(TrainSettings(precision=asked), torch.device(device))
    assert chosen.precision == found


@pytest.mark.parametrize(
    ("name", "rank", "first"),
    [
        ("RANK", "0", True),
        ("RANK", "2", False),
        ("SLURM_PROCID", "1", False),
        ("NODE_RANK", "1", 0),
    ],
)
def test_who_speaks(environment, name, rank, first):
    assert processes.is_first()
    environment({name: rank})
    assert processes.is_first() == bool(first)


@pytest.mark.parametrize("rank", ["0", "3"])
def test_who_speaks_where_srun_starts_torchrun(environment, rank):
    """The first process of torchrun may be on a node that is not the first of SLURM."""
    environment({**TORCHRUN, **SRUN, "RANK": rank, "SLURM_PROCID": "1", "LOCAL_RANK": rank})
    assert processes.is_first() == (rank == "0")


# --- agreement ---------------------------------------------------------------------------------


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


class FakeFabric:
    def __init__(self, rank: int):
        self.global_rank, self.world_size = rank, 1


@pytest.mark.parametrize(
    ("rank", "spawned", "ends"), [(0, False, "no tile"), (1, False, "1"), (1, True, "0")]
)
def test_errors_are_shared(group, rank, spawned, ends):
    team = Processes(FakeFabric(rank), group, spawned)
    with pytest.raises((InputError, SystemExit), match=ends), team.sync_errors():
        raise InputError("no tile")
    with team.sync_errors():
        pass


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer"),
        dist.DistBackendError("remote process exited or there was a network error"),
        dist.DistNetworkError("Broken pipe"),
    ],
)
def test_loss_of_another_process(group, error):
    team = Processes(FakeFabric(0), group)
    with (
        pytest.raises(TrainingError, match="another process of this run has ended"),
        team.translate_peer_loss(),
    ):
        raise error


def test_other_errors_of_torch_are_left_alone(group):
    team = Processes(FakeFabric(0), group)
    with pytest.raises(RuntimeError, match="mat1 and mat2"), team.translate_peer_loss():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


def test_lone_error_of_a_spawned_process_is_logged(group, caplog):
    team = Processes(FakeFabric(1), group, spawned=True)
    with pytest.raises(TrainingError), team.translate_peer_loss():
        raise TrainingError("out of memory")
    assert "process 1: out of memory" in caplog.text


def test_one_process_needs_no_agreement():
    team = Processes(FakeFabric(0))
    assert team.gather(["a"]) == ["a"]
    assert team.max(3) == team.min(3) == 3
    with pytest.raises(InputError), team.sync_errors():
        raise InputError("no tile")


# --- batch normalisation -----------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
def test_shared_batch_norm_is_that_of_torch(group, affine):
    results = []
    for context in (torch.no_grad, None):
        torch.manual_seed(0)
        norm = torch.nn.BatchNorm2d(3, affine=affine)
        x = (torch.randn(4, 3, 5, 6) * 3 + 100).requires_grad_()
        shared = sync_batchnorm.sync_batch_norm(
            norm, torch.device("cpu"), world=2 if context is None else 1
        )
        with shared:
            y = norm(x)
        y.pow(3).sum().backward()
        own = [p.grad for p in norm.parameters()]
        results.append([y.detach(), x.grad, norm.running_mean, norm.running_var, *own])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_shared_batch_norm_leaves_inference_alone(group):
    norm = torch.nn.BatchNorm2d(3).eval()
    x = torch.randn(2, 3, 4, 4)
    with sync_batchnorm.sync_batch_norm(norm, torch.device("cpu"), world=2):
        assert torch.equal(norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, eps=1e-5,
                                                 weight=norm.weight, bias=norm.bias))  # fmt: skip


# --- two of them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tileset, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("single") / "run"
    train(tileset, output, settings(**CHANGES), device="cpu")
    return output


def assert_same_curve(output: Path, single: Path) -> None:
    rows = []
    for folder in (output, single):
        with (folder / "history.csv").open() as file:
            rows.append(list(csv.DictReader(file)))
    for mine, other in zip(*rows, strict=True):
        for name in ("loss", "student", "teacher"):
            assert float(mine[name]) == pytest.approx(float(other[name]), rel=1e-4)
        assert float(mine["miou"]) == pytest.approx(float(other["miou"]), abs=5e-3)
    cards = [stored.read_card(folder / BEST) for folder in (output, single)]
    assert cards[0].scores["pixels"] == cards[1].scores["pixels"]
    ours, theirs = (card.calibration for card in cards)
    assert ours.temperature == pytest.approx(theirs.temperature, rel=0.1)
    assert ours.before.error == pytest.approx(theirs.before.error, abs=5e-3)


def words_of(tileset: Path, tmp_path: Path, changes=CHANGES) -> list[object]:
    saved = tmp_path / "settings.toml"
    saved.write_text(dump_config(settings(**changes)))
    return ["train", tileset, "-c", saved, "-o", tmp_path / "run", "--device", "cpu"]


def in_a_process_of_its_own(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with words, however slow the machine, and whatever started the tests.

    A shell starts background jobs with SIGINT ignored, which processes hand on to their children;
    here it has its usual effect. Ports are chosen by the launchers.
    """
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        capture_output=True, text=True, timeout=1800, check=False,
        env={**kept, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **variables},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def test_two_processes(single, tileset, tmp_path):
    done = in_a_process_of_its_own("-m", "cafe_cli", *words_of(tileset, tmp_path), "--devices", 2)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\nwrote ") == 1  # the second process keeps quiet
    assert_same_curve(tmp_path / "run", single)


KILLED = """
import os, signal
from cafe_cli.cli.main import main
from cafe_cli.training.trainer import TrainingRun

finish_epoch = TrainingRun.finish_epoch

def finish_and_die(run, stop):
    found = finish_epoch(run, stop)
    if os.environ["RANK"] == "3" and not os.path.exists("{mark}"):
        open("{mark}", "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return found

TrainingRun.finish_epoch = finish_and_die
main()
"""


def test_torchrun_begins_again_on_two_nodes(tileset, tmp_path):
    """Two agents with two processes each, of which one is killed after the first epoch."""
    changes = {**CHANGES, "train__batch_size": 4, "train__accumulate": 1}
    train(tileset, tmp_path / "single", settings(**changes), device="cpu")
    (tmp_path / "killed.py").write_text(KILLED.format(mark=tmp_path / "mark"))
    launcher = [
        "-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 2, "--max-restarts", 1,
        # A file needs no free port; and a busy machine may be silent for long.
        "--rdzv-backend", "c10d", "--rdzv-endpoint", tmp_path / "store", "--rdzv-id", "run",
        "--rdzv-conf", "store_type=file,keep_alive_max_attempt=300", "--local-addr", "127.0.0.1",
    ]  # fmt: skip
    words = [tmp_path / "killed.py", *words_of(tileset, tmp_path, changes), "--resume"]
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with ThreadPoolExecutor(2) as pool:
        agents = [
            pool.submit(in_a_process_of_its_own, *launcher, *words, **apart) for _ in range(2)
        ]
        done = [agent.result() for agent in agents]
    spoken = "".join(agent.stderr for agent in done)
    assert [agent.returncode for agent in done] == [0, 0], spoken
    assert (tmp_path / "mark").exists()
    assert spoken.count("run holds no run to resume: training begins") == 1
    assert spoken.count("\nwrote ") == 1
    assert_same_curve(tmp_path / "run", tmp_path / "single")


def test_error_of_one_process_ends_all(tileset, tmp_path):
    other = tmp_path / "tiles"
    shutil.copytree(tileset, other, ignore=shutil.ignore_patterns("cache"))
    path = sorted((other / "train" / "image").iterdir())[2]
    path.write_bytes(path.read_bytes()[:200])
    words = [*words_of(other, tmp_path), "--devices", 2, "--set", "train.cache=none"]
    done = in_a_process_of_its_own("-m", "cafe_cli", "-q", *words)
    assert done.returncode == 1, done.stderr
    # gloo, or torch, may have something to say about a process that is gone.
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("Error: "))
    assert path.name in error
    assert "Traceback" not in done.stderr
