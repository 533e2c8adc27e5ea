"""The client's commands against the whole product."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import httpx
import pytest

from client import Client
from harness.product import Web, running
from harness.redis_server import free_port
from harness.waiting import TIMEOUT_SECONDS
from tests.integration.cli_harness import command, run

pytest_plugins = ["tests.integration.product_fixtures"]


@pytest.fixture(scope="module")
def single_slot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    """The product with one slot, so that a second job has to wait."""
    with running(tmp_path_factory.mktemp("single"), MAX_NUM_SEQS="1") as web:
        yield web


def test_the_text_goes_to_stdout_and_nothing_else_does(product: Web) -> None:
    assert run(product.url, "submit", "one two", "--max-tokens", "5") == (0, "one two one two one\n", "")


def test_options_reach_the_server(product: Web) -> None:
    code, job_id, _ = run(product.url, "submit", "hello", "--seed", "7", "--temperature", "0.5", "--detach")
    request = httpx.get(f"{product.url}/v1/jobs/{job_id.strip()}").json()["request"]
    assert code == 0
    assert (request["seed"], request["temperature"]) == (7, 0.5)


def test_a_detached_job_can_be_watched_later(product: Web) -> None:
    _, job_id, _ = run(product.url, "submit", "one two", "--max-tokens", "3", "--detach")
    assert run(product.url, "watch", job_id.strip()) == (0, "one two one\n", "")


def test_text_is_shown_as_it_comes_and_an_interrupt_cancels(product: Web) -> None:
    with command(product.url, "submit", "tick", "--max-tokens", "4000") as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "tick"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    job_id = next(word for word in said.split() if word.startswith("job_"))
    assert process.returncode == 1
    assert said == f"\n{job_id} is cancelled\n"
    with Client(product.url) as client:
        assert client.get(job_id).status == "cancelled"


def test_an_interrupt_leaves_a_watched_job_running(product: Web) -> None:
    _, job_id, _ = run(product.url, "submit", "tick", "--max-tokens", "4000", "--detach")
    with command(product.url, "watch", job_id.strip()) as process:
        assert process.stdout is not None
        assert process.stdout.read(4) == "tick"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 1
    with Client(product.url) as client:
        assert client.get(job_id.strip()).status == "in_progress"
        client.cancel(job_id.strip())


def test_a_reader_that_leaves_cancels(product: Web) -> None:
    with command(product.url, "submit", "tick", "--max-tokens", "4000") as process:
        assert process.stdout is not None
        process.stdout.read(4)
        process.stdout.close()
        assert process.wait(TIMEOUT_SECONDS) == 1
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with Client(product.url) as client:
        assert client.wait(client.list(limit=1).jobs[0].id).status == "cancelled"


def test_the_place_of_a_waiting_job_is_shown(single_slot: Web) -> None:
    with Client(single_slot.url) as client:
        first = client.submit("busy", max_tokens=4000)
        with command(single_slot.url, "submit", "next", "--max-tokens", "1") as process:
            assert process.stderr is not None
            assert process.stderr.readline().startswith("queued: next in line")
            client.cancel(first.id)
            printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, printed) == (0, "next\n")


def test_jobs_are_listed_newest_first_and_page_by_page(product: Web) -> None:
    ids = [
        run(product.url, "submit", prompt, "--detach")[1].strip() for prompt in ("first one", "word " * 50)
    ]
    code, printed, said = run(product.url, "jobs", "--limit", "1")
    assert (code, printed.split()[0]) == (0, ids[1])
    assert printed.endswith("word word word word word word word word…\n")
    assert said == f"there are older ones: --after {ids[1]}\n"
    code, printed, _ = run(product.url, "jobs", "--limit", "1", "--after", ids[1])
    assert (code, printed.split()[0]) == (0, ids[0])
    assert printed.endswith("  echo  first one\n")


def test_jobs_of_a_status_are_listed(product: Web) -> None:
    with Client(product.url) as client:
        job = client.cancel(client.submit("tick", max_tokens=4000).id)
        client.wait(job.id)
    _, printed, _ = run(product.url, "jobs", "--status", "cancelled")
    assert printed.split()[:2] == [job.id, "cancelled"]
    assert {line.split()[1] for line in printed.splitlines()} == {"cancelled"}
    code, printed, said = run(product.url, "jobs", "--status", "lost")
    assert (code, printed) == (1, "")
    assert "status" in said


def test_a_job_is_cancelled_by_its_id(product: Web) -> None:
    _, job_id, _ = run(product.url, "submit", "tick", "--max-tokens", "4000", "--detach")
    code, printed, said = run(product.url, "cancel", job_id.strip())
    assert (code, printed, said) == (0, "cancelled\n", "")
    with Client(product.url) as client:
        assert client.get(job_id.strip()).status == "cancelled"


def test_a_cancelled_job_that_is_watched_has_no_error_to_tell(product: Web) -> None:
    _, job_id, _ = run(product.url, "submit", "tick", "--max-tokens", "4000", "--detach")
    with command(product.url, "watch", job_id.strip()) as process:
        assert process.stdout is not None
        process.stdout.read(4)
        run(product.url, "cancel", job_id.strip())
        _, said = process.communicate(timeout=TIMEOUT_SECONDS)
    assert (process.returncode, said) == (1, f"{job_id.strip()} is cancelled\n")


def test_a_job_that_fails_says_why(product: Web) -> None:
    code, _, said = run(product.url, "submit", "word " * 5000)
    assert code == 1
    assert "prompt_too_long" in said


def test_a_watcher_that_leaves_cancels_nothing(product: Web) -> None:
    _, job_id, _ = run(product.url, "submit", "tick", "--max-tokens", "4000", "--detach")
    with command(product.url, "watch", job_id.strip()) as process:
        assert process.stdout is not None
        process.stdout.read(4)
        process.stdout.close()
        assert process.wait(TIMEOUT_SECONDS) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""
    with Client(product.url) as client:
        assert client.get(job_id.strip()).status == "in_progress"
        client.cancel(job_id.strip())


def test_a_refused_request_says_why(product: Web) -> None:
    code, printed, said = run(product.url, "submit", "hello", "--max-tokens", "0")
    assert (code, printed) == (1, "")
    assert "max_tokens" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        (b"submit", b"\xff"),
        (b"submit", b"hello", b"--model", b"\xff"),
        (b"watch", b"\xff"),
        (b"watch", b"\x01"),
        (b"cancel", b"\xff"),
        (b"submit", b"hello", b"--api-key", b"\xff"),
        (b"submit", b"hello", b"--url", b"http://\xff"),
        (b"submit", b"hello", b"--temperature", b"nan"),
    ],
)
def test_what_cannot_be_sent_is_one_line(arguments: tuple[bytes, ...]) -> None:
    code, printed, said = run(f"http://127.0.0.1:{free_port()}", *arguments)
    assert (code, printed) == (1, "")
    assert "sent" in said or "must be a URL" in said
    assert said.count("\n") == 1


def test_a_key_with_a_line_end_is_refused_at_once_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRELAY_API_KEY", "ses\name")
    code, _, said = run(f"http://127.0.0.1:{free_port()}", "submit", "hello")
    assert (code, said) == (1, "the API key holds a character that cannot be sent, such as a line end\n")


def test_a_terminal_without_a_character_shows_another(product: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert run(product.url, "submit", "née à", "--max-tokens", "2") == (0, "n?e ?\n", "")


@pytest.mark.parametrize(
    "arguments",
    [(), ("hello",), ("submit",), ("watch", "a", "b"), ("submit", "--max-tokens", "many", "hello")],
)
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    code, _, said = run(f"http://127.0.0.1:{free_port()}", *arguments)
    assert code == 2
    assert "usage:" in said


def test_the_key_comes_from_the_environment(locked_product: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(locked_product.url, "submit", "hello")[0] == 1
    monkeypatch.setenv("TOKENRELAY_API_KEY", "sesame")
    assert run(locked_product.url, "submit", "hello", "--max-tokens", "1") == (0, "hello\n", "")


def test_a_list_that_nobody_reads_ends_without_a_traceback(product: Web) -> None:
    """As in `tokenrelay jobs | head -3`."""
    with command(product.url, "jobs") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(TIMEOUT_SECONDS) in (0, 1)  # 0 only where there are no jobs.
