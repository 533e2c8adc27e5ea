"""Settings from environment variables. An error names the variable and the values that it accepts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.errors import SettingsError
from tasks.settings import EngineKind, Settings, get_settings


@pytest.fixture(autouse=True)
def only_these_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PORT", "99999", "PORT='99999': must be less than or equal to 65535"),
        ("ENGINE", "llama", "ENGINE='llama': must be 'transformers', 'vllm' or 'echo'"),
        ("DEVICE", "gpu", "DEVICE='gpu': accepts `auto`, `cpu`, `cuda` and `cuda:N`"),
        (
            "DTYPE",
            "int4",
            "DTYPE='int4': must be 'auto', 'float32', 'bfloat16', 'float16' or 'int8'",
        ),
        ("NATIVE_ISA", "sse", "'auto', 'avx512_bf16', 'avx512', 'avx2', 'neon' or 'none'"),
        ("REDIS_MAXMEMORY", "1 GB", "accepts a number of bytes, or with a unit as in `512mb` and `1gb`"),
        ("REDIS_URL", "http://x", "accepts redis:// and rediss:// URLs"),
        ("API_KEYS", "name", "accepts name:key,name2:key2"),
        ("API_KEYS", "a:k,b:k", "distinct keys"),
        ("API_KEYS", "anonymous:k", "no name 'anonymous'"),
        ("API_KEYS", "a:k\ney", "an HTTP header can hold"),
        ("API_KEYS", "a:k\udcff", "an HTTP header can hold"),
        ("ALLOWED_HOSTS", "api.example:8443", "accepts host names without a port"),
        ("ALLOWED_HOSTS", "api.example,", "accepts host names without a port"),
        ("HOST", "0.0.0.0", "ALLOW_ANONYMOUS=1"),
        ("LEASE_SECONDS", "0", "LEASE_SECONDS='0'"),
        ("MAX_NUM_SEQS", "", None),
        ("SERVED_MODEL_NAME", "two words", "SERVED_MODEL_NAME='two words': accepts a name without spaces"),
        ("ENGINE_ARGS", "{seed: 1}", "accepts a JSON object: Expecting property name"),
        ("ENGINE_ARGS", "[1]", "accepts a JSON object"),
        ("ENGINE_ARGS", '{"seed": 1}', "only ENGINE=vllm takes them, not ENGINE=transformers"),
    ],
)
def test_wrong_values(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str | None) -> None:
    monkeypatch.setenv(name, value)
    if message is None:
        assert get_settings() == Settings()
    else:
        with pytest.raises(SettingsError) as caught:
            get_settings()
        assert message in caught.value.detail
        assert name in caught.value.detail


SECRET = "hidden"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEYS", f"ann {SECRET}"),
        ("API_KEYS", f"ann:{SECRET},ben:{SECRET}"),
        ("API_KEYS", f"ann:{SECRET}\nkey"),
        ("ENGINE_ARGS", f'{{"hf_token": "{SECRET}"'),
        ("ENGINE_ARGS", f'["{SECRET}"]'),
        ("REDIS_URL", f"http://:{SECRET}@redis:6379/0"),
        ("REDIS_URL", f"redis://:{SECRET}"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:none/0"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:65536/0"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:6379/zero"),
        ("REDIS_URL", f"redis://:{SECRET}/1@redis:6379/0"),
        ("REDIS_URL", f"redis://:1{SECRET}?1@redis:6379/0"),
        ("REDIS_URL", f"redis://:1?{SECRET}=1@redis:6379/0"),
        ("REDIS_URL", f"redis://:1#{SECRET}@redis:6379/0"),
        ("REDIS_URL", f"redis://[:{SECRET}@redis:6379/0"),
        ("REDIS_URL", f"redis://redis:6379/0?password={SECRET}"),
        ("REDIS_URL", f"redis://redis:6379/0?{SECRET}=1"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:6379/0?db=x"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:6379/0?db="),
        ("REDIS_URL", f"redis://:{SECRET}@redis:6379/0?socket_timeout=5"),
        ("REDIS_URL", f"redis://:{SECRET}@redis:6379/0?ssl_cert_reqs=none"),
        ("REDIS_URL", f"rediss://:{SECRET}@redis:6379/0?ssl_cert_reqs=never"),
    ],
)
def test_a_wrong_value_that_may_hold_a_secret_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert caught.value.detail.startswith(f"{name}: ")
    assert SECRET not in caught.value.detail
    with pytest.raises(ValidationError) as bare:
        Settings()
    assert SECRET not in str(bare.value)


def test_settings_that_are_shown_hide_secrets() -> None:
    settings = Settings(
        redis_url=f"redis://:{SECRET}@redis", api_keys={SECRET: "ann"}, engine=EngineKind.VLLM
    )
    settings = settings.model_copy(update={"engine_args": {"hf_token": SECRET}})
    assert "engine=" in repr(settings)
    assert SECRET not in f"{settings!r} {settings}"


def test_hosts_are_read_as_clients_send_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_HOSTS", "API.example, *.inner.example")
    assert get_settings().allowed_hosts == ("api.example", "*.inner.example")


def test_eight_bits_are_not_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTYPE", "int8")
    assert get_settings().dtype == "int8"
    get_settings.cache_clear()
    monkeypatch.setenv("ENGINE", "vllm")
    with pytest.raises(SettingsError) as caught:
        get_settings()
    assert caught.value.detail == "DTYPE=int8: only ENGINE=transformers takes it, not ENGINE=vllm"


def test_keys_are_looked_up_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "ann:k1, ben:k2:with-colon")
    monkeypatch.setenv("HOST", "0.0.0.0")
    assert get_settings().api_keys == {"k1": "ann", "k2:with-colon": "ben"}


def test_the_echo_engine_serves_a_model_of_its_own_name() -> None:
    assert Settings(engine=EngineKind.ECHO, model_id="other").model == "echo"
    assert Settings(model_id="other").model == "other"


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("bundled", "bundled"),
        ("gpt2", "gpt2"),
        ("facebook/opt-125m", "facebook/opt-125m"),
        ("/models/my-llama", "my-llama"),
        ("/models/my-llama/", "my-llama"),
        ("/models/nested/../my-llama", "my-llama"),
        ("./my-llama", "my-llama"),
        ("~/my-llama", "my-llama"),
        ("~nobody-here/my-llama", "my-llama"),
        ("models/mine/my-llama", "my-llama"),
        ("/", "/"),
    ],
)
def test_a_folder_gives_its_own_name_to_its_model(model_id: str, name: str) -> None:
    """The disk is not read, because web may run on a machine without the worker's folder."""
    assert Settings(model_id=model_id).model == name


def test_a_folder_that_could_be_a_hub_id_is_one_where_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings(model_id="models/my-llama").model == "models/my-llama"
    (tmp_path / "models" / "my-llama").mkdir(parents=True)
    assert Settings(model_id="models/my-llama").model == "my-llama"
    assert Settings(model_id=".").model == tmp_path.name


@pytest.mark.parametrize("engine", EngineKind)
def test_a_models_public_name_can_be_chosen(engine: EngineKind) -> None:
    assert Settings(engine=engine, model_id="/models/v3", served_model_name="our/model").model == "our/model"


def test_redis_is_required_where_it_is_needed() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL is not set"):
        _ = Settings().required_redis_url


@pytest.mark.parametrize("name", Settings.model_fields)
def test_an_error_says_in_words_what_is_accepted(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name.upper(), "no such value\n")
    refusal = None
    try:
        get_settings()
    except SettingsError as error:
        refusal = error.detail
    assert "pattern" not in (refusal or "")
