"""docker-compose.yml and the images, as far as they can be checked without Docker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from tasks.settings import Settings

CHECKOUT = Path(__file__).parents[2]
SCRIPTS = CHECKOUT / "deploy" / "compose"

COMPOSE: dict[str, Any] = yaml.safe_load((CHECKOUT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]

MADE_INSIDE = {
    "redis_url": "by with-redis-url",
    "port": "published",
    "data_dir": "of the embedded Redis",
    "redis_maxmemory": "in Redis' command",
}
"""Settings that Compose does not pass on."""

OTHERS = {
    "web": {"WEB_CONCURRENCY", "FORWARDED_ALLOW_IPS", "GUNICORN_CMD_ARGS"},
    "worker": {"OMP_NUM_THREADS", "HF_TOKEN", "HF_HUB_OFFLINE"},
    "flower": {name for name in SERVICES["flower"]["environment"] if name.startswith("FLOWER_")},
}
"""Variables that are not settings of ours."""


@pytest.mark.parametrize("field", sorted(Settings.model_fields.keys() - MADE_INSIDE))
def test_a_setting_reaches_the_web_or_the_worker(field: str) -> None:
    assert field.upper() in SERVICES["web"]["environment"] | SERVICES["worker"]["environment"]


@pytest.mark.parametrize("service", OTHERS)
def test_a_variable_that_is_passed_on_is_a_setting(service: str) -> None:
    settings = {field.upper() for field in Settings.model_fields}
    assert SERVICES[service]["environment"].keys() - OTHERS[service] <= settings


@pytest.mark.parametrize("name", COMPOSE["x-settings"])
def test_shared_settings_are_the_same_everywhere_and_have_no_default_here(name: str) -> None:
    for service in OTHERS:
        assert SERVICES[service]["environment"].get(name, "missing") is None


def test_no_image_gets_the_training() -> None:
    """An image gets the folders that .dockerignore names. The worker's must not need `training`."""
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert "!training" not in lines
    for path in (CHECKOUT / "worker").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) training\b", path.read_text(), re.MULTILINE), path


def test_every_gpu_has_a_vllm_worker_of_its_own() -> None:
    override = yaml.safe_load((SCRIPTS / "vllm.yml").read_text())["services"]
    assert override.pop("worker") == {"scale": 0}
    for index, (name, service) in enumerate(override.items()):
        assert name == f"vllm-gpu{index}"
        assert service["environment"] == {"ENGINE": "vllm"}
        [device] = service["deploy"]["resources"]["reservations"]["devices"]
        assert device["device_ids"] == [str(index)]
        profiles = service.get("profiles", ["1-gpus", "2-gpus", "4-gpus", "8-gpus"])
        assert {int(profile.removesuffix("-gpus")) > index for profile in profiles} == {True}
        assert f"{len(override)}-gpus" in profiles


def test_the_worker_has_longer_than_its_drain() -> None:
    grace = re.fullmatch(r"\$\{DRAIN_SECONDS:-(\d+)}s(\d+)ms", str(SERVICES["worker"]["stop_grace_period"]))
    assert grace
    assert int(grace[1]) == Settings.model_fields["drain_seconds"].default
    assert int(grace[2]) >= 10_000


def test_only_web_and_flower_are_published_and_on_loopback_by_default() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert {name: [port["host_ip"] for port in ports] for name, ports in published.items()} == {
        "web": ["${HOST:-127.0.0.1}"],
        "flower": ["127.0.0.1"],
    }


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check_and_comes_back(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["init"] is True


def test_redis_keeps_every_job() -> None:
    command = SERVICES["redis"]["command"]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert "redis:/data" in SERVICES["redis"]["volumes"]


@pytest.mark.parametrize("dockerfile", ["web/Dockerfile", "worker/Dockerfile"])
def test_an_image_runs_as_the_user_that_may_read_the_password(dockerfile: str) -> None:
    text = (CHECKOUT / dockerfile).read_text()
    assert "useradd --uid 10001 --user-group" in text
    assert "chgrp 10001" in (SCRIPTS / "redis.sh").read_text()
    images = [stage for stage in re.split(r"^FROM ", text, flags=re.MULTILINE) if "\nCMD " in stage]
    assert images
    assert all("\nUSER tokenrelay\n" in image for image in images)


def test_the_web_image_gets_nothing_of_the_workers() -> None:
    assert "worker" not in re.sub("#.*", "", (CHECKOUT / "web" / "Dockerfile").read_text())


def run_script(script: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(CHECKOUT), **variables}
    return subprocess.run(
        [sys.executable, SCRIPTS / script], env=env, capture_output=True, text=True, timeout=60
    )


def test_the_web_container_refuses_to_be_published_beyond_loopback_without_keys() -> None:
    done = run_script("published_web.py", HOST="0.0.0.0")
    assert done.returncode == 1
    assert done.stderr.startswith("web: HOST: without API_KEYS only loopback")
