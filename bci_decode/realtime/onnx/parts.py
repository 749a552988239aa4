"""Cut the step of a run in two: what needs the state alone, and what needs the counts.

The first part can run before the counts are there, so that less is left to do after them.
"""

from __future__ import annotations

from typing import Any

from bci_decode.realtime.onnx.decoder import COUNTS, library

PRODUCTS = {"Gemm", "MatMul"}  # what takes time


def parts(model: Any) -> tuple[Any | None, Any]:
    """The models of both parts; the first is None where it would have no matrix product.

    Inputs of the second are the counts, the first one's outputs, and what it needs of the state.
    """
    graph = model.graph
    state = [value.name for value in graph.input if value.name != COUNTS]
    waiting, remembered = {COUNTS}, set(state)  # tensors that need counts, or the state alone
    early_products, late_uses = 0, set[str]()
    for node in graph.node:
        if waiting.intersection(node.input):
            waiting.update(node.output)
            late_uses.update(node.input)
        elif remembered.intersection(node.input):  # what needs neither is a constant
            remembered.update(node.output)
            early_products += node.op_type in PRODUCTS
    if not early_products:
        return None, model
    cut = sorted((remembered - set(state)) & late_uses)
    extractor = library("onnx").utils.Extractor(model)
    outputs = [value.name for value in graph.output]
    first = extractor.extract_model(state, cut)
    second = extractor.extract_model([COUNTS, *state, *cut], outputs)
    for part in (first, second):
        _drop_unused_inputs(part.graph)
    return first, second


def _drop_unused_inputs(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.input if value.name in used]
    del graph.input[:]
    graph.input.extend(kept)
