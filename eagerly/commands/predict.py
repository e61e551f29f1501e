"""`eagerly predict`: calls a served model and prints what it says."""

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from eagerly import flags, usage
from eagerly.commands import replies

if TYPE_CHECKING:
    from eagerly.client import Client, Query

DEFAULT_ADDRESS = "127.0.0.1:9000"
MOST_NUMBER = 2**31 - 1
"""Largest whole number that a request can hold."""
FILE_ALONE = ("output", "batch", "concurrency")
"""Flags that say how --file is answered, and nothing without it."""
HELP = """usage: eagerly predict classifier IMAGE... [--top-k N] [--min-confidence SHARE]
       eagerly predict sentiment TEXT... [--min-confidence SHARE]
       eagerly predict recommender [--user ID] [--items ID...] [--k N]
       eagerly predict SERVICE --file INPUTS.jsonl [--output RESULTS.jsonl] [--batch N] [--concurrency N]

A file has a JSON value a line: a text or {"text": ...}, an image's path or {"image": ...}, or
{"user_id": ..., "item_ids": [...], "k": ...}; the results are lines of JSON in the same order.

`eagerly predict classifier --help` shows the flags of one service. A served model is looked for at --address,
at EAGERLY_ADDRESS, or at 127.0.0.1:9000, where `eagerly serve` puts it. An endpoint that asks for a token finds it in
EAGERLY_TOKEN."""


@dataclass(frozen=True)
class Call:
    """Where to call, and how to print."""

    address: str = ""
    """host:port of the endpoint; empty is EAGERLY_ADDRESS, or 127.0.0.1:9000."""
    timeout_s: float = 20.0
    """Seconds to wait for the answer; a replica that was killed is back after up to 11, on a full machine up to 19."""
    json: bool = False
    """Whether to print JSON, for programs."""
    file: str = ""
    """File of inputs, a JSON value a line, answered in place of those on the command line; - is standard input."""
    output: str = ""
    """File for the results of --file, a line of JSON each; empty is standard output."""
    batch: int = 32
    """Inputs of --file in a call."""
    concurrency: int = 4
    """Calls at a time for --file, on up to 64 connections."""
    tls: bool = False
    """Whether to call over TLS, trusting the system's authorities."""
    ca: Path | None = None
    """PEM file of the authorities to trust; calls over TLS."""
    cert: Path | None = None
    """PEM file of a certificate of one's own, for an endpoint that asks for it; calls over TLS."""
    key: Path | None = None
    """PEM file of its key."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, or one that would be ignored, naming it and what is allowed."""
        from eagerly.connection import check_deadline

        check_deadline("--timeout-s", self.timeout_s)
        idle = [name for name in FILE_ALONE if not self.file and getattr(self, name) != getattr(Call, name)]
        if idle:
            raise ValueError(f"--{idle[0]} says how --file is answered; name the file of inputs, or leave it out")


