"""Where the photographs and reference files are; servers on loopback; executors."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import os
import signal
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from PIL import Image

from pipeline.execute import choose
from pipeline.execute.choose import make_executor
from pipeline.execute.executor import Executor
from pipeline.execute.local import LocalExecutor
from pipeline.execute.worker import Worker
from pipeline.match import plan
from pipeline.reconstruct import job
from pipeline.reconstruct.models import refining

PROJECT = Path(__file__).resolve().parents[1]
PIXELS_OF_PILLOW = Image.MAX_IMAGE_PIXELS
# The examples are the same in every run, and few: a property that fails is found all the same.
settings.register_profile("same", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("same")


# Files that start Ray. One process of the suite takes them all, because two clusters at once on two
# CPUs wait for each other.
ON_RAY = (
    "tests/cli/test_match_command.py",
    "tests/cli/test_rerank_command.py",
    "tests/execute/",
    "tests/jobs/",
    "tests/match/test_detail.py",
    "tests/match/test_scales.py",
)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give whole files to the processes of the suite, and those of ON_RAY to one of them."""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(ON_RAY) else nodeid.partition("::")[0]

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with ON_RAY where processes share the suite, because these tests take longest."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: not item.nodeid.startswith(ON_RAY))


def _folder(variable: str, default: Path) -> Path:
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set {variable} to the folder to run this test")
    return folder


@pytest.fixture(scope="session")
def data() -> Path:
    """Photographs with ground truth, one folder a set."""
    return _folder("ELOFTR_DATA", PROJECT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def reference() -> Path:
    """Outputs of the authors' code, and the script that writes the checkpoint they were computed
    from.
    """
    return _folder("ELOFTR_REFERENCE", PROJECT.parent / "shared" / "reference")


@pytest.fixture(scope="session")
def reference_checkpoint(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference checkpoint, original keys, as one safetensors file."""
    from safetensors.numpy import save_file

    spec = importlib.util.spec_from_file_location(
        "reference_checkpoint", reference / "reference_checkpoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    path = tmp_path_factory.mktemp("reference") / "reference.safetensors"
    save_file(module.checkpoint(), path)
    return path


@contextmanager
def _serve(folder: Path) -> Iterator[str]:
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="session")
def served() -> Iterator[Callable[[Path], str]]:
    """Serve a folder over HTTP on loopback: its address."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(_serve(folder))


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A loopback S3 server with one empty bucket: the storage options that reach it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "endpoint_url": f"http://{host}:{port}",
        "key": "hidden-user",
        "secret": "hidden-password",
    }
    import fsspec

    # All servers of a process share their buckets: begin with none, whatever ran before.
    reset = urllib.request.Request(f"{options['endpoint_url']}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()
    fsspec.filesystem("s3", **options).mkdir("bucket")
    yield options
    server.stop()


@pytest.fixture(scope="session")
def embedded_ray() -> Iterator[str]:
    """A Ray node of two CPUs in this process, for all tests that need one; its address."""
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as lasting:
        # Nobody counts the clusters of tests, and what would is an actor that takes seconds.
        lasting.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with pytest.MonkeyPatch.context() as patched:
            # Workers of Ray step back behind whatever else the machine does, and a test would wait
            # for them.
            patched.setenv("RAY_worker_niceness", "0")
            # Ray ends what has no work for a second, and the next test would wait for new
            # processes.
            patched.setenv("RAY_idle_worker_killing_time_threshold_ms", "30000")
            patched.setenv("CUDA_VISIBLE_DEVICES", "")
            patched.setenv("RAY_AUTH_MODE", "disabled")  # as of the jobs that join it
            # Workers find what this process does. Ray's own way to say so costs a second a worker.
            patched.setenv("PYTHONPATH", os.pathsep.join(path or os.getcwd() for path in sys.path))
            patched.delenv("RAY_ADDRESS", raising=False)
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                configure_logging=False,
                object_store_memory=1 << 28,
            )
            signal.signal(signal.SIGTERM, handler)  # Ray has one of its own
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


class _Kept(LocalExecutor):
    """Its processes serve the whole suite. Each has spent seconds on importing torch."""

    def __exit__(self, *error: object) -> None:
        pass

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """As `Worker`: one of these processes, unless its caller left it dead or at work."""
        worker = self.spare.pop() if self.spare else Worker()
        try:
            yield worker
        finally:
            if worker.busy:
                worker.close()
            elif worker.process.poll() is None:
                self.spare.append(worker)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """As `worker.call`, by one of these processes."""
        with self.worker() as worker:
            return worker.ask(function, *arguments)


@pytest.fixture(scope="session")
def kept_executor() -> Iterator[_Kept]:
    """For tests that ask nothing of the start and the end of its processes."""
    executor = _Kept()
    yield executor
    LocalExecutor.__exit__(executor)


@pytest.fixture(scope="module")
def kept_processes(kept_executor: _Kept) -> Iterator[None]:
    """Whatever works with local processes in a module has those of `kept_executor`, COLMAP too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choose, "LocalExecutor", lambda: kept_executor)
        for module in (job, refining):
            patched.setattr(module, "Worker", kept_executor.worker)
        patched.setattr(plan, "call", kept_executor.call)  # times a match for an estimate
        yield


@pytest.fixture(params=["local", "ray"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """What carries out stages, on two CPUs."""
    if request.param == "ray":
        request.getfixturevalue("embedded_ray")
    with make_executor(request.param) as made:
        yield made


@pytest.fixture(params=["local", "ray"])
def kept_executors(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """As `executor`, for tests that ask nothing of the start and the end of local processes."""
    if request.param == "local":
        yield request.getfixturevalue("kept_executor")
        return
    request.getfixturevalue("embedded_ray")
    with make_executor(request.param) as made:
        yield made


@pytest.fixture(autouse=True, scope="session")
def _own_share_of_cpus() -> None:
    """As many threads as leave the other processes of the suite their CPUs."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, min(2, os.cpu_count() or 1) // processes))


@pytest.fixture(autouse=True, scope="module")
def _limit_of_pillow() -> None:
    """Stages that read raise Pillow's limit of their process, here that of other tests."""
    Image.MAX_IMAGE_PIXELS = PIXELS_OF_PILLOW
