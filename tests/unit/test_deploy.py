"""The parts of `make serve` that can be tested without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.checks import check_model, check_names, check_port
from deploy.console import Console
from deploy.serve import local_url
from harness.redis_server import free_port
from tasks.errors import SettingsError
from tasks.settings import Settings


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:9000"),
        ("localhost", "http://localhost:9000"),
        ("0.0.0.0", "http://127.0.0.1:9000"),
        ("::", "http://[::1]:9000"),
        ("::1", "http://[::1]:9000"),
        ("10.0.0.7", "http://10.0.0.7:9000"),
    ],
)
def test_the_page_has_an_address_that_can_be_visited(host: str, url: str) -> None:
    assert local_url(Settings(host=host, port=9000, allow_anonymous=True)) == url


def test_a_host_that_is_not_this_machines_is_named() -> None:
    with pytest.raises(SettingsError, match=r"HOST=192\.0\.2\.1"):
        check_port("192.0.2.1", free_port())


def test_a_folder_with_a_model_and_a_name_on_the_hub_pass(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    check_model(str(tmp_path))
    check_model("owner/name")


@pytest.mark.parametrize("model_id", ["/nowhere", "./nowhere", "~/nowhere", "a/b/c"])
def test_a_folder_without_a_model_is_named(model_id: str) -> None:
    with pytest.raises(SettingsError, match=f"MODEL_ID={model_id}: "):
        check_model(model_id)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PROT", "PORT"), ("MODEL", "MODEL_ID"), ("API_KEY", "API_KEYS"), ("MAX_SEQS", "MAX_NUM_SEQS")],
)
def test_a_misspelt_setting_is_refused(name: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{name}: .* did you mean {meant}\?$"):
        check_names(["ENGINE", name])


def test_other_variables_are_not_taken_for_misspelt_settings() -> None:
    makes_own = ["PYTHON", "SECONDS", "SEED", "ARGS", "TEST_PROCESSES", "FLOWER_PORT", "VENV"]
    libraries = ["HF_HOME", "CUDA_VISIBLE_DEVICES", "WEB_CONCURRENCY", "GUNICORN_CMD_ARGS", "OMP_NUM_THREADS"]
    check_names([*(name.upper() for name in Settings.model_fields), "port", *makes_own, *libraries])


def test_output_cut_anywhere_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.print_output("web", b"one\ntw")
    console.print_output("redis", b"three\n")
    console.print_output("web", "ö\n\n".encode()[:1])
    console.print_output("web", "ö\n\n".encode()[1:])
    assert capsys.readouterr().out == "web    | one\nredis  | three\nweb    | twö\nweb    | \n"
    assert console.last_lines == {"web": "twö", "redis": "three"}
