"""What one deploys with is right as far as it can be told without a cluster: schemas, and files that agree.

The balancer's configuration runs in ``tests/e2e/test_balancer.py``; the public CI brings the compose file up.
"""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import jsonschema_rs
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from ruamel.yaml import YAML

from protocol.errors import ErrorCode, Refused
from server.gateway.rest.preferences import MAX_WAIT_S
from server.settings import Settings
from tests.support.balancer import CONFIGURATION
from tests.support.cluster import cluster
from tests.support.server import ROOT, running_server

KUBERNETES = ROOT / "deploy/kubernetes"
MANIFESTS = sorted(
    path
    for path in KUBERNETES.glob("*.yaml")
    if path.name not in {"kustomization.yaml", "prometheus-adapter.yaml"}
)
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.30", "1.35"


def yaml_of(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def variables_of(path: Path) -> dict[str, str]:
    """Return NAME=value of a file of variables, commented ones included."""
    lines = re.findall(r"^#?([A-Z_]+)=(.*)$", path.read_text(), re.MULTILINE)
    return dict(lines)


def assert_settings(names: Iterator[str] | list[str] | dict[str, Any]) -> None:
    named = {name.removeprefix("PARLEY_").lower() for name in names if name.startswith("PARLEY_")}
    assert named
    assert named <= Settings.model_fields.keys()


def seconds(text: str) -> float:
    units = {"ms": 0.001, "s": 1, "m": 60}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)(ms|s|m)", text))


# --- compose --------------------------------------------------------------------------------------

COMPOSE = yaml_of(ROOT / "docker-compose.yml")


@pytest.mark.parametrize(
    ("path", "schema"),
    [("docker-compose.yml", "compose-spec"), (".github/workflows/ci.yml", "github-workflows")],
)
def test_a_file_for_another_program_is_what_that_expects(path: str, schema: str) -> None:
    found = resources.files("check_jsonschema") / f"builtin_schemas/vendor/{schema}.json"
    jsonschema_rs.validator_for(json.loads(found.read_text())).validate(yaml_of(ROOT / path))


def test_every_service_tells_its_health_and_comes_back() -> None:
    services = COMPOSE["services"]
    assert services.keys() == {"mongo", "redis", "parley", "balancer"}
    for service in services.values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["restart"] == "unless-stopped"


def test_only_the_balancer_is_reached_from_outside_and_any_number_of_instances_stands_behind_it() -> None:
    services = COMPOSE["services"]
    assert [name for name, service in services.items() if "ports" in service] == ["balancer"]
    assert COMPOSE["networks"]["back"]["internal"]
    assert not {"container_name", "hostname", "ports"} & services["parley"].keys()
    assert "PARLEY_INSTANCE_ID" not in services["parley"]["environment"]


def test_the_compose_file_keeps_no_secret_and_asks_for_the_one_that_it_needs() -> None:
    environment = COMPOSE["services"]["parley"]["environment"]
    assert environment["PARLEY_JWT_SECRET"].startswith("${PARLEY_JWT_SECRET:?")
    assert not re.search(r"://[^/@\s]*:[^/@\s]*@", (ROOT / "docker-compose.yml").read_text())
    assert_settings(environment)


def test_the_defaults_of_the_compose_file_are_settings_that_fit_together() -> None:
    environment = COMPOSE["services"]["parley"]["environment"]
    values = {
        name.removeprefix("PARLEY_").lower(): re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        for name, value in environment.items()
        if name != "PARLEY_JWT_SECRET"
    }
    Settings.model_validate({**values, "jwt_secret": "x" * 32})


def test_what_the_compose_file_mounts_and_builds_is_there() -> None:
    services = COMPOSE["services"]
    assert services["parley"]["build"] == "."
    for service in services.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", volume).partition(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_dir()


def test_redis_keeps_nothing_evicts_nothing_and_cuts_off_who_does_not_read() -> None:
    words = shlex.join(COMPOSE["services"]["redis"]["command"])
    assert "--maxmemory-policy noeviction" in words
    assert "--save '' --appendonly no" in words
    assert "--client-output-buffer-limit pubsub" in words