@dataclass(frozen=True)
class Labelled(Call):
    """Labels inputs."""

    min_confidence: float | None = None
    """Least score of the best label, 0 to 1, below which the model abstains; None leaves it to the endpoint."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        super().__post_init__()
        if self.min_confidence is not None and not 0 <= self.min_confidence <= 1:
            raise ValueError(f"--min-confidence is {self.min_confidence:g}; it must be 0 to 1")


@dataclass(frozen=True)
class Classifier(Labelled):
    """Labels images."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG or JPEG files."""
    top_k: int = 3
    """Labels per image."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        super().__post_init__()
        if not 0 <= self.top_k <= MOST_NUMBER:
            raise ValueError(f"--top-k is {self.top_k}; it must be 0, which means 3, to {MOST_NUMBER}")


@dataclass(frozen=True)
class Sentiment(Labelled):
    """Labels texts by how they feel."""

    texts: tyro.conf.Positional[tuple[str, ...]] = ()
    """Texts."""


@dataclass(frozen=True)
class Recommender(Call):
    """Recommends items."""

    user: str = ""
    """Id of a user of the training data."""
    items: tuple[str, ...] = ()
    """Ids of items that the user likes."""
    k: int = 10
    """How many items to recommend."""

    def __post_init__(self) -> None:
        """Raises ValueError for a value out of range, naming it and what is allowed."""
        super().__post_init__()
        if not 1 <= self.k <= MOST_NUMBER:
            raise ValueError(f"--k is {self.k}; it must be 1 to the size of the catalogue")


KINDS: dict[str, type[Classifier] | type[Sentiment] | type[Recommender]] = {
    "classifier": Classifier,
    "sentiment": Sentiment,
    "recommender": Recommender,
}


def main(words: list[str]) -> int:
    """Runs `eagerly predict ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in usage.HELP:
        print(HELP)
        return 0
    service, *rest = words
    if service not in KINDS:
        raise ValueError(f"unknown service {service!r}: it must be one of {', '.join(KINDS)}")
    run(flags.parse(KINDS[service], rest, f"eagerly predict {service}"))
    return 0


def run(args: Classifier | Sentiment | Recommender) -> None:
    """Calls the service and prints its answer; raises ValueError for whatever was refused."""
    from eagerly.client import CallError

    with _client(args) as client:
        try:
            if args.file:
                _answer_file(client, args)
                return
            names, results = _ask(client, args)
        except CallError as error:
            raise ValueError(replies.sentence(error, client.address)) from None
    refused = [(name, result.error) for name, result in zip(names, results, strict=True) if result.error]
    if args.json:
        print(json.dumps([replies.plain(name, result) for name, result in zip(names, results, strict=True)], indent=2))
    else:
        replies.show([(name, result) for name, result in zip(names, results, strict=True) if not result.error])
    if refused:
        raise ValueError("; ".join(f"{name}: {error.message}" for name, error in refused))


def _client(args: Call) -> "Client":
    """Opens a client as the flags and the environment say."""
    from eagerly.client import Client, Tls
    from eagerly.connection import MOST_CONNECTIONS

    address = args.address or os.environ.get("EAGERLY_ADDRESS") or DEFAULT_ADDRESS
    is_tls = args.tls or any(path is not None for path in (args.ca, args.cert, args.key))
    return Client(
        address,
        args.timeout_s,
        wait_for_ready=bool(args.file),  # an endpoint that is away while a file is answered may come back
        tls=Tls(args.ca, args.cert, args.key) if is_tls else None,
        token=os.environ.get("EAGERLY_TOKEN", ""),
        connections=max(1, min(args.concurrency, MOST_CONNECTIONS)) if args.file else 1,
    )


def _answer_file(client: "Client", args: Classifier | Sentiment | Recommender) -> None:
    """Answers --file; raises ValueError when inputs stand on the command line too, or the endpoint stops answering."""
    from eagerly.client import CallError
    from eagerly.commands import bulk

    read: bulk.Read
    ask: Any
    if isinstance(args, Classifier):
        given, read = bool(args.images), _image_of
        ask = functools.partial(client.classify, top_k=args.top_k, min_confidence=args.min_confidence)
    elif isinstance(args, Sentiment):
        given, read = bool(args.texts), _text_of
        ask = functools.partial(client.analyze, min_confidence=args.min_confidence)
    else:
        given, ask = bool(args.user or args.items), client.recommend
        read = functools.partial(_query_of, k=args.k)
    if given:
        raise ValueError("inputs stand both on the command line and in --file; give one of them")
    work = bulk.Bulk(read, ask, replies.answered, args.batch, args.concurrency, client.close)
    _reach(client)
    try:
        bulk.answer(args.file, args.output, work)
    except CallError as error:
        so_far = f"{work.done_count} lines were answered before"
        raise ValueError(f"{replies.sentence(error, client.address)}; {so_far}") from None


def _reach(client: "Client") -> None:
    """Raises CallError when nobody answers now, so that a file does not wait for an endpoint that never was there."""
    from eagerly.client import CallError

    try:
        if not client.healthy():
            raise CallError("UNAVAILABLE", "backend unhealthy")  # as gRPC says it, which asks for health too
    except CallError as error:  # others than these come of somebody who is there, and the first call says the same
        if error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
            raise


def _text_of(line: Any) -> str:
    return _whole(_only(line, "text"))


def _image_of(line: Any) -> bytes:
    return _read(Path(_only(line, "image")))


def _query_of(line: Any, k: int) -> "Query":
    from eagerly.client import Query

    known = {"user_id", "item_ids", "k"}
    if not isinstance(line, dict) or line.keys() - known:
        raise ValueError('is no query; write {"user_id": ..., "item_ids": [...], "k": ...}, each if need be')
    user, items, k = line.get("user_id", ""), line.get("item_ids", []), line.get("k", k)
    is_items = isinstance(items, list) and all(isinstance(item, str) for item in items)
    if not (isinstance(user, str) and is_items and type(k) is int and 0 <= k < 2**31):
        raise ValueError("is no query: user_id is a text, item_ids a list of texts, k a whole number")
    return Query(_whole(user), tuple(map(_whole, items)), k)


def _only(line: Any, name: str) -> str:
    """Reads the text that a line is, or holds under one name."""
    found = line[name] if isinstance(line, dict) and line.keys() == {name} else line
    if not isinstance(found, str):
        raise ValueError(f'is neither a text nor {{"{name}": a text}}')
    return found


def _whole(text: str) -> str:
    """Gives a text back; raises ValueError when it holds half a character, as JSON may, and so cannot be sent."""
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        half = ascii(text[problem.start])
        raise ValueError(f"holds {half}, half of a pair that makes up a character; write both or neither") from None
    return text


def _ask(client: "Client", args: Classifier | Sentiment | Recommender) -> tuple[list[str], list[Any]]:
    """Makes the call; returns a name and a result for each item."""
    if isinstance(args, Classifier):
        if not args.images:
            raise ValueError("no image given; name one or more PNG or JPEG files")
        names = [_shown(str(path)) for path in args.images]
        return names, client.classify([_read(path) for path in args.images], args.top_k, args.min_confidence)
    if isinstance(args, Sentiment):
        if not args.texts:
            raise ValueError("no text given; write one or more texts, each in quotes")
        return list(args.texts), client.analyze([_utf8(text) for text in args.texts], args.min_confidence)
    from eagerly.client import Query

    if not args.user and not args.items:
        raise ValueError("nobody to recommend to; give --user ID, or --items with what the user likes")
    query = Query(_utf8(args.user), tuple(_utf8(item) for item in args.items), args.k)
    return [args.user or "the user"], client.recommend([query])


def _utf8(text: str) -> str:
    """Gives a text of the command line back; raises ValueError when its bytes were no UTF-8, and so cannot be sent."""
    if (shown := _shown(text)) != text:
        raise ValueError(f"the text '{shown}' is not UTF-8; write it in UTF-8")
    return text


def _shown(text: str) -> str:
    """Writes out the bytes of a text that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error.strerror}") from None
