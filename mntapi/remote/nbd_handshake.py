"""The first phase of the NBD protocol: agree on an export and on how to talk about it.

Source: proto.md, "Fixed newstyle negotiation", "Option types", "Option reply types", "TLS support".
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from mntapi.errors import Corrupt, Denied, MntapiError, NotFound, ReadFailed, Unsupported
from mntapi.remote import nbd_protocol as nbd
from mntapi.remote.dial import ConnectionLost
from mntapi.remote.wire import Wire

MAX_REPLIES = 64
"""Replies to one option before the last one; three are usual."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All that came back for an option: the final reply and those before it (type, data)."""

    kind: int
    message: str
    parts: tuple[tuple[int, bytes], ...]


def negotiate(wire: Wire, export_name: str, start_tls: Callable[[], None] | None = None) -> nbd.Export:
    """Take ``wire`` from the greeting to the transmission phase.

    Args:
        wire: a new connection, with its deadline running.
        export_name: empty for the default export.
        start_tls: encrypts the wire; given if encryption is demanded.

    Raises:
        NotFound: there is no such export.
        Denied: the server demands what we did not offer, or refuses.
        Unsupported: it is too old.
        Corrupt: it does not keep to the protocol.
        ConnectionLost: it went away.
    """
    flags = nbd.parse_greeting(wire.receive(nbd.GREETING.size))
    wire.send(nbd.client_flags(flags))
    name = export_name.encode(errors="surrogateescape")
    if not flags & nbd.FIXED_NEWSTYLE:
        if start_tls is not None:
            raise Unsupported("the server is too old for encryption", hint="nbd:// does without", reason="tls")
        return _export_name(wire, name, flags)
    try:
        return _haggle(wire, name, flags, start_tls)
    except ConnectionLost:
        raise
    except MntapiError:
        with contextlib.suppress(ConnectionLost):  # the reason is known already; this is only polite
            wire.send(nbd.option(nbd.OPT_ABORT))
        raise


def _haggle(wire: Wire, name: bytes, flags: int, start_tls: Callable[[], None] | None) -> nbd.Export:
    if start_tls is not None:
        answer = _ask(wire, nbd.OPT_STARTTLS)
        if answer.kind != nbd.REP_ACK:
            raise Denied("the server does not encrypt", hint="nbd:// does without", found=answer.message, reason="tls")
        start_tls()
    structured = _ask(wire, nbd.OPT_STRUCTURED_REPLY).kind == nbd.REP_ACK
    context_id = _allocation_context(wire, name) if structured else None
    answer = _ask(wire, nbd.OPT_GO, nbd.go_data(name))
    if answer.kind == nbd.REP_ERR_UNSUP:
        return _export_name(wire, name, flags, structured=structured, context_id=context_id)
    if answer.kind != nbd.REP_ACK:
        raise _refusal(answer, name)
    return _described(answer, structured, context_id)


def _ask(wire: Wire, number: int, data: bytes = b"") -> Answer:
    """Send an option; an error reply is an answer, but for the one that says that nothing else will be."""
    wire.send(nbd.option(number, data))
    parts: list[tuple[int, bytes]] = []
    for _ in range(MAX_REPLIES):
        head = nbd.parse_option_reply(wire.receive(nbd.OPTION_REPLY.size), number)
        content = wire.receive(head.length)
        if head.kind == nbd.REP_ERR_TLS_REQD:
            raise Denied("the server demands encryption", hint="use nbds:// or nbds+unix://", reason="tls")
        if head.kind == nbd.REP_ACK or head.kind & nbd.REP_ERROR:
            return Answer(head.kind, nbd.printable(content), tuple(parts))
        parts.append((head.kind, content))
    raise Corrupt("an option has too many replies", expected=f"at most {MAX_REPLIES}")


def _allocation_context(wire: Wire, name: bytes) -> int | None:
    answer = _ask(wire, nbd.OPT_SET_META_CONTEXT, nbd.meta_context_data(name))
    if answer.kind != nbd.REP_ACK:
        return None
    contexts = [nbd.parse_meta_context(data) for kind, data in answer.parts if kind == nbd.REP_META_CONTEXT]
    return next((number for number, context in contexts if context == nbd.BASE_ALLOCATION), None)


def _described(answer: Answer, structured: bool, context_id: int | None) -> nbd.Export:
    """The export from the ``NBD_REP_INFO`` replies, of which only that with the size must be there."""
    infos = {int.from_bytes(data[:2]): data for kind, data in answer.parts if kind == nbd.REP_INFO}
    if nbd.INFO_EXPORT not in infos:
        raise Corrupt("the server did not say how large the export is")
    size, flags = nbd.parse_export_info(infos[nbd.INFO_EXPORT])
    sizes = nbd.parse_block_sizes(infos[nbd.INFO_BLOCK_SIZE]) if nbd.INFO_BLOCK_SIZE in infos else None
    return nbd.describe_export(size, flags, sizes, structured=structured, context_id=context_id)


def _export_name(wire: Wire, name: bytes, flags: int, *, structured: bool = False, context_id: int | None = None) -> nbd.Export:
    """The way of servers without ``NBD_OPT_GO``, which hang up instead of saying no."""
    wire.send(nbd.option(nbd.OPT_EXPORT_NAME, name))
    try:
        size, export_flags = nbd.EXPORT_NAME_REPLY.unpack(wire.receive(nbd.EXPORT_NAME_REPLY.size))
    except ConnectionLost as error:
        if error.reason != "dropped":
            raise
        what = f"the server hung up on the export {nbd.printable(name)!r}: it may not have it"
        raise NotFound(what, hint="nbdinfo --list shows what it has") from error
    if not flags & nbd.NO_ZEROES:
        wire.receive(nbd.EXPORT_NAME_ZEROES)
    return nbd.describe_export(size, export_flags, None, structured=structured, context_id=context_id)


def _refusal(answer: Answer, name: bytes) -> MntapiError:
    said = answer.message or None
    if answer.kind == nbd.REP_ERR_UNKNOWN:
        return NotFound(
            f"the server has no export {nbd.printable(name)!r}", found=said, hint="nbdinfo --list shows what it has"
        )
    if answer.kind == nbd.REP_ERR_POLICY:
        return Denied("the server does not give us this export", found=said, hint="its configuration says who may have it")
    if answer.kind == nbd.REP_ERROR + 7:
        return ConnectionLost("the server is shutting down", found=said, hint="try again later", reason="dropped")
    what = f"the server refuses the export with error {answer.kind - nbd.REP_ERROR}"
    return ReadFailed(what, found=said, hint="the server's log may say why", reason="server-refused")
