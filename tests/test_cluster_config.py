"""Would Ray take ray_cluster.yaml, and KubeRay docs/examples/kuberay-rayjob.yaml, as they are?"""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from winnow.pipelines import command, run_command

ROOT = Path(__file__).resolve().parents[1]
CONFIG, JOB = ROOT / "ray_cluster.yaml", ROOT / "docs" / "examples" / "kuberay-rayjob.yaml"
RAY = re.search(r"^ray(?:\[\w+\])?==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

SPECS = {
    "RayJob": "activeDeadlineSeconds backoffLimit rayClusterSpec submitterPodTemplate metadata clusterSelector "
    "submitterConfig managedBy deletionStrategy entrypoint runtimeEnvYAML jobId submissionMode entrypointResources "
    "entrypointNumCpus entrypointNumGpus ttlSecondsAfterFinished shutdownAfterJobFinishes suspend",
    "RayCluster": "authOptions suspend managedBy autoscalerOptions headServiceAnnotations enableInTreeAutoscaling "
    "gcsFaultToleranceOptions headGroupSpec rayVersion workerGroupSpecs",
    "Head": "template headService enableIngress rayStartParams serviceType",
    "Worker": "suspend groupName replicas minReplicas maxReplicas idleTimeoutSeconds rayStartParams template "
    "scaleStrategy numOfHosts",
    "Autoscaler": "resources image imagePullPolicy securityContext idleTimeoutSeconds upscalingMode version env "
    "envFrom volumeMounts",
}
"""Fields of KubeRay's custom resources: its API reference, ray.io/v1, of KubeRay 1.5."""


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return yaml.safe_load(CONFIG.read_text())


@pytest.fixture(scope="module")
def job() -> dict[str, Any]:
    return yaml.safe_load(JOB.read_text())


def test_ray_accepts_the_cluster(config):
    """As `ray up` reads it, without asking the cloud; an unknown key is an error."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["worker_setup_commands"] == config["setup_commands"]
    assert prepared["head_setup_commands"][: len(config["setup_commands"])] == config["setup_commands"]
    with pytest.raises(Exception, match="unexpected"):
        validate_config(prepared | {"maximum_workers": 3})


def test_the_head_has_no_cpus_and_is_no_spot_node(config):
    types = config["available_node_types"]
    head = types[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    workers = [kind for name, kind in types.items() if name != config["head_node_type"]]
    assert sum(kind["max_workers"] for kind in workers) <= config["max_workers"]
    assert types["gpu_worker"]["min_workers"] == 0


def test_every_node_gets_the_wheel_the_pins_and_the_token(config):
    mounts = {path.split("/", 3)[3]: source for path, source in config["file_mounts"].items()}  # below home
    assert mounts["winnow/dist"] == "./dist"
    assert (ROOT / mounts["winnow/constraints.txt"]).is_file()
    assert mounts[".ray/auth_token"] == "~/.ray/auth_token"
    (install,) = config["setup_commands"]
    assert "--constraint $HOME/winnow/constraints.txt" in install
    extras = re.search(r"winnow-\*\.whl\)\[([\w,]+)\]", install)
    assert extras is not None
    assert set(extras[1].split(",")) <= EXTRAS.keys()
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert commands[-1].startswith("RAY_AUTH_MODE=token ray start ")


def test_rays_version_is_the_pinned_one(config, job):
    assert RAY is not None
    assert config["docker"]["image"] == f"rayproject/ray:{RAY[1]}-py311"
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == RAY[1]


def test_ray_start_has_the_options(config):
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in option.opts}
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        words = [word.partition("=")[0] for word in shlex.split(commands[-1]) if word.startswith("--")]
        assert set(words) <= known


def test_kuberay_knows_every_field(job):
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job.keys() == {"apiVersion", "kind", "metadata", "spec"}
    cluster = job["spec"]["rayClusterSpec"]
    parts = [("RayJob", job["spec"]), ("RayCluster", cluster), ("Head", cluster["headGroupSpec"]),
             ("Autoscaler", cluster["autoscalerOptions"])]  # fmt: skip
    parts += [("Worker", group) for group in cluster["workerGroupSpecs"]]
    for kind, part in parts:
        assert part.keys() <= set(SPECS[kind].split()), kind
    assert cluster["authOptions"] == {"mode": "token"}


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_rays_start_parameters_are_strings_that_ray_start_knows(job):
    from ray.scripts.scripts import start

    known = {name.removeprefix("--") for option in start.params for name in option.opts}
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["rayStartParams"].keys() <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_every_pod_has_the_image_the_credentials_and_scratch(job):
    images, head = set(), pods(job)[0]
    for pod in pods(job):
        (container,) = pod["containers"]
        images.add(container["image"])
        assert container["envFrom"] == [{"secretRef": {"name": "object-store"}}]
        assert "env" not in container
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
        assert mounts["scratch"] == "/scratch"
        # Ray counts a container's limits; whole cores, or the last one is lost.
        assert container["resources"]["limits"]["cpu"] == container["resources"]["requests"]["cpu"]
        assert container["resources"]["limits"]["cpu"].isdigit()
        assert ("tolerations" in pod) == (pod is not head), "the head is on no spot node"
    assert len(images) == 1


def test_the_entry_point_is_a_command_of_ours(job):
    program, subcommand, recipe, *options = shlex.split(job["spec"]["entrypoint"])
    assert (program, subcommand) == ("winnow", "run")
    mounts = pods(job)[0]["containers"][0]["volumeMounts"]
    assert any(recipe.startswith(mount["mountPath"] + "/") for mount in mounts)
    import typer

    known = {
        name for option in typer.main.get_command(command.app).commands["run"].params for name in option.opts
    }
    assert {word for word in options if word.startswith("--")} <= known
    assert run_command.run.__doc__
    assert job["spec"]["backoffLimit"] > 0
    assert job["spec"]["shutdownAfterJobFinishes"]
