"""`eagerly predict`: calls a served model and prints what it says."""

import functools
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from eagerly import flags, table

if TYPE_CHECKING:
    from eagerly.client import CallError, Client, Query

MOST_CONNECTIONS = 64
DEFAULT_ADDRESS = "127.0.0.1:9000"
HELP = """usage: eagerly predict classifier IMAGE... [--top-k N]
       eagerly predict sentiment TEXT...
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
    timeout_s: float = 10.0
    """Seconds to wait for the answer."""
    json: bool = False
    """Whether to print JSON, for programs."""
    file: str = ""
    """File of inputs, a JSON value a line, answered in place of those on the command line; - is standard input."""
    output: str = ""
    """File for the results of --file, a line of JSON each; empty is standard output."""
    batch: int = 32
    """Inputs of --file in a call."""
    concurrency: int = 4
    """Calls at a time for --file, each on a connection of its own."""
    tls: bool = False
    """Whether to call over TLS, trusting the system's authorities."""
    ca: Path | None = None
    """PEM file of the authorities to trust; calls over TLS."""
    cert: Path | None = None
    """PEM file of a certificate of one's own, for an endpoint that asks for it; calls over TLS."""
    key: Path | None = None
    """PEM file of its key."""


@dataclass(frozen=True)
class Classifier(Call):
    """Labels images."""

    images: tyro.conf.Positional[tuple[Path, ...]] = ()
    """PNG or JPEG files."""
    top_k: int = 3
    """Labels per image."""


@dataclass(frozen=True)
class Sentiment(Call):
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


KINDS: dict[str, type[Classifier] | type[Sentiment] | type[Recommender]] = {
    "classifier": Classifier,
    "sentiment": Sentiment,
    "recommender": Recommender,
}


def main(words: list[str]) -> int:
    """Runs `eagerly predict ...`. Raises ValueError with a sentence for everything the user can mend."""
    if not words or words[0] in ("--help", "-h"):
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
            raise ValueError(_sentence(error, client.address)) from None
    refused = [(name, result.error) for name, result in zip(names, results, strict=True) if result.error]
    if args.json:
        print(json.dumps([_plain(name, result) for name, result in zip(names, results, strict=True)], indent=2))
    else:
        _show([(name, result) for name, result in zip(names, results, strict=True) if not result.error])
    if refused:
        raise ValueError("; ".join(f"{name}: {error.message}" for name, error in refused))


def _client(args: Call) -> "Client":
    """Opens a client as the flags and the environment say."""
    from eagerly.client import Client, Tls

    address = args.address or os.environ.get("EAGERLY_ADDRESS") or DEFAULT_ADDRESS
    is_tls = args.tls or any(path is not None for path in (args.ca, args.cert, args.key))
    return Client(
        address,
        args.timeout_s,
        wait_for_ready=False,
        tls=Tls(args.ca, args.cert, args.key) if is_tls else None,
        token=os.environ.get("EAGERLY_TOKEN", ""),
        connections=max(1, min(args.concurrency, MOST_CONNECTIONS)) if args.file else 1,
    )


def _answer_file(client: "Client", args: Classifier | Sentiment | Recommender) -> None:
    """Answers --file; raises ValueError when inputs stand on the command line too."""
    from eagerly.commands import bulk

    read: bulk.Read
    ask: Any
    if isinstance(args, Classifier):
        given, read = bool(args.images), _image_of
        ask = functools.partial(client.classify, top_k=args.top_k)
    elif isinstance(args, Sentiment):
        given, read, ask = bool(args.texts), _text_of, client.analyze
    else:
        given, read, ask = bool(args.user or args.items), _query_of, client.recommend
    if given:
        raise ValueError("inputs stand both on the command line and in --file; give one of them")
    bulk.answer(args.file, args.output, bulk.Bulk(read, ask, _answered, args.batch, args.concurrency))


def _text_of(line: Any) -> str:
    return _only(line, "text")


def _image_of(line: Any) -> bytes:
    return _read(Path(_only(line, "image")))


