"""Checks that initializers whose names begin with PREFIX are the same in two models, and the other weights are not.

    check_frozen.py BEFORE.onnx AFTER.onnx PREFIX
"""

import sys

import numpy as np
import onnx
from onnx import numpy_helper


def main() -> int:
    before, after = ({t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer} for path in sys.argv[1:3])
    weights = {name: value for name, value in before.items() if value.dtype == np.float32 and value.ndim > 0}
    # A linear layer's weight is stored as the product takes it.
    after.update({name.removesuffix(".transposed"): value.T for name, value in after.items() if name.endswith(".transposed")})
    changed = {name for name, value in weights.items() if not np.array_equal(value, after[name])}
    frozen = {name for name in weights if name.startswith(sys.argv[3])}
    if not frozen or changed != weights.keys() - frozen:
        print(f"frozen {sorted(frozen)}, changed {sorted(changed)} of {sorted(weights)}")
        return 1
    print(f"ok: {len(frozen)} frozen, {len(changed)} trained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
