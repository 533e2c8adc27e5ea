"""The parts of `make serve` that can be tested without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.checks import check_model, check_port
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


def test_output_cut_anywhere_is_shown_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.print_output("web", b"one\ntw")
    console.print_output("redis", b"three\n")
    console.print_output("web", "ö\n\n".encode()[:1])
    console.print_output("web", "ö\n\n".encode()[1:])
    assert capsys.readouterr().out == "web    | one\nredis  | three\nweb    | twö\nweb    | \n"
    assert console.last_lines == {"web": "twö", "redis": "three"}
