"""Lints the chart, renders it with each set of values in ci/, and checks what comes out.

    python check.py [HELM [SERIATIM]]

Every object against the Kubernetes schemas, strictly, so that a misspelt field is found; and what a
schema cannot know: the restricted profile, probes, budgets, selectors that fit, secrets that exist,
and, where the program is named, that it takes the arguments of each container and the configuration
with what the chart sets over it. The same for the services of compose.yaml.
"""

import pathlib
import subprocess
import sys
import tempfile
import tomllib

import kubernetes_validate
import yaml

CHART = pathlib.Path(__file__).parent
DOCKERFILE = CHART.parent / "Dockerfile"
COMPOSE = CHART.parent / "compose.yaml"
HELM = sys.argv[1] if len(sys.argv) > 1 else "helm"
SERIATIM = sys.argv[2] if len(sys.argv) > 2 else None
# The oldest that the chart takes, and the newest that the package of schemas has.
VERSIONS = ["1.30.0", kubernetes_validate.latest_version()]
ROLES = ["ingress", "work", "resequence", "deliver"]

# Values that have to be refused, and a word of the reason.
REFUSED = [
    (["--set", "replicas=3"], "replicas"),
    (["--set", "roles.worker.enabled=true"], "worker"),
    (["--set", "drainSeconds=0"], "drainSeconds"),
    (["--set", "defaults.replicas=two"], "replicas"),
    (["--set", "image.digest=latest"], "digest"),
    (["--set", "config="], "config"),
    (["--set", "env[0].name=SERIATIM_ADMIN__LISTEN,env[0].value=x"], "env"),
    (["--set", "roles.work.pdb.maxUnavailable=0"], "maxUnavailable"),
    (["--set", "networkPolicy.enable=true"], "enable"),
    (["--set", "service.tcp[0].name=admin,service.tcp[0].port=2575"], "name"),
    (["--set", "service.tcp[0].name=hl7,service.tcp[0].port=0"], "port"),
]


def helm(*arguments):
    return subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)


