"""ComfyUI: the graph that made the image, followed from the sampler to what it was fed with.

Which sampler, where there are several: from the saved image walk back to the nearest one, and from it along its latent
input to the one before, as far as that goes. So it is the first pass, whose values A1111's infotext holds too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tilehires.metadata.comfy_graph import Graph, Link, Node, of_prompt, of_workflow
from tilehires.metadata.metadata import Lora, Metadata
from tilehires.metadata.names import sampler as a1111_sampler
from tilehires.metadata.names import schedule as a1111_schedule
from tilehires.metadata.values import (
    MOST_SEED,
    MOST_STEPS,
    Unreadable,
    is_table,
    load,
    number,
    size,
    stem,
    whole,
    words,
)

_SAVES = re.compile(r"(?i)save|preview|output")
_LATENTS = ("latent_image", "latent", "samples", "pixels", "image", "images", "input", "any")
_CONDITIONS = ("conditioning", "conditioning_1", "conditioning_2", "conditioning_to", "conditioning_from")
_TEXTS = ("text", "text_g", "text_l", "t5xxl", "clip_l", "prompt", "populated_text", "string", "value", "wildcard_text")
_JOINED = (("string_a", "string_b"), ("text_a", "text_b", "text_c", "text_d"), ("text1", "text2"))
_VALUES = ("value", "Value", "number", "int", "float", "seed", "noise_seed", "a", "input")
_MODELS = ("ckpt_name", "unet_name", "model_name", "base_ckpt_name")
_PASSES_ON = re.compile(r"(?i)reroute|bypassed|getnode|pipe")
_DEEPEST = 200  # nodes in a row; a cycle ends sooner
_MOST_TEXTS = 50
_MOST_SAVES = 8


def read(texts: Mapping[str, str]) -> Metadata | None:
    """ComfyUI's graph: the API's form ("prompt") where it is there and can be read, else the editor's ("workflow")."""
    forms: tuple[tuple[str, Callable[[Any], Graph]], ...] = (("prompt", of_prompt), ("workflow", of_workflow))
    failed: Unreadable | None = None
    for key, graph_of in forms:
        text = texts.get(key, "")
        if not is_table(text):
            continue
        try:
            return _Trace(graph_of(load(text, f"ComfyUI's {key}"))).metadata()
        except Unreadable as error:
            failed = failed or error
    if failed:
        raise failed
    return None