def _query_of(line: Any) -> "Query":
    from eagerly.client import Query

    known = {"user_id", "item_ids", "k"}
    if not isinstance(line, dict) or line.keys() - known:
        raise ValueError('is no query; write {"user_id": ..., "item_ids": [...], "k": ...}, each if need be')
    user, items, k = line.get("user_id", ""), line.get("item_ids", []), line.get("k", 10)
    is_items = isinstance(items, list) and all(isinstance(item, str) for item in items)
    if not (isinstance(user, str) and is_items and type(k) is int and 0 <= k < 2**31):
        raise ValueError("is no query: user_id is a text, item_ids a list of texts, k a whole number")
    return Query(user, tuple(items), k)


def _only(line: Any, name: str) -> str:
    """Reads the text that a line is, or holds under one name."""
    found = line[name] if isinstance(line, dict) and line.keys() == {name} else line
    if not isinstance(found, str):
        raise ValueError(f'is neither a text nor {{"{name}": a text}}')
    return found


def _ask(client: "Client", args: Classifier | Sentiment | Recommender) -> tuple[list[str], list[Any]]:
    """Makes the call; returns a name and a result for each item."""
    if isinstance(args, Classifier):
        if not args.images:
            raise ValueError("no image given; name one or more PNG or JPEG files")
        names = [str(path) for path in args.images]
        return names, client.classify([_read(path) for path in args.images], args.top_k)
    if isinstance(args, Sentiment):
        if not args.texts:
            raise ValueError("no text given; write one or more texts, each in quotes")
        return list(args.texts), client.analyze(args.texts)
    from eagerly.client import Query

    if not args.user and not args.items:
        raise ValueError("nobody to recommend to; give --user ID, or --items with what the user likes")
    if args.k > 2**31 - 1:
        raise ValueError(f"--k is {args.k}; it must be 1 to the size of the catalogue")
    return [args.user or "the user"], client.recommend([Query(args.user, args.items, args.k)])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"image {str(path)!r} cannot be read: {error.strerror}") from None


def _sentence(error: "CallError", address: str) -> str:
    """Says what went wrong with the whole call, and the way out where there is one."""
    if error.code == "UNAVAILABLE":
        return f"no endpoint answers at {address}; `eagerly serve` starts one, --address names another"
    if error.code == "UNIMPLEMENTED":
        return f"the endpoint at {address} does not serve this model; `eagerly serve` says which it serves"
    if error.code == "DEADLINE_EXCEEDED":
        return f"the endpoint at {address} did not answer in time; --timeout-s gives it longer"
    if error.code == "UNAUTHENTICATED":
        return f"the endpoint at {address} asks who calls ({error.message}); put your token into EAGERLY_TOKEN"
    return error.message or error.code


def _plain(name: str, result: Any) -> dict[str, Any]:
    """Turns a result into what JSON can hold."""
    return {"input": name, **_answered(result)}


def _answered(result: Any) -> dict[str, Any]:
    """Turns all of a result but its name into what JSON can hold."""
    plain: dict[str, Any] = {}
    if result.error:
        violations = [asdict(violation) for violation in result.error.violations]
        plain["error"] = {"code": result.error.code, "message": result.error.message, "violations": violations}
        plain["error"] |= {"reason": result.error.reason} if result.error.reason else {}
    elif hasattr(result, "labels"):
        plain["labels"] = [asdict(label) for label in result.labels]
        plain |= {"abstained": True} if result.abstained else {}
    else:
        plain["items"] = [asdict(item) for item in result.items]
    return {**plain, "provenance": asdict(result.provenance)}


def _show(answered: list[tuple[str, Any]]) -> None:
    """Prints the results as one table, a line for each label or item."""
    if not answered:
        return
    if hasattr(answered[0][1], "labels"):
        rows = [(name, one.label, one.score) for name, result in answered for one in result.labels]
        print(table.render(("input", "label", "score"), rows))
    else:
        rows = [(one.item_id, one.title, one.score) for _, result in answered for one in result.items]
        print(table.render(("item", "title", "score"), rows))
    model = answered[0][1].provenance
    print(f"\n{model.model} version {model.version}, run {model.run_id}, digest {model.digest[:12]}")