def test_compose_and_kubernetes_leave_the_drain_its_time() -> None:
    """SIGKILL comes after the drain, however long its setting lets it take, and what closing takes."""
    drain = float(Settings.model_fields["drain_seconds"].default)
    assert seconds(COMPOSE["services"]["parley"]["stop_grace_period"]) >= drain + 5
    pod = yaml_of(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    configured = float(variables_of(KUBERNETES / "config.env")["PARLEY_DRAIN_SECONDS"])
    pre_stop = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pre_stop + configured + 5


# --- image ----------------------------------------------------------------------------------------

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_in_one_stage_and_run_in_another_by_nobody_in_particular() -> None:
    kinds = [kind for kind, _ in instructions()]
    assert kinds.count("FROM") == 2
    last = instructions()[len(kinds) - kinds[::-1].index("FROM") :]
    user = dict(last)["USER"]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)  # a number: Kubernetes' runAsNonRoot can tell
    pod = yaml_of(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert not [text for kind, text in last if kind == "RUN" and "pip" in text]


def test_the_image_installs_nothing_but_what_is_locked() -> None:
    installs = [
        text for kind, text in instructions() if kind == "RUN" and "pip" in text and "install" in text
    ]
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-index --no-deps" in installs[1]
    assert "--hash=sha256:" in (ROOT / "requirements.lock").read_text()
    assert "index-url" not in DOCKERFILE


def test_what_the_image_copies_is_there_and_is_not_ignored() -> None:
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    copied = [
        source
        for kind, text in instructions()
        if kind == "COPY" and "--from" not in text
        for source in shlex.split(text)[:-1]
    ]
    assert set(copied) == kept
    assert [source for source in copied if not (ROOT / source).exists()] == []


def test_no_setting_and_no_secret_of_this_machine_gets_into_the_image() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    wanted = [rule for rule in rules if rule and not rule.startswith("#")]
    assert wanted[0] == "*"
    assert {"**/.env", "**/.parley", "**/*.db*"} <= set(wanted)
    env = " ".join(text for kind, text in instructions() if kind in {"ENV", "ARG"})
    assert_settings(re.findall(r"\bPARLEY_[A-Z_]+", env))
    assert "SECRET" not in env


async def test_the_health_checks_of_image_and_compose_tell_whether_the_server_is_well(tmp_path: Path) -> None:
    line = dict(instructions())["HEALTHCHECK"]
    of_image = json.loads(line[line.index("[") :])
    of_compose = COMPOSE["services"]["parley"]["healthcheck"]["test"][1:]
    async with running_server(tmp_path) as server:
        port = str(server.address[1])

        async def code(words: list[str]) -> int:
            words = [word.replace(":8765", f":{port}") for word in words[1:]]
            process = await asyncio.create_subprocess_exec(
                sys.executable, *words, env={"PARLEY_PORT": port}, stderr=asyncio.subprocess.DEVNULL
            )
            return await process.wait()

        assert (await code(of_image), await code(of_compose)) == (0, 0)
        server.application.drain.begin()
        assert (await code(of_image), await code(of_compose)) == (0, 1)


# --- Kubernetes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_one(path: Path, version: str) -> None:
    manifest = yaml_of(path)
    kubernetes_validate.validate(manifest, version, strict=True)
    assert manifest["metadata"]["name"] == "parley"
    assert "namespace" not in manifest["metadata"]


def test_the_kustomization_names_every_manifest() -> None:
    kustomization = yaml_of(KUBERNETES / "kustomization.yaml")
    assert sorted(kustomization["resources"]) == [path.name for path in MANIFESTS]
    assert "namespace" not in kustomization
    for generator in ("configMapGenerator", "secretGenerator"):
        assert kustomization[generator][0]["name"] == "parley"


@pytest.mark.needs("kubectl")
def test_the_kustomization_builds_and_each_object_of_it_is_one(tmp_path: Path) -> None:
    place = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, place, ignore=shutil.ignore_patterns("secret.env"))
    shutil.copy(KUBERNETES / "secret.env.example", place / "secret.env")
    built = subprocess.run(["kubectl", "kustomize", place], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    objects = {made["kind"]: made for made in YAML(typ="safe").load_all(built.stdout)}
    assert objects.keys() == {
        "ConfigMap", "Secret", "Deployment", "Service", "Ingress", "PodDisruptionBudget",
        "HorizontalPodAutoscaler",
    }  # fmt: skip
    for made in objects.values():
        kubernetes_validate.validate(made, NEWEST_KUBERNETES, strict=True)
    pod = objects["Deployment"]["spec"]["template"]
    for source, kind in zip(pod["spec"]["containers"][0]["envFrom"], ("ConfigMap", "Secret"), strict=True):
        assert next(iter(source.values()))["name"] == objects[kind]["metadata"]["name"]
    for selector in (
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= pod["metadata"]["labels"].items()


def test_the_variables_of_the_pods_are_settings_and_the_secret_ones_are_kept_apart() -> None:
    configured = variables_of(KUBERNETES / "config.env")
    secret = variables_of(KUBERNETES / "secret.env.example")
    assert_settings({**configured, **secret})
    assert secret.keys() == {"PARLEY_JWT_SECRET", "PARLEY_STORE", "PARLEY_BUS"}
    assert not configured.keys() & secret.keys()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert "/deploy/kubernetes/secret.env" in ignored


def test_the_probes_of_the_pods_ask_what_the_server_answers() -> None:
    [container] = yaml_of(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]["containers"]
    probes = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")
    }
    assert probes == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert container["ports"][0]["containerPort"] == Settings.model_fields["port"].default


def test_a_pod_may_do_nothing_but_serve() -> None:
    pod = yaml_of(KUBERNETES / "deployment.yaml")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    # A service named parley gives pods a variable PARLEY_PORT=tcp://..., which no server would start with.
    assert pod["enableServiceLinks"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"].keys() == {"requests", "limits"}


async def test_the_autoscaler_follows_a_metric_that_the_server_has(tmp_path: Path) -> None:
    metrics = yaml_of(KUBERNETES / "autoscaler.yaml")["spec"]["metrics"]
    [rule] = yaml_of(KUBERNETES / "prometheus-adapter.yaml")["rules"]["custom"]
    name = metrics[0]["pods"]["metric"]["name"]
    assert rule["name"]["as"] == name
    assert name in await families(tmp_path)
    wanted = int(metrics[0]["pods"]["target"]["averageValue"])
    assert wanted < int(variables_of(KUBERNETES / "config.env")["PARLEY_CONNECTIONS_PER_INSTANCE"])


# --- balancer, ingress, dashboard -----------------------------------------------------------------


def directive(name: str) -> str:
    value, *_ = re.findall(rf"^ *{name} ([^;]+);", CONFIGURATION.read_text(), re.MULTILINE)
    return str(value)


def test_an_idle_socket_outlives_the_time_outs_of_every_proxy() -> None:
    """The server pings every 25 s and waits 10 s for the answer: a proxy must be more patient than both."""
    longest_silence = 25 + 10
    annotations = yaml_of(KUBERNETES / "ingress.yaml")["metadata"]["annotations"]
    for kind in ("read", "send"):
        assert seconds(directive(f"proxy_{kind}_timeout")) > longest_silence
        assert seconds(annotations[f"nginx.org/proxy-{kind}-timeout"]) > longest_silence
        assert int(annotations[f"nginx.ingress.kubernetes.io/proxy-{kind}-timeout"]) > longest_silence


def test_a_request_that_waits_for_its_turn_outlives_them_too() -> None:
    assert seconds(directive("proxy_read_timeout")) > MAX_WAIT_S


def test_nothing_ties_a_client_to_an_instance() -> None:
    text = CONFIGURATION.read_text()
    assert not re.search(r"^\s*(ip_hash|hash|sticky)\b", text, re.MULTILINE)
    assert yaml_of(KUBERNETES / "service.yaml")["spec"]["sessionAffinity"] == "None"
    assert "affinity" not in json.dumps(yaml_of(KUBERNETES / "ingress.yaml")["metadata"]["annotations"])


def test_the_balancers_own_refusals_have_the_form_of_the_servers() -> None:
    bodies = re.findall(r"return (\d+) '(\{.*\})';", CONFIGURATION.read_text())
    assert len(bodies) == 3
    for status, body in bodies:
        refusal = json.loads(body)["error"]
        like = Refused(ErrorCode(refusal["code"]), "x")
        assert like.http_status == int(status)
        assert refusal.keys() == like.to_wire().keys()
        assert refusal["docs"] == like.to_wire()["docs"]
        assert refusal["temporary"] == like.temporary


async def test_the_ingress_publishes_what_the_server_has_for_clients_and_nothing_else(tmp_path: Path) -> None:
    [rule] = yaml_of(KUBERNETES / "ingress.yaml")["spec"]["rules"]
    published = {entry["path"]: entry["pathType"] for entry in rule["http"]["paths"]}

    def is_published(path: str) -> bool:
        return any(
            path == prefix or (kind == "Prefix" and path.startswith(prefix + "/"))
            for prefix, kind in published.items()
        )

    async with running_server(tmp_path) as server:
        paths = {route.path for route in server.application.routes} | {"/v1/ws"}
    assert {path for path in paths if not is_published(path)} == {"/metrics", "/startupz"}


DASHBOARD = json.loads((ROOT / "deploy/grafana/parley.json").read_text())


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]


async def test_every_metric_of_the_dashboard_exists(tmp_path: Path) -> None:
    queries = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    named = {
        name for text in expressions() + queries for name in re.findall(r"\b((?:parley|process)_\w+)", text)
    }
    there = await families(tmp_path)
    assert len(named) > 15
    assert sorted(named - there) == []


def test_the_panels_of_the_dashboard_follow_the_chosen_instances_and_fit_on_its_grid() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert all("instance=~" in text for text in expressions())


async def families(folder: Path) -> set[str]:
    """Return the names of all series that an instance among several offers to Prometheus."""
    async with cluster(folder) as [server, _]:
        text = await asyncio.to_thread(lambda: urlopen(server.url + "/metrics").read().decode())
    series = re.findall(r"^(\w+)[{ ]", text, re.MULTILINE)
    return {*series, *re.findall(r"^# TYPE (\w+)", text, re.MULTILINE)}