class _Trace:
    """One walk through a graph. Every walk notes where it was: strangers' graphs can have cycles."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def metadata(self) -> Metadata:
        sampler = self._first_sampler()
        if sampler is None:
            raise Unreadable("ComfyUI's graph has no sampler that is known")
        guider = self._node(sampler, "guider")
        sigmas = self._node(sampler, "sigmas")
        chosen = self._node(sampler, "sampler")
        noise = self._node(sampler, "noise")
        conditions = guider or sampler
        chain = list(self._chain(conditions if guider else sampler, ("model",)))
        prompt = self._prompt(conditions, "positive")
        if prompt is None:
            prompt = self._prompt(conditions, "conditioning")  # BasicGuider, for models without guidance
        seed = self._value(sampler, "seed", "noise_seed")
        return Metadata(
            prompt=prompt,
            negative_prompt=self._prompt(conditions, "negative") or "",
            seed=whole(self._value(noise, "noise_seed", "seed") if seed is None else seed, 0, MOST_SEED),
            sampler=a1111_sampler(words(self._value(sampler, "sampler_name") or self._value(chosen, "sampler_name"))),
            scheduler=self._scheduler(sampler, sigmas),
            cfg=number(self._value(conditions, "cfg")),
            steps=whole(self._value(sampler, "steps") or self._value(sigmas, "steps"), 1, MOST_STEPS),
            clip_skip=self._clip_skip(conditions),
            size=self._size(sampler),
            model=next((name for node in chain for key in _MODELS if (name := stem(self._value(node, key)))), None),
            loras=tuple(lora for node in reversed(chain) for lora in self._loras(node)),
            source="ComfyUI",
        )

    # Walking

    def _at(self, link: Any) -> Node | None:
        """The node a link leads to, past nodes that only hand on."""
        seen = set()
        while isinstance(link, Link) and link not in seen:
            seen.add(link)
            node = self.graph.get(link.node)
            if node is None or not _PASSES_ON.search(node.kind):
                return node
            onwards = dict(node.links())
            link = onwards.get(str(link.slot)) if node.kind == "Bypassed" else next(iter(onwards.values()), None)
        return None

    def _node(self, node: Node, key: str) -> Node | None:
        return self._at(node.inputs.get(key))

    def _behind(self, node: Node, keys: tuple[str, ...] = ()) -> Iterator[Node]:
        """All nodes that feed a node, nearest first; `keys`: only those through these inputs of it."""
        waiting = [link for key, link in node.links() if not keys or key in keys]
        seen: set[str] = set()
        for link in waiting:  # it grows while it is walked
            found = self._at(link)
            if link.node in seen or found is None:
                continue
            seen.add(link.node)
            yield found
            waiting += [further for _, further in found.links() if further.node not in seen]

    def _chain(self, node: Node | None, keys: tuple[str, ...]) -> Iterator[Node]:
        """A node, and what follows through the first of these inputs that is linked, one node after the other."""
        for _ in range(_DEEPEST):
            if node is None:
                return
            yield node
            link = next((link for key in keys if isinstance(link := node.inputs.get(key), Link)), None)
            node = self._at(link)

    def _value(self, node: Node | None, *keys: str) -> Any:
        """A value, followed through links to the node that holds it."""
        for _ in range(_DEEPEST):
            if node is None:
                return None
            value = next((node.inputs[key] for key in (*keys, *_VALUES) if key in node.inputs), None)
            if all(key not in node.inputs for key in keys) and _is_sampler(node):
                return None
            if not isinstance(value, Link):
                return value
            node = self._at(value)
            keys = (*keys, *_VALUES)
        return None

    # What is looked for

    def _first_sampler(self) -> Node | None:
        saves = [node for node in self.graph.values() if _SAVES.search(node.kind)]
        starts = [*(node for node in saves if re.search("(?i)save", node.kind)), *saves]
        found = next((one for start in starts[:_MOST_SAVES] for one in self._behind(start) if _is_sampler(one)), None)
        found = found or next((node for node in self.graph.values() if _is_sampler(node)), None)
        seen: list[Node] = []
        while found is not None and not any(found is one for one in seen) and len(seen) < _DEEPEST:
            seen.append(found)
            found = next((one for one in self._behind(found, _LATENTS) if _is_sampler(one)), None)
        return seen[-1] if seen else None

    def _scheduler(self, sampler: Node, sigmas: Node | None) -> str | None:
        said = words(self._value(sampler, "scheduler")) or words(self._value(sigmas, "scheduler"))
        if said is None and sigmas is not None and "AlignYourSteps" in sigmas.kind:
            said = "align_your_steps"
        if said is None and sigmas is not None and (match := re.match(r"(Karras|Exponential|Beta)", sigmas.kind)):
            said = match[1]
        return a1111_schedule(said)

    def _prompt(self, node: Node, role: str) -> str | None:
        """The text behind a conditioning input; several that are combined are joined. None: there is no such input."""
        if role not in node.inputs:
            return None
        found: list[str] = []
        seen: set[int] = set()
        waiting: list[Any] = [node.inputs[role]]
        while waiting and len(found) < _MOST_TEXTS and len(seen) < _DEEPEST:
            link = waiting.pop(0)
            if isinstance(link, str):
                found.append(link)
            at = self._at(link)
            if at is None or id(at) in seen or at.kind == "ConditioningZeroOut":
                continue
            seen.add(id(at))
            if role in at.inputs:
                waiting.append(at.inputs[role])
            elif any(key in at.inputs for key in _CONDITIONS):
                waiting += [at.inputs[key] for key in _CONDITIONS if key in at.inputs]
            else:
                found += self._texts(at)
        return ", ".join(dict.fromkeys(one for text in found if (one := (words(text) or "").strip())))

    def _texts(self, node: Node) -> list[str]:
        """The texts a text encoder is fed with: its own, or those of the nodes they are linked to."""
        found: list[str] = []
        waiting = [value for key in _TEXTS if (value := node.inputs.get(key)) is not None]
        seen: set[int] = set()
        while waiting and len(seen) < _DEEPEST:
            value = waiting.pop(0)
            if isinstance(value, str):
                found.append(value)
            at = self._at(value)
            if at is None or id(at) in seen:
                continue
            seen.add(id(at))
            joined = next((keys for keys in _JOINED if keys[0] in at.inputs), ())
            here = [at.inputs[key] for key in joined if key in at.inputs]
            here = here or [value for key in _TEXTS if (value := at.inputs.get(key)) is not None][:1]
            waiting = here + waiting
        return found

    def _clip_skip(self, node: Node) -> int | None:
        """CLIPSetLastLayer on the way from the prompt's encoder to the checkpoint."""
        for encoder in self._behind(node, ("positive", "conditioning")):
            if isinstance(encoder.inputs.get("clip"), Link):
                for at in self._chain(encoder, ("clip",)):
                    layer = whole(self._value(at, "stop_at_clip_layer"), -100, -1)
                    if layer is not None and "stop_at_clip_layer" in at.inputs:
                        return -layer
                return None
        return None

    def _size(self, sampler: Node) -> Any:
        for node in self._behind(sampler, _LATENTS):
            if "Latent" in node.kind and "width" in node.inputs and "height" in node.inputs:
                return size(self._value(node, "width"), self._value(node, "height"))
        return None

    def _loras(self, node: Node) -> Iterator[Lora]:
        """LoraLoader's one, or a list of tables ({"on": true, "lora": …, "strength": …}) as rgthree's node has."""
        name = stem(self._value(node, "lora_name")) if "lora_name" in node.inputs else None
        weight = number(self._value(node, "strength_model"), -100, 100) if name else None
        if name and name != "None" and weight is not None:
            clip = self._value(node, "strength_clip") if "strength_clip" in node.inputs else 0.0
            yield Lora(name, weight, number(clip, -100, 100))
        for value in node.inputs.values():
            if isinstance(value, dict) and value.get("on") is True and (name := stem(value.get("lora"))):
                weight = number(value.get("strength"), -100, 100)
                if weight is not None:
                    clip = value.get("strengthTwo")
                    yield Lora(name, weight, weight if clip is None else number(clip, -100, 100))


def _is_sampler(node: Node) -> bool:
    keys = node.inputs.keys()
    return ("positive" in keys and ("seed" in keys or "noise_seed" in keys)) or ("guider" in keys and "sigmas" in keys)
