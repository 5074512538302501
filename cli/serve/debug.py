"""`/debug`, for whoever sits at this machine: what a request's prompt is and where it parts from
what was read before."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from cli.serve.access import is_loopback, name_in
from cli.serve.faults import RequestFault
from cli.serve.http_answers import Scope, header
from dsv4_mlx.serving.partings import PartingOfTwo, partings, prompt_parts
from dsv4_mlx.serving.request import GenerationRequest

if TYPE_CHECKING:
    from cli.serve.served_model import ServedHere
    from dsv4_mlx.serving.service import Service

_PASSED_ON: Final = (b"forwarded", b"x-forwarded-for", b"via")
_PATIENCE_S: Final = 60.0
PAGE: Final = """\
<!doctype html><meta charset="utf-8"><title>dsv4-chat: a prompt</title>
<style>body{font:14px/1.4 system-ui;max-width:60em;margin:2em auto;padding:0 1em}
textarea{width:100%;height:12em}td,th{text-align:left;vertical-align:top;padding:.2em .6em}
td{font-family:ui-monospace,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.same{opacity:.55}</style>
<h1>A prompt, and where it parts from what was read</h1>
<p><select id="path"></select> a request's body, which is read and not answered:</p>
<textarea id="body"></textarea>
<p><input id="key" type="password" placeholder="key, if there are keys"> <button>Look</button></p>
<p id="said"></p><table id="partings"></table><table id="parts"></table>
<script>
const get = id => document.getElementById(id);
for (const path of PATHS) get("path").append(new Option(path));
const fill = (table, head, rows) => {
  table.replaceChildren();
  for (const cells of [head, ...rows]) {
    const row = table.insertRow();
    for (const cell of cells) row.insertCell().textContent = cell;
  }
};
document.querySelector("button").onclick = async () => {
  try {
    const headers = {"content-type": "application/json"};
    if (get("key").value) headers.authorization = "Bearer " + get("key").value;
    const body = JSON.parse(get("body").value);
    const text = JSON.stringify({path: get("path").value, body});
    const answer = await fetch("/v1/debug/prompt", {method: "POST", headers, body: text});
    const found = await answer.json();
    if (found.error) throw Error(found.error.message);
    get("said").textContent =
      `${found.tokens} tokens, of which ${found.kept} were read before`;
    fill(get("partings"), ["same", "of", "why", "the prompt goes on", "what was read goes on"],
      found.partings.map(p => [p.matched, p.timeline, p.why, p.prompt_text, p.timeline_text]));
    fill(get("parts"), ["from", "to", "text"], found.parts.map(p => [p.start, p.end, p.text]));
    [...get("parts").rows].forEach((row, at) =>
      row.classList.toggle("same", at > 0 && found.parts[at - 1].end <= found.kept));
  } catch (error) { get("said").textContent = error.message; }
};
</script>
"""


def check_at_this_machine(scope: Scope) -> None:
    """RequestFault for whoever is elsewhere, also behind a proxy that runs here."""
    client, host = scope.get("client"), header(scope, b"host")
    is_passed_on = any(header(scope, name) is not None for name in _PASSED_ON)
    is_here = client is not None and is_loopback(client[0]) and is_loopback(name_in(host or ""))
    if is_passed_on or not is_here:
        raise RequestFault("forbidden", "Prompts are shown at this machine alone.")


def prompt_found(service: "ServedHere", request: GenerationRequest) -> Mapping[str, Any]:
    """The prompt of `request` in its parts, beside every timeline of its owner. Waits for the
    model's thread."""
    tokens = service.prompts.write(request).tokens
    tokenizer = service.prompts.tokenizer

    try:
        kept, found = service.ask(_look, tokens, request.owner).result(timeout=_PATIENCE_S)
    except TimeoutError:
        raise RequestFault(
            "waited", "The model's thread had no time to look within a minute; look again."
        ) from None
    return {
        "tokens": len(tokens),
        "kept": kept,
        "parts": [asdict(part) for part in prompt_parts(tokens, tokenizer)],
        "partings": [asdict(one) for one in found],
    }


def _look(
    service: "Service", tokens: Sequence[int], owner: str
) -> tuple[int, Sequence[PartingOfTwo]]:
    """Tokens of a prompt that are kept, and where it parts from what was read; for the model's
    thread."""
    timelines = service.timelines
    found = partings(timelines, tokens, service.prompts.tokenizer, owner)
    return timelines.look(tokens, owner).found, found
