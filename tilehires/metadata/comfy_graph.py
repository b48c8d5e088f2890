"""ComfyUI's graphs: the API's "prompt" and the editor's "workflow" as one kind of graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tilehires.metadata.values import Unreadable

MOST_NODES = 20_000
MUTED, BYPASSED = 2, 4

# The editor stores widgets by position. "": the button beside a seed, which says what comes next.
_KSAMPLER = ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise")
WIDGETS: Mapping[str, Sequence[str]] = {
    "KSampler": _KSAMPLER,
    "KSampler (Efficient)": _KSAMPLER,
    "KSamplerAdvanced": ("add_noise", "noise_seed", "", "steps", "cfg", "sampler_name", "scheduler"),
    "SamplerCustom": ("add_noise", "noise_seed", "", "cfg"),
    "RandomNoise": ("noise_seed",),
    "KSamplerSelect": ("sampler_name",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "AlignYourStepsScheduler": ("model_type", "steps", "denoise"),
    "CFGGuider": ("cfg",),
    "CLIPTextEncode": ("text",),
    "CLIPTextEncodeSDXL": ("width", "height", "crop_w", "crop_h", "target_width", "target_height", "text_g", "text_l"),
    "CLIPTextEncodeFlux": ("clip_l", "t5xxl", "guidance"),
    "CLIPSetLastLayer": ("stop_at_clip_layer",),
    "CheckpointLoaderSimple": ("ckpt_name",),
    "CheckpointLoader": ("config_name", "ckpt_name"),
    "UNETLoader": ("unet_name",),
    "LoraLoader": ("lora_name", "strength_model", "strength_clip"),
    "LoraLoaderModelOnly": ("lora_name", "strength_model"),
    "EmptyLatentImage": ("width", "height"),
    "EmptySD3LatentImage": ("width", "height"),
    "PrimitiveNode": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
}


@dataclass(frozen=True)
class Link:
    """An input fed by another node's output."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """A node: its class, and its inputs, each a value or a Link."""

    kind: str
    inputs: Mapping[str, Any]

    def links(self) -> Iterator[tuple[str, Link]]:
        return ((name, value) for name, value in self.inputs.items() if isinstance(value, Link))


Graph = Mapping[str, Node]


def of_prompt(said: Any) -> Graph:
    """The graph of the API's form: {"3": {"class_type": "KSampler", "inputs": {"seed": 1, "model": ["4", 0]}}}.

    Raises Unreadable where there is no node in it, or more than MOST_NODES.
    """
    if not isinstance(said, dict) or len(said) > MOST_NODES:
        raise Unreadable("ComfyUI's prompt is no graph of a usual size")
    graph: dict[str, Node] = {}
    for name, body in said.items():
        if isinstance(body, dict) and isinstance(body.get("class_type"), str) and isinstance(body.get("inputs"), dict):
            inputs = {key: _linked(value, said) for key, value in body["inputs"].items()}
            graph[str(name)] = Node(body["class_type"], inputs)
    if not graph:
        raise Unreadable("ComfyUI's prompt holds no node")
    return graph


def _linked(value: Any, said: Mapping[str, Any]) -> Any:
    match value:
        case [str() | int() as node, int() as slot] if str(node)[:100] in said:
            return Link(str(node), slot)
    return value


def of_workflow(said: Any) -> Graph:
    """The graph of the editor's form: nodes with widgets by position, and a list of links. Raises as `of_prompt`.

    A muted node is left out; a bypassed one hands on its first input of the same type.
    """
    nodes = said.get("nodes") if isinstance(said, dict) else None
    if not isinstance(nodes, list) or not 0 < len(nodes) <= MOST_NODES:
        raise Unreadable("ComfyUI's workflow holds no nodes of a usual number")
    links = dict(_links(said.get("links")))
    graph: dict[str, Node] = {}
    for body in nodes:
        if not isinstance(body, dict) or not isinstance(body.get("type"), str) or body.get("mode") == MUTED:
            continue
        inputs = dict(_widgets(body["type"], body.get("widgets_values")))
        through = {}
        for port in _tables(body.get("inputs")):
            link = links.get(_key(port.get("link")))
            if link is not None:
                inputs[_key(port.get("name"))] = link
                through.setdefault(_key(port.get("type")), link)
        if body.get("mode") == BYPASSED:
            outputs = [_key(port.get("type")) for port in _tables(body.get("outputs"))]
            inputs = {f"{slot}": through[kind] for slot, kind in enumerate(outputs) if kind in through}
            graph[_key(body.get("id"))] = Node("Bypassed", inputs)
        else:
            graph[_key(body.get("id"))] = Node(body["type"], inputs)
    return graph


def _links(listed: Any) -> Iterator[tuple[str, Link]]:
    """(link's id, where it comes from), of the old form [id, node, slot, …] and the new one."""
    for one in listed[: 10 * MOST_NODES] if isinstance(listed, list) else ():
        match one:
            case [identity, str() | int() as node, int() as slot, *_]:
                yield _key(identity), Link(str(node), slot)
            case {"id": identity, "origin_id": str() | int() as node, "origin_slot": int() as slot}:
                yield _key(identity), Link(str(node), slot)


def _key(identity: Any) -> str:
    """A name or number as text; "" for anything else, which may be nested too deep to be written out."""
    return str(identity) if isinstance(identity, str | int) else ""


def _widgets(kind: str, values: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict):
        yield from ((str(key), value) for key, value in values.items())
    elif isinstance(values, list):
        yield from ((name, value) for name, value in zip(WIDGETS.get(kind, ()), values, strict=False) if name)
        if kind not in WIDGETS:  # such as rgthree's lists of LoRAs: tables that say what they are
            yield from ((f"lora_{i}", value) for i, value in enumerate(values[:100]) if isinstance(value, dict))


def _tables(listed: Any) -> Iterator[Mapping[str, Any]]:
    return (one for one in (listed if isinstance(listed, list) else ())[:1000] if isinstance(one, dict))
