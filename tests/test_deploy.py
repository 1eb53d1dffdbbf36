"""The files of deploy/ against the published schemas of Ray's launcher, EC2's RunInstances,
Kubernetes' pods, and RayJob.

KubeRay publishes the schema of RayJob with its operator alone. RAYJOB below has the fields of its
v1 API that we use. They were compared by hand with its resource definition and Go types. It also
refuses what the operator refuses beyond them: long names, and pods that restart by themselves under
Ray's autoscaler.
"""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from test_documentation import understood

from pipeline.execute.executor import Actors, Capacity

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
RAYJOBS = ("rayjob.yaml", "reconstruct.yaml")
# The largest process that mapped a block of 100 photographs held 0.59 GB, and blocks have 200. The
# processes of Ray on a node hold the rest; GB.
OF_A_BLOCK, OF_RAY = 2 * 0.59, 2.0


def loaded(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def closed(required: str, **properties: Any) -> dict[str, Any]:
    """An object with no other properties than these."""
    names = required.split()
    return {
        "type": "object",
        "properties": properties,
        "required": names,
        "additionalProperties": False,
    }


TEXT, WHOLE, YES, POD = (
    {"type": "string"},
    {"type": "integer", "minimum": 0},
    {"type": "boolean"},
    {"type": "object"},
)
TEXTS = {"type": "object", "additionalProperties": TEXT}
NAME = {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}
NEVER = {"properties": {"restartPolicy": {"const": "Never"}}}
GROUP = {"rayStartParams": TEXTS, "template": {**POD, "properties": {"spec": NEVER}}}
RAYJOB = closed(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata={"type": "object", "required": ["name"], "properties": {"name": NAME}},
    spec=closed(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        submitterPodTemplate=POD,
        shutdownAfterJobFinishes=YES,
        ttlSecondsAfterFinished=WHOLE,
        suspend=YES,
        rayClusterSpec=closed(
            "headGroupSpec",
            rayVersion=TEXT,
            enableInTreeAutoscaling=YES,
            autoscalerOptions=closed(
                "",
                idleTimeoutSeconds=WHOLE,
                upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
                resources=POD,
            ),
            headGroupSpec=closed("rayStartParams template", serviceType=TEXT, **GROUP),
            workerGroupSpecs={
                "type": "array",
                "items": closed(
                    "groupName minReplicas maxReplicas rayStartParams template",
                    groupName=TEXT,
                    replicas=WHOLE,
                    minReplicas=WHOLE,
                    maxReplicas=WHOLE,
                    numOfHosts=WHOLE,
                    **GROUP,
                ),
            },
        ),
    ),
)


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    """The pods of a RayJob, as Kubernetes would see them: submitter, head, workers."""
    cluster = job["spec"]["rayClusterSpec"]
    templates = [job["spec"]["submitterPodTemplate"], cluster["headGroupSpec"]["template"]]
    templates += [group["template"] for group in cluster["workerGroupSpecs"]]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        for template in templates
    ]


def check_rayjob(job: dict[str, Any]) -> None:
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    jsonschema.validate(job, RAYJOB)
    for pod in pods(job):
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)


