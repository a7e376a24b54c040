"""The settings: every one is a field of :class:`Settings`, with its default and one line of help.

:mod:`backlog.environment` reads them. The README's table is made from these fields and a test compares the two.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit, urlunsplit

from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL, MODELS, PRODUCT

PREFIX: Final = "CXR_"

#: Languages of reports and of the terminal; of the codes that findings get in reports.
LANGUAGES: Final = ("en", "pt-BR")
CODINGS: Final = ("open", "snomed")

#: What can be stored beside a report, for viewers that show no SR: a picture, the report as a PDF.
DERIVED_OBJECTS: Final = ("capture", "pdf", "pdf-picture")

#: What reports draw: where the evidence of findings that are present lies, the square that the model saw, nothing.
REGIONS: Final = ("activation", "frame", "none")


def _setting(
    default: object,
    text: str,
    *,
    secret: bool = False,
    choices: tuple[str, ...] = (),
    allowed: tuple[float, float] | None = None,
) -> Any:
    """Describe a setting; ``allowed`` is a number's least and greatest value, beyond which it does only harm."""
    more = {"help": text, "secret": secret, "choices": choices, "allowed": allowed}
    return field(default=default, metadata=more, repr=not secret)


@dataclass(frozen=True)
class Settings:
    """Everything that the environment can say. Built by :func:`backlog.environment.from_environment`."""

    redis_url: str = _setting(
        "",
        "The broker, `redis://host:6379/0` or `rediss://…` for TLS. Empty: a private server is started for the run.",
        secret=True,
    )
    redis_password: str = _setting("", "Password for CXR_REDIS_URL when the address holds none.", secret=True)
    pacs_url: str = _setting(
        "",
        "Workers: where images are read and reports stored: `http(s)://…` of an Orthanc, `dicomweb+https://…`, or a"
        " folder.",
    )
    pacs_username: str = _setting("", "User name for the PACS.")
    pacs_password: str = _setting("", "Password for the PACS.", secret=True)
    pacs_token_file: str = _setting(
        "", "A file with a bearer token for the PACS, instead of a user; read again when it changes."
    )
    pacs_certificate: str = _setting(
        "", "A file with our certificate (PEM), for a PACS that asks its clients for one."
    )
    pacs_key: str = _setting(
        "", "A file with its private key. Empty: it stands in the file of CXR_PACS_CERTIFICATE."
    )
    pacs_ca: str = _setting(
        "", "A file with the certificate authority of an https PACS. Empty: the system's."
    )
    pacs_storage: str = _setting(
        "",
        "Orthanc's storage folder, readable here: images are read from it instead of over REST. Empty: REST only.",
    )
    pacs_requests: int = _setting(
        8, "Most requests at a time that all workers together send to the PACS.", allowed=(1, 1000)
    )
    pacs_seconds: float = _setting(60.0, "How long one PACS request may take, in seconds.", allowed=(1, 3600))
    find_limit: int = _setting(
        100,
        "`modality:NAME`: an answer to a query (C-FIND) with fewer studies than this is complete;"
        " one with more may be incomplete.",
        allowed=(2, 1_000_000),
    )
    retrieve_requests: int = _setting(
        2,
        "`modality:NAME`: most images at a time that all workers together request from the PACS.",
        allowed=(1, 64),
    )
    retrieve_method: str = _setting(
        "move",
        "`modality:NAME`: how Orthanc requests images: `move` (C-MOVE, for which the PACS has to reach Orthanc),"
        " `get` (C-GET; Orthanc from 1.12.6 on).",
        choices=("move", "get"),
    )
    retrieve_per_minute: int = _setting(
        0, "`modality:NAME`: most images a minute. 0: as many as it gives.", allowed=(0, 1_000_000)
    )
    retrieve_window: int = _setting(
        1000,
        "`modality:NAME`: most images of a run that lie in Orthanc at a time before they are scored and deleted there.",
        allowed=(1, 1_000_000),
    )
    deliver_confirm: str = _setting(
        "find",
        "How a modality confirms a report: it lists it (C-FIND), commits itself to keep it, or only accepts it.",
        choices=("find", "commitment", "store"),
    )
    allow_recycling: bool = _setting(
        False,
        "Store in a PACS that deletes its oldest patients to make room (`MaximumPatientCount`, `MaximumStorageSize`).",
    )
    model: str = _setting(
        DEFAULT_MODEL, "Which of torchxrayvision's released networks scores.", choices=tuple(MODELS)
    )
    weights: str = _setting(
        "",
        "A local weights file (state dict or the released pickle), or `seeded` for meaningless test weights. "
        "Empty: the released weights by name.",
    )
    weights_sha256: str = _setting(
        "",
        "SHA-256 of the weights when they are not the released file, or its hash is not confirmed.",
    )
    engine: str = _setting("auto", "What runs the model.", choices=("auto", "onnxruntime", "torch"))
    threads: int = _setting(
        0, "CPU threads of one inference process. 0: the cores shared among the processes.", allowed=(0, 1024)
    )
    readers: int = _setting(
        0,
        "Processes that read images for one inference process. 0: one; for a GPU one for each core, at most 16.",
        allowed=(0, 256),
    )
    cache: str = _setting("", "Where weights are kept. Empty: `~/.cache/cxr-backlog`.")
    language: str = _setting(
        "en",
        "Language of the reports; and of the terminal, which follows the locale where this is not set.",
        choices=LANGUAGES,
    )
    coding: str = _setting(
        "open",
        "Codes of the findings; `snomed` needs a licence in some countries.",
        choices=CODINGS,
    )
    regions: str = _setting(
        "activation",
        "What reports draw in the image: `activation` (where the evidence of findings that are present lies), `frame` "
        "(the square that the model saw), `none`.",
        choices=REGIONS,
    )
    derived_objects: str = _setting(
        "",
        "What runs store beside each report, by comma: `capture` (a picture with a heat map), `pdf`,"
        " `pdf-picture` (a PDF with image and heat map). Empty: nothing.",
    )
    modalities: str = _setting("CR,DX,RG,XR", "Modalities that may hold a chest radiograph, by comma.")
    laterals: bool = _setting(False, "Score lateral views too, though the model knows frontal ones.")
    for_processing: bool = _setting(
        False, "Score raw detector data (For Processing) too, though the model knows processed images."
    )
    body_parts: str = _setting("", "More values of Body Part Examined that mean the chest, by comma.")
    any_body_part: bool = _setting(False, "Score every image, whatever its Body Part Examined says.")
    chunk_size: int = _setting(32, "Most images in one message, 1 to 64.", allowed=(1, 64))
    window: int = _setting(
        0,
        "Most chunks in flight at a time. 0: as many as workers take, and a few that wait.",
        allowed=(0, 100_000),
    )
    lease_seconds: float = _setting(
        10.0, "How long a silent worker keeps its chunk before another may take it.", allowed=(1, 600)
    )
    pacs_retry_seconds: float = _setting(
        60.0,
        "How long a task waits for a PACS that is unavailable before it hands its chunk back.",
        allowed=(1, 1800),
    )
    reconcile_seconds: float = _setting(
        3.0, "How often lost messages are looked for. 0: never (for tests only).", allowed=(0, 3600)
    )
    decode_timeout_seconds: float = _setting(
        10.0, "How long the decoding of one image may take.", allowed=(1, 3600)
    )
    decode_memory_mb: int = _setting(
        2048, "How much memory the decoding of one image may take, in MB.", allowed=(32, 1 << 20)
    )
    log: str = _setting("human", "Form of the log lines.", choices=("human", "json"))
    metrics_port: int = _setting(
        0,
        "Port where the producer of a run serves its numbers for Prometheus. 0: nowhere.",
        allowed=(0, 65_535),
    )
    metrics_bind: str = _setting(
        "127.0.0.1", "Address on which it serves them; they can be read without a password."
    )
    metrics_targets: str = _setting(
        "",
        "Folder where each run says where its numbers are, for Prometheus' file-based discovery. Empty: nowhere.",
    )
    pacs_link: str = _setting(
        "",
        "Where a browser reaches the PACS, `http(s)://…`, for the links of the summary page. Empty: CXR_PACS_URL.",
    )
    viewer_link: str = _setting(
        "",
        "Where a viewer shows a study, for the links of the summary page and the gallery, with `{study_instance_uid}`,"
        " `{sop_instance_uid}` or `{instance}` in it. Empty: Orthanc's explorer.",
    )
    runs_folder: str = _setting(
        "",
        "Folder that every run's folder has to lie in; `runs` lists it and `runner` works through it. Empty: anywhere.",
    )
    between: str = _setting(
        "", "Hours at which new runs send work, as `20:00-06:00`; work in flight is finished. Empty: always."
    )
    time_zone: str = _setting(
        "",
        "Time zone of CXR_BETWEEN, as `America/Sao_Paulo`. Empty: that of the machine where the run begins.",
    )
    stop_when_quarantined: float = _setting(
        0.0,
        "New runs pause by themselves when this percentage of their ended items is quarantined, from 100 items on."
        " 0: never.",
        allowed=(0, 100),
    )
    notify: str = _setting(
        "",
        "apprise addresses that get a message when a run ends, pauses by itself, or nothing moves for 10 minutes.",
        secret=True,
    )
    follow_settled_seconds: float = _setting(
        15.0,
        "`--follow`: a folder's file counts once it has stayed the same for so many seconds.",
        allowed=(1, 3600),
    )
    run_inbox: bool = _setting(False, "The runner begins a run for each zip that is put into its inbox.")

    @property
    def broker(self) -> str:
        """The broker's address: with the password from its own variable, and TLS that checks certificates."""
        try:
            parts = urlsplit(self.redis_url)
        except ValueError:
            return self.redis_url  # no address at all: who connects says so
        if parts.scheme not in ("redis", "rediss"):
            return self.redis_url
        if self.redis_password and not parts.password:
            user, host = quote(parts.username or "", safe=""), parts.netloc.rpartition("@")[2]
            parts = parts._replace(netloc=f"{user}:{quote(self.redis_password, safe='')}@{host}")
        if parts.scheme == "rediss" and "ssl_cert_reqs=" not in parts.query:
            # Celery takes any certificate, from any server, unless the address says otherwise.
            parts = parts._replace(query="&".join(filter(None, (parts.query, "ssl_cert_reqs=required"))))
        return urlunsplit(parts)

    @property
    def derived_object_kinds(self) -> list[str]:
        """What runs store beside each report.

        Raises
        ------
        UsageError
            One of them is unknown.
        """
        kinds = [kind.strip() for kind in self.derived_objects.split(",") if kind.strip()]
        for kind in kinds:
            if kind not in DERIVED_OBJECTS:
                raise UsageError(
                    f"{kind!r} is no derived object of a report: there are {', '.join(DERIVED_OBJECTS)}"
                )
        return sorted(set(kinds))

    @property
    def cache_folder(self) -> Path:
        """Where weights and exports are kept."""
        try:
            return Path(self.cache).expanduser() if self.cache else Path.home() / ".cache" / PRODUCT
        except RuntimeError as error:
            raise UsageError(
                "there is no home folder to keep weights in: set CXR_CACHE to a folder"
            ) from error


def variable(setting: Field[Any]) -> str:
    """Name of the environment variable of a field of :class:`Settings`."""
    return PREFIX + setting.name.upper()
