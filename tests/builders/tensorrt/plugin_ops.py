"""What the plugins compute, for onnx's reference evaluator: plugin graphs run without a GPU.

Inputs by position, as plugins/tensorrt/*_plugin.h lists them. The mathematics is the torch
dialect's.
"""

import numpy as np
import torch
from onnx.reference.op_run import OpRun

from builders import dialect


def tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values)).float()


def unpacked(words: np.ndarray, *shape: int) -> torch.Tensor:
    """The dialect's bytes back from int32 words."""
    flat = words.reshape(-1).view(np.uint8)[: int(np.prod(shape))]
    return torch.from_numpy(flat.reshape(shape).copy())


class RiverOp(OpRun):
    """The evaluator hands a node's attributes over as keywords."""

    op_domain = "river_trt"


class RiverLinear(RiverOp):
    def _run(self, x, *inputs, **fields):
        left = list(inputs)
        take = lambda wanted: left.pop(0) if wanted else None  # noqa: E731
        banks = fields.get("banks", 0)
        use_river = take(banks == 0)
        weight = take(banks != 2)
        qweight, scales = take(banks != 1), take(banks != 1)
        zero_points = take(fields.get("zero_points", 0))
        pre_scale, bias = take(fields.get("pre_scale", 0)), take(fields.get("bias", 0))
        norm, residual = take(fields.get("norm", 0)), take(fields.get("residual", 0))
        assert not left, "inputs that no attribute asks for"
        t = tensor(x)
        if norm is not None:
            t = torch.nn.functional.rms_norm(t, t.shape[-1:], tensor(norm), fields.get("norm_eps"))
        parts = []
        if weight is not None:
            parts.append(t @ tensor(weight).T)
        if qweight is not None:
            n, groups = scales.shape
            zeros = None if zero_points is None else unpacked(zero_points, n, groups)
            codes = unpacked(qweight, n, groups, fields.get("group_size", 0) // 2)
            river = dialect.dequantise(codes, tensor(scales), zeros, t.shape[-1])
            parts.append((t if pre_scale is None else t * tensor(pre_scale)) @ river.T)
        y = parts[0]
        if len(parts) == 2:
            assert use_river.dtype == np.int32
            y = torch.where(torch.from_numpy(use_river)[..., None] != 0, parts[1], parts[0])
        if bias is not None:
            y = y + tensor(bias)
        if residual is not None:
            y = y + tensor(residual)
        if fields.get("silu_mul", 0):
            gate, up = y.chunk(2, -1)
            y = torch.nn.functional.silu(gate) * up
        return (y.numpy().astype(x.dtype),)


class RiverAttention(RiverOp):
    def _run(self, *inputs, **fields):
        left = list(inputs)
        heads, kv_heads = fields["num_heads"], fields["num_kv_heads"]
        if fields.get("packed_qkv", 1):
            qkv = tensor(left.pop(0))
            width = qkv.shape[-1] // (heads + 2 * kv_heads)
            q, k, v = qkv.split([heads * width, kv_heads * width, kv_heads * width], -1)
        else:
            q, k, v = (tensor(left.pop(0)) for _ in range(3))
        k_cache, v_cache, past = left[:3]
        tables = [tensor(t) for t in left[3:]] if fields.get("rotary", 1) else [None, None]
        out, *caches = dialect.attention(
            *(q, k, v, tensor(k_cache), tensor(v_cache), torch.from_numpy(past), *tables),
            *(
                heads,
                kv_heads,
                fields["scale"],
                fields.get("window", 0),
                fields.get("softcap", 0.0),
            ),
        )
        return tuple(t.numpy().astype(k_cache.dtype) for t in (out, *caches))


class RiverGate(RiverOp):
    def _run(self, h_in, h_out, directions, use_directions, tau, *rest, **fields):
        left, layer, num_layers = list(rest), fields["layer"], fields["num_layers"]
        pinned = left.pop(0) if layer < num_layers else None
        scope = left.pop(0)
        exited = np.zeros(h_in.shape[:2], np.int32)
        exit_layer = np.full(h_in.shape[:2], num_layers, np.int32)
        if layer > 1:
            exited, exit_layer = left
        new_exited, new_layer = dialect.gate(
            tensor(h_in),
            tensor(h_out),
            tensor(directions[layer - 1]),
            torch.tensor(bool(use_directions)),
            torch.from_numpy(exited) != 0,
            torch.from_numpy(np.array(exit_layer)),
            torch.tensor(float(tau[layer - 1])),
            torch.tensor(int(scope)),
            layer,
        )
        outputs = [new_exited.numpy().astype(np.int32), new_layer.numpy()]
        if pinned is not None:
            outputs.append(outputs[0] * (1 - int(pinned[layer])))
        return tuple(outputs)


PLUGINS = [RiverLinear, RiverAttention, RiverGate]