def check_cluster(config: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    validate_config(fillout_defaults(copy.deepcopy(config)))
    botocore = pytest.importorskip("botocore.session", reason="botocore is not installed")
    validate = pytest.importorskip("botocore.validate")
    shape = (
        botocore.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    )
    for kind in config["available_node_types"].values():
        report = validate.ParamValidator().validate(
            {"MinCount": 1, "MaxCount": 1, **kind["node_config"]}, shape
        )
        assert not report.has_errors(), report.generate_report()
        known = set(shape.members)
        assert set(kind["node_config"]) <= known


@pytest.mark.parametrize("name", RAYJOBS)
def test_the_rayjobs_fit_the_schemas_of_kuberay_and_kubernetes(name: str) -> None:
    check_rayjob(loaded(name))


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("metadata", "name", "matching-of-all-the-photographs-of-a-large-old-town"),
        ("spec", "entryPoint", "python"),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplica", 4),
        ("spec.rayClusterSpec.workerGroupSpecs.0", "maxReplicas", "4"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams", "num-cpus", 0),
        ("spec.rayClusterSpec.autoscalerOptions", "upscalingMode", "Fast"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec", "toleration", []),
        ("spec.rayClusterSpec.workerGroupSpecs.1.template.spec", "restartPolicy", "OnFailure"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.template.spec.tolerations.0", "operator", 1),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0", "images", "x"),
    ],
)
def test_mistakes_in_a_rayjob_are_found(path: str, name: str, value: Any) -> None:
    job = loaded("rayjob.yaml")
    place: Any = job
    for step in path.split("."):
        place = place[int(step) if step.isdigit() else step]
    place[name] = value
    with pytest.raises(Exception, match=r"(?s).") as found:
        check_rayjob(job)
    assert type(found.value).__name__ in ("ValidationError", "SchemaError")


def test_the_cluster_fits_the_schemas_of_ray_and_ec2() -> None:
    check_cluster(loaded("cluster.yaml"))


def test_mistakes_in_a_cluster_are_found() -> None:
    config = loaded("cluster.yaml")
    config["available_node_types"]["gpu_spot"]["node_config"]["InstanceMarketOptions"][
        "MarketType"
    ] = 7
    with pytest.raises(AssertionError, match="MarketType"):
        check_cluster(config)
    config = loaded("cluster.yaml")
    config["head_node"] = config["available_node_types"]["head"]
    with pytest.raises(Exception, match="head_node"):
        check_cluster(config)


def test_both_have_a_cpu_head_and_bounded_gpu_workers_on_spot_and_on_demand() -> None:
    cluster = loaded("rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    spot, on_demand = cluster["workerGroupSpecs"]
    for group in (spot, on_demand):
        assert 0 == group["minReplicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert (
            container["resources"]["limits"]["nvidia.com/gpu"]
            == container["resources"]["requests"]["nvidia.com/gpu"]
        )
    tolerated = {toleration["key"] for toleration in spot["template"]["spec"]["tolerations"]}
    assert set(spot["template"]["spec"]["nodeSelector"]) <= tolerated
    assert not tolerated & set(on_demand["template"]["spec"].get("nodeSelector", {}))
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in head  # the driver never lives on a spot node

    kinds = loaded("cluster.yaml")["available_node_types"]
    assert kinds["head"]["resources"]["CPU"] == 0
    markets = {
        name: kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType")
        for name, kind in kinds.items()
    }
    assert markets == {"head": None, "gpu_spot": "spot", "gpu_on_demand": None}
    assert loaded("cluster.yaml")["max_workers"] == sum(
        kind["max_workers"] for kind in kinds.values()
    )


def test_the_command_of_the_rayjob_is_understood_and_its_actors_have_gpus_to_wait_for() -> None:
    job = loaded("rayjob.yaml")["spec"]
    program, *arguments = shlex.split(job["entrypoint"])
    assert [program, arguments[0]] == ["eloftr", "match"]
    given = understood(arguments)
    actors = Actors.parse(given["actors"], given["actor_gpus"])
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    assert actors.most == sum(group["maxReplicas"] for group in groups)
    assert actors.resolved(Capacity(1, 0), 1000) == (
        1,
        actors.most,
        1.0,
    )  # begins without a single GPU
    assert "storage-options" not in job["entrypoint"]  # Ray's job server keeps and shows it


def test_the_command_of_the_reconstruction_is_understood_and_its_range_has_cpus_to_wait_for() -> (
    None
):
    job = loaded("reconstruct.yaml")["spec"]
    program, *arguments = shlex.split(job["entrypoint"])
    assert [program, arguments[0]] == ["eloftr", "reconstruct"]
    given = understood(arguments)
    assert (given["executor"], given["output"]) == ("ray", "s3://BUCKET/model")
    actors = Actors.parse(given["actors"])
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    # Every process has a CPU of its own, and the work begins without a single worker.
    assert actors.most == sum(group["maxReplicas"] * cpus(group) for group in groups)
    assert actors.resolved(Capacity(1, 0), 1000) == (1, actors.most, 0)
    assert "storage-options" not in job["entrypoint"]


def test_the_reconstruction_has_a_head_with_memory_and_bounded_cpu_workers() -> None:
    cluster = loaded("reconstruct.yaml")["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in head  # the driver never lives on a spot node
    spot, on_demand = cluster["workerGroupSpecs"]
    tolerated = {toleration["key"] for toleration in spot["template"]["spec"]["tolerations"]}
    assert set(spot["template"]["spec"]["nodeSelector"]) <= tolerated
    assert "nodeSelector" not in on_demand["template"]["spec"]
    for group in (spot, on_demand):
        assert 0 == group["minReplicas"] <= group["maxReplicas"]
        assert "nvidia.com/gpu" not in json.dumps(group)
        # A pod's memory holds a block a CPU, Ray's object store in /dev/shm, and Ray itself.
        assert cpus(group) * OF_A_BLOCK + shared(group) + OF_RAY < memory(group)
    assert memory(cluster["headGroupSpec"]) > 2 * memory(spot)


def container(group: dict[str, Any]) -> dict[str, Any]:
    """The only container of the pods of a group."""
    (only,) = group["template"]["spec"]["containers"]
    return only


def cpus(group: dict[str, Any]) -> int:
    """What a pod is limited to, which Ray takes for its CPUs."""
    return int(container(group)["resources"]["limits"]["cpu"])


def gigabytes(text: str) -> float:
    assert text.endswith("Gi")
    return int(text.removesuffix("Gi")) * 1.073741824


def memory(group: dict[str, Any]) -> float:
    """What a pod is limited to, GB."""
    return gigabytes(container(group)["resources"]["limits"]["memory"])


def shared(group: dict[str, Any]) -> float:
    """The most that its shared memory takes of it, GB."""
    (volume,) = group["template"]["spec"]["volumes"]
    assert container(group)["volumeMounts"] == [{"mountPath": "/dev/shm", "name": volume["name"]}]
    return gigabytes(volume["emptyDir"]["sizeLimit"])


def test_no_secret_is_written_into_the_files() -> None:
    for path in DEPLOY.iterdir():
        text = path.read_text(encoding="utf-8").lower()
        assert not [
            word for word in ("secret", "password", "access_key", "token") if word in text
        ], path.name


@pytest.mark.parametrize("name", RAYJOBS)
def test_the_versions_of_ray_agree(name: str) -> None:
    job, cluster = loaded(name), loaded("cluster.yaml")
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"ray:{version}-" in cluster["docker"]["image"]
    assert json.dumps(job).count("IMAGE") == 4
