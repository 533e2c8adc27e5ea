"""`/v1/models`: models with workers, and models that have none now."""

from __future__ import annotations

import time

import httpx

from tasks.leases import WorkerInfo
from tests.integration.web_harness import Player

pytest_plugins = ["tests.integration.web_fixtures"]


def announce(
    player: Player, worker: str, model: str, slots: int = 2, max_model_len: int | None = None
) -> WorkerInfo:
    info = WorkerInfo(worker, model, "transformers", slots, 0, 0.0, max_model_len)
    player.leases.heartbeat(info)
    return info


def test_without_a_worker_there_is_no_model(client: httpx.Client) -> None:
    assert client.get("/v1/models").json() == {"object": "list", "data": []}
    assert client.get("/v1/models/m").status_code == 404


def test_models_are_listed_with_who_serves_them(client: httpx.Client, player: Player) -> None:
    before = int(time.time())
    announce(player, "a@test", "owner/name", max_model_len=4096)
    announce(player, "b@test", "owner/name", slots=3, max_model_len=2048)
    announce(player, "c@test", "owner/name", slots=1)
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["m", "owner/name"]
    assert abs(listed[1].pop("created") - before) < 60
    assert listed[1] == {
        "id": "owner/name",
        "object": "model",
        "owned_by": "tokenrelay",
        "status": "served",
        "engines": ["transformers"],
        "workers": 3,
        "slots": 6,
        "max_model_len": 2048,
    }


def test_a_model_by_its_name_slash_included(client: httpx.Client, player: Player) -> None:
    announce(player, "a@test", "owner/name")
    for name in ("owner/name", "owner%2Fname"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "owner/name"
    answer = client.get("/v1/models/owner")
    assert answer.status_code == 404
    assert answer.json()["error"] == {
        "message": "no worker ever announced 'owner'",
        "type": "invalid_request_error",
        "param": "model",
        "code": "model_not_found",
    }


def test_a_model_whose_workers_have_left_stays_known_and_its_jobs_wait(
    client: httpx.Client, player: Player
) -> None:
    info = announce(player, "a@test", "owner/name")
    player.leases.deregister(info)
    model = client.get("/v1/models/owner/name").json()
    assert (model["status"], model["engines"], model["workers"]) == ("away", [], 0)
    assert model["max_model_len"] is None
    job = client.post("/v1/jobs", json={"prompt": "x", "model": "owner/name"})
    assert job.status_code == 202
    assert job.json()["reason"] == "no worker serves this model at present"