def render(version, *arguments):
    done = helm("template", "shop", str(CHART), "--namespace", "orders", "--kube-version", version, *arguments)
    if done.returncode != 0:
        raise AssertionError(f"helm template: {done.stderr}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def name(one):
    return f"{one['kind']}/{one['metadata']['name']}"


def workloads(objects):
    return [one for one in objects if one["kind"] in ("Deployment", "Job")]


def check_pod(one, config_maps, secrets):
    pod = one["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    security = pod["securityContext"]
    assert security["runAsNonRoot"] and security["seccompProfile"]["type"] == "RuntimeDefault"
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False and security["readOnlyRootFilesystem"] is True
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
    main = pod["containers"][0]
    mounted = {mount["name"] for mount in main["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}, "each volume is mounted, each mount is a volume"
    env = {variable["name"]: variable.get("value") for variable in main["env"]}
    for volume in pod["volumes"]:
        if "configMap" in volume:
            assert volume["configMap"]["name"] in config_maps
        if "secret" in volume:
            assert volume["secret"]["secretName"] in secrets
    return pod, main, env


def check_role(one, values):
    pod, main, env = check_pod(one, values["config_maps"], values["secrets"])
    role = one["metadata"]["labels"]["app.kubernetes.io/component"]
    assert main["args"] == ["run", "--role", role]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert main[probe]["httpGet"]["port"] == "admin"
    assert main["readinessProbe"]["httpGet"]["path"] == "/readyz"
    drain = int(env["SERIATIM_PROCESS__DRAIN"].removesuffix("s"))
    stop = main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > drain + stop, "it is killed before it has drained"
    labels = one["spec"]["template"]["metadata"]["labels"]
    assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    return role, labels


def taken(what, args, env, config=""):
    """The configuration in effect in a container, if the program takes it and its arguments."""
    env = {**env, "COLUMNS": "100"}
    # What stands before --help is parsed as it is without it, and nothing is done.
    done = subprocess.run([SERIATIM, *args, "--help"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{what}: {done.stderr}"
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(config)
        file.flush()
        env["SERIATIM_CONFIG"] = file.name
        done = subprocess.run([SERIATIM, "check", "--dump"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{what}: {done.stderr}"
    dumped = tomllib.loads(done.stdout)
    assert dumped["ingress"]["http"] == "0.0.0.0:8080" and dumped["admin"]["listen"] == "0.0.0.0:8090", what
    return dumped


def check_config(one, known):
    container = one["spec"]["template"]["spec"]["containers"][0]
    env = {variable["name"]: variable.get("value", "secret") for variable in container["env"]}
    volumes = {volume["name"]: volume for volume in one["spec"]["template"]["spec"]["volumes"]}
    config = known[f"ConfigMap/{volumes['config']['configMap']['name']}"]["data"]["seriatim.toml"]
    dumped = taken(name(one), container["args"], env, config)
    if one["kind"] == "Deployment" and container["args"][-1] == "ingress":
        ports = {f"0.0.0.0:{port['containerPort']}" for port in container["ports"]}
        addresses = {port["listen"] for port in dumped["ingress"].get("tcp", [])}
        assert ports == addresses | {"0.0.0.0:8080", "0.0.0.0:8090"}, f"{ports} are not those of {addresses}"


def check_ports(one, deployments):
    """Ports of Services and network policies are named; whoever they select has to have that name."""
    spec = one["spec"]
    if one["kind"] == "Service":
        selector, wanted = spec["selector"], {port["targetPort"] for port in spec["ports"]}
    else:
        selector = spec["podSelector"]["matchLabels"]
        wanted = {port["port"] for rule in spec.get("ingress", []) for port in rule["ports"]}
    for other in deployments:
        template = other["spec"]["template"]
        if selector.items() <= template["metadata"]["labels"].items():
            named = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            assert wanted <= named, f"{name(one)} wants {wanted - named} of {name(other)}"
            if selector.get("app.kubernetes.io/component") == "ingress":
                assert wanted == named - {"admin"}, f"{name(one)} leaves {named - wanted - {'admin'}} out"


def check_compose():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    ours = {service: one for service, one in services.items() if one["image"] == "seriatim"}
    assert set(ours) == {"topics", *ROLES}
    variables = next(line for line in DOCKERFILE.read_text().splitlines() if line.startswith("ENV SERIATIM_"))
    image = dict(variable.split("=", 1) for variable in variables.split()[1:])
    for service, one in ours.items():
        dumped = taken(f"compose.yaml, {service}", one["command"], {**image, **one["environment"]})
        drain, stop = dumped["process"]["drain"], one["stop_grace_period"]
        assert int(stop.removesuffix("s")) > int(drain.removesuffix("s")), "it is killed before it has drained"


def check(objects, values):
    known = {name(one): one for one in objects}
    assert len(known) == len(objects), "two objects have the same name"
    deployments = [one for one in workloads(objects) if one["kind"] == "Deployment"]
    pods = dict(check_role(one, values) for one in deployments)
    assert set(pods) == values["roles"]
    for job in (one for one in workloads(objects) if one["kind"] == "Job"):
        _, main, _ = check_pod(job, values["config_maps"], values["secrets"])
        assert main["args"] == ["topics", "apply"]
    for one in workloads(objects) if SERIATIM else []:
        check_config(one, known)
    for one in objects:
        selector = one["spec"].get("selector") or one["spec"].get("podSelector") if "spec" in one else None
        if one["kind"] in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            wanted = selector.get("matchLabels", selector).items()
            assert any(wanted <= labels.items() for labels in pods.values()), f"{name(one)} selects nothing"
        if one["kind"] in ("Service", "NetworkPolicy"):
            check_ports(one, deployments)
        if one["kind"] == "HorizontalPodAutoscaler":
            target = known[f"Deployment/{one['spec']['scaleTargetRef']['name']}"]
            assert "replicas" not in target["spec"], "the autoscaler's number would be overwritten"
            assert one["spec"]["metrics"], "it has nothing to go by"


def expectations(file):
    """What a set of values should make of it, computed from the values themselves."""
    given = yaml.safe_load(file.read_text()) or {}
    roles = {role for role in ROLES if given.get("roles", {}).get(role, {}).get("enabled", True)}
    return {
        "roles": roles,
        "config_maps": {"shop-seriatim", "shop-seriatim-topics"},
        "secrets": {secret["secretName"] for secret in given.get("secrets", [])},
    }


def main():
    failures = 0
    for file in sorted((CHART / "ci").glob("*.yaml")):
        linted = helm("lint", "--strict", str(CHART), "--values", str(file), "--kube-version", VERSIONS[0])
        assert linted.returncode == 0, linted.stdout + linted.stderr
        for version in VERSIONS:
            objects = render(version, "--values", str(file))
            for one in objects:
                try:
                    kubernetes_validate.validate(one, version.removeprefix("v"), strict=True)
                except kubernetes_validate.ValidationError as error:
                    failures += 1
                    print(f"{file.name}, {version}, {name(one)}: {error.message}", file=sys.stderr)
            check(objects, expectations(file))
            print(f"{file.name}: {len(objects)} objects fit Kubernetes {version}")
    for arguments, word in REFUSED:
        done = helm("template", "shop", str(CHART), "--kube-version", VERSIONS[0], *arguments)
        assert done.returncode != 0 and word in done.stderr, f"{arguments} is not refused: {done.stderr}"
    print(f"{len(REFUSED)} sets of wrong values are refused")
    if SERIATIM:
        check_compose()
        print("compose.yaml: the program takes what its services are given")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
