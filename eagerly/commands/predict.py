"""`eagerly predict`: calls a served model and prints what it says."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from eagerly import flags, table

if TYPE_CHECKING:
    from eagerly.client import CallError, Client

DEFAULT_ADDRESS = "127.0.0.1:9000"
HELP = """usage: eagerly predict classifier IMAGE... [--top-k N]
       eagerly predict sentiment TEXT...
       eagerly predict recommender [--user ID] [--items ID...] [--k N]

`eagerly predict classifier --help` shows the flags of one service. A served model is looked for at --address,
at EAGERLY_ADDRESS, or at 127.0.0.1:9000, where `eagerly serve` puts it."""


@dataclass(frozen=True)
class Call:
    """Where to call, and how to print."""

    address: str = ""
    """host:port of the endpoint; empty is EAGERLY_ADDRESS, or 127.0.0.1:9000."""
    timeout_s: float = 10.0
    """Seconds to wait for the answer."""
    json: bool = False
    """Whether to print JSON, for programs."""


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
    from eagerly.client import CallError, Client

    address = args.address or os.environ.get("EAGERLY_ADDRESS") or DEFAULT_ADDRESS
    with Client(address, args.timeout_s, wait_for_ready=False) as client:
        try:
            names, results = _ask(client, args)
        except CallError as error:
            raise ValueError(_sentence(error, address)) from None
    refused = [(name, result.error) for name, result in zip(names, results, strict=True) if result.error]
    if args.json:
        print(json.dumps([_plain(name, result) for name, result in zip(names, results, strict=True)], indent=2))
    else:
        _show([(name, result) for name, result in zip(names, results, strict=True) if not result.error])
    if refused:
        raise ValueError("; ".join(f"{name}: {error.message}" for name, error in refused))


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
    return error.message or error.code


def _plain(name: str, result: Any) -> dict[str, Any]:
    """Turns a result into what JSON can hold."""
    plain: dict[str, Any] = {"input": name}
    if result.error:
        violations = [asdict(violation) for violation in result.error.violations]
        plain["error"] = {"code": result.error.code, "message": result.error.message, "violations": violations}
    elif hasattr(result, "labels"):
        plain["labels"] = [asdict(label) for label in result.labels]
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
