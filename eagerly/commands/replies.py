"""What `eagerly predict` shows of replies: a table for people, JSON for programs, a sentence for what was refused."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from eagerly import table

if TYPE_CHECKING:
    from eagerly.client import CallError

UNREACHED = {
    "CERTIFICATE_VERIFY_FAILED": "shows a certificate that nobody signed whom --ca, or the system without it, trusts",
    "Hostname Verification Check failed": "shows a certificate for another name; call it by the name that it bears",
    "WRONG_VERSION_NUMBER": "speaks no TLS; leave out --tls, --ca, --cert and --key",
    "Failed to create security handshaker": "is not called, for TLS takes no such --ca, --cert or --key: each must be "
    "PEM, and the key that of the certificate",
    "Socket closed": "closes the connection; it may want TLS (--tls, or --ca FILE) or a certificate of the caller's "
    "(--cert, --key)",
    "backend unhealthy": "says that it does not serve now; it may be starting or about to stop",
}
"""What gRPC 1.85 says of an endpoint that is there and is not reached, and what that means to who calls it."""


def sentence(error: "CallError", address: str) -> str:
    """Says what went wrong with the whole call, and the way out where there is one."""
    if error.code == "UNAVAILABLE":
        return _unavailable(error, address)
    if error.code == "UNIMPLEMENTED":
        return f"the endpoint at {address} does not serve this model; `eagerly serve` says which it serves"
    if error.code == "DEADLINE_EXCEEDED":
        return f"the endpoint at {address} did not answer in time; --timeout-s gives it longer"
    if error.code == "UNAUTHENTICATED":
        return f"the endpoint at {address} asks who calls ({error.message}); put your token into EAGERLY_TOKEN"
    return error.message or error.code


def _unavailable(error: "CallError", address: str) -> str:
    """Says why nothing was answered: as the endpoint itself does, else by what came of the connection to it."""
    if error.reason:
        return f"the endpoint at {address} refuses for now: {error.message} ({error.reason})"
    for words, meaning in UNREACHED.items():
        if words in error.message:
            return f"what is at {address} {meaning}"
    return f"no endpoint answers at {address}; `eagerly serve` starts one, --address names another"


def plain(name: str, result: Any) -> dict[str, Any]:
    """Turns a result into what JSON can hold."""
    return {"input": name, **answered(result)}


def answered(result: Any) -> dict[str, Any]:
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


def show(answered: list[tuple[str, Any]]) -> None:
    """Prints the results as one table, a line for each label or item."""
    if not answered:
        return
    if hasattr(answered[0][1], "labels"):
        _show_labels(answered)
    else:
        rows = [(one.item_id, one.title, one.score) for _, result in answered for one in result.items]
        print(table.render(("item", "title", "score"), rows))
    model = answered[0][1].provenance
    print(f"\n{model.model} version {model.version}, run {model.run_id}, digest {model.digest[:12]}")


def _show_labels(answered: list[tuple[str, Any]]) -> None:
    """Prints labels, and beside those of inputs of which the model is too unsure that it abstains."""
    header, rows = ["input", "label", "score"], []
    for name, result in answered:
        rows += [[name, one.label, one.score, "abstains" if result.abstained else ""] for one in result.labels]
    if any(result.abstained for _, result in answered):
        print(table.render([*header, "model"], rows))
    else:
        print(table.render(header, [row[:3] for row in rows]))
