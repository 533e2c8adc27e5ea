"""The settings: environment variables, read once and checked when a process starts."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tasks.errors import SettingsError
from tasks.redis_url import checked_url
from tasks.validation import plain

ANONYMOUS = "anonymous"
"""The owner of every job while API_KEYS is unset."""

HOST_NAME = re.compile(r"\*|(\*\.)?[a-z0-9-]+(\.[a-z0-9-]+)*")
"""What an entry of ALLOWED_HOSTS looks like."""


class EngineKind(StrEnum):
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    ECHO = "echo"


def _accepting(pattern: str, accepted: str) -> AfterValidator:
    """Returns a validator that refuses other values with what is accepted, in words."""

    def check(value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise ValueError(f"accepts {accepted}")
        return value

    return AfterValidator(check)


class Settings(BaseSettings):
    """One field per variable. A field's description is its text in the README.

    A field that may contain a secret has `repr=False`, so neither a repr nor an error shows its value.
    """

    model_config = SettingsConfigDict(
        frozen=True, env_ignore_empty=True, extra="ignore", hide_input_in_errors=True
    )

    redis_url: str | None = Field(
        None,
        repr=False,
        description="Redis to use, `redis://` or, with TLS, `rediss://`; unset: `make serve` starts an "
        "embedded one",
    )
    redis_maxmemory: Annotated[
        str, _accepting(r"\d+([kmg]b?)?", "a number of bytes, or with a unit as in `512mb` and `1gb`")
    ] = Field(
        "1gb",
        description="the embedded Redis' `maxmemory`; near it submits get 503. `0`: all that the machine has",
    )
    host: str = Field("127.0.0.1", description="address the web server binds")
    port: int = Field(8000, ge=1, le=65535, description="port the web server binds")
    data_dir: Path = Field(Path(".data"), description="the embedded Redis' append-only file, logs and pids")
    model_id: str = Field("bundled", min_length=1, description="`bundled`, a hub id or a local folder")
    served_model_name: Annotated[str | None, _accepting(r"\S+", "a name without spaces")] = Field(
        None,
        max_length=256,
        description="the model's public name; unset: the hub id, `bundled`, `echo` or the folder's own name",
    )
    engine: EngineKind = Field(EngineKind.TRANSFORMERS, description="`transformers`, `vllm` or `echo`")
    device: Annotated[str, _accepting(r"auto|cpu|cuda(:\d+)?", "`auto`, `cpu`, `cuda` and `cuda:N`")] = Field(
        "auto",
        description="`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:N`",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        description="`auto` (float32 on a CPU, bfloat16 on a GPU), `float32`, `bfloat16`, `float16`, or "
        "`int8` (weights of 8 bits, on CPUs)",
    )
    native_isa: Literal["auto", "avx512_bf16", "avx512", "avx2", "neon", "none"] = Field(
        "auto",
        description="instruction set of the native decoder on a CPU: `auto` (the best that there is), "
        "`avx512_bf16`, `avx512`, `avx2`, `neon`, or `none` (torch alone)",
    )
    max_num_seqs: int = Field(
        32, ge=1, le=1024, description="slots of a worker: sequences decoded together; a job takes n"
    )
    max_model_len: int | None = Field(
        None, ge=2, description="tokens of prompt and output together; unset: the model's own length"
    )
    kv_cache_gib: float = Field(
        4,
        gt=0,
        description="memory for keys and values, shared by all slots; too little for one sequence of the "
        "model's length shortens that, see the log",
    )
    engine_args: Annotated[dict[str, Any], NoDecode] = Field(
        default_factory=dict,
        repr=False,
        description='JSON: more arguments for vLLM, `{"tensor_parallel_size": 2}`',
    )
    lease_seconds: float = Field(
        5, ge=0.5, le=3600, description="a worker silent for this long loses its jobs to another"
    )
    max_queued_jobs: int = Field(
        10_000, ge=1, description="waiting jobs per model; beyond it submits get 429"
    )
    max_streams_per_key: int = Field(
        2_000,
        ge=1,
        description="streams and waiting calls that one owner (a name in API_KEYS) may hold open in each web "
        "process; beyond it they get 429, WebSockets 4429",
    )
    job_retention_seconds: float = Field(86_400, ge=1, description="how long an ended job is kept")
    owner_memory_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of Redis' `maxmemory`, what the jobs of one API key may take; beyond it submits get 429",
    )
    files_dir: Path | None = Field(
        None,
        description="folder for the contents of files; unset: in Redis. All web processes need the same one",
    )
    max_file_bytes: int = Field(
        64 * 1024 * 1024, ge=1, le=512_000_000, description="the longest file that may be uploaded"
    )
    owner_files_bytes: int = Field(
        256 * 1024 * 1024,
        ge=1,
        description="what all files of one owner may take, in Redis or in FILES_DIR; beyond it uploads get "
        "429",
    )
    batch_window: int = Field(
        256,
        ge=1,
        le=4096,
        description="lines of a batch that are jobs at a time; more than the slots of all workers is best",
    )
    drain_seconds: float = Field(30, ge=0, description="how long a worker told to stop lets its jobs run on")
    step_timeout_seconds: float = Field(
        60, ge=1, description="a worker whose engine does not move on for this long ends"
    )
    api_keys: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, repr=False, description="`name:key,name2:key2`; unset: no authentication"
    )
    allow_anonymous: bool = Field(
        False, description="`1` binds other than loopback addresses without API_KEYS"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="`name,*.name2`: host names that requests may be addressed to, besides `localhost`, HOST "
        "and IP addresses; `*`: any; unset: with API_KEYS any, without only those",
    )
    echo_step_seconds: float = Field(0.02, ge=0, description="duration of the echo engine's step")
    echo_tokenizer: bool = Field(
        False, description="`1`: the echo engine echoes tokens of MODEL_ID's tokenizer instead of words"
    )

    @property
    def model(self) -> str:
        """Returns the model's id as clients name it. It is never a path."""
        if self.served_model_name is not None:
            return self.served_model_name
        if self.engine is EngineKind.ECHO:
            return "echo"
        folder = model_folder(self.model_id)
        return self.model_id if folder is None else Path(os.path.abspath(folder)).name or self.model_id

    @property
    def own_share(self) -> float:
        """Returns the share of Redis' memory that one owner may take. Without API keys there is only one."""
        return self.owner_memory_share if self.api_keys else 1

    @property
    def required_redis_url(self) -> str:
        """Returns REDIS_URL for a process that needs it. Raises SettingsError."""
        if self.redis_url is None:
            raise SettingsError(
                "REDIS_URL is not set; `make serve` and `tokenrelay serve` set it for their processes, and "
                "write it to redis.url in DATA_DIR"
            )
        return self.redis_url

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str | None) -> str | None:
        return None if url is None else checked_url(url)

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_api_keys(cls, value: Any) -> Any:
        """Turns `name:key,...` into {key: name}, because requests bring a key and its owner is looked up."""
        if not isinstance(value, str):
            return value
        names_by_key: dict[str, str] = {}
        for pair in value.split(","):
            name, colon, key = pair.strip().partition(":")
            if not (name and colon and key) or key in names_by_key or name == ANONYMOUS:
                raise ValueError(f"accepts name:key,name2:key2 with distinct keys and no name '{ANONYMOUS}'")
            if not pair.strip().isprintable():
                raise ValueError(
                    "accepts only keys that an HTTP header can hold, without a line end and the like"
                )
            names_by_key[key] = name
        return names_by_key

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _parse_allowed_hosts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        names = tuple(name.strip().lower() for name in value.split(","))
        if not all(HOST_NAME.fullmatch(name) for name in names):
            raise ValueError("accepts host names without a port, as in `name,*.name2`, or `*`")
        return names

    @field_validator("engine_args", mode="before")
    @classmethod
    def _parse_engine_args(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            args = json.loads(value)
        except ValueError as error:
            raise ValueError(f"accepts a JSON object: {error}") from None
        if not isinstance(args, dict):
            raise ValueError("accepts a JSON object")
        return args

    @model_validator(mode="after")
    def _engine_args_for_vllm(self) -> Settings:
        if self.engine_args and self.engine is not EngineKind.VLLM:
            raise ValueError(f"ENGINE_ARGS: only ENGINE=vllm takes them, not ENGINE={self.engine}")
        return self

    @model_validator(mode="after")
    def _int8_is_not_vllms(self) -> Settings:
        if self.dtype == "int8" and self.engine is EngineKind.VLLM:
            raise ValueError("DTYPE=int8: only ENGINE=transformers takes it, not ENGINE=vllm")
        return self

    @model_validator(mode="after")
    def _no_open_door(self) -> Settings:
        if not (self.api_keys or self.allow_anonymous or _is_loopback(self.host)):
            raise ValueError(
                "HOST: without API_KEYS only loopback addresses may bind (ALLOW_ANONYMOUS=1 lifts this)"
            )
        return self


def model_folder(model_id: str) -> Path | None:
    """Returns the folder that a MODEL_ID names, whether it exists or not; None for a hub id and `bundled`.

    A hub id is `name` or `owner/name`. The answer is the same with and without the folder, because the web
    server may run on a machine without it. The exception is `parent/name`: it is a hub id unless there is
    such a folder.
    """
    if model_id == "bundled":
        return None
    folder = Path(os.path.expanduser(model_id))  # Path's own raises for an unknown user.
    names_a_folder = model_id.startswith(("/", ".", "~")) or len(folder.parts) > 2 or folder.is_dir()
    return folder if names_a_folder else None


@cache
def get_settings() -> Settings:
    """Returns the process' settings. Raises SettingsError, which names each wrong variable."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(e) for e in error.errors())) from None


def _describe(error: Any) -> str:
    message = plain(error["type"], error["msg"])
    if not error["loc"]:
        return message
    name = str(error["loc"][0])
    value = f"={error['input']!r}" if Settings.model_fields[name].repr else ""
    return f"{name.upper()}{value}: {message}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
