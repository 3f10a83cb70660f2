"""Makes the stand-in for buffalo_l; run by ``tests.setup.faces`` with the packages that face analysis has.

python face_pack.py PACKAGES SCRFD SFACE FOLDER
"""

import sys

PACKAGES, SCRFD, SFACE, FOLDER = sys.argv[1:]
sys.path.insert(0, PACKAGES)

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

WIDTH, OWN_WIDTH = 512, 128


def detector() -> onnx.ModelProto:
    """SCRFD for pictures of any size, with outputs as buffalo_l's detector has them, [places, numbers]: as it is
    published, it is for 640 times 640, and its outputs are batches."""
    model = onnx.load(SCRFD)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    for place, name in ((2, "height"), (3, "width")):
        shape[place].ClearField("dim_value")
        shape[place].dim_param = name
    outputs = [(output.name, output.type.tensor_type.shape.dim[2].dim_value) for output in model.graph.output]
    del model.graph.value_info[:], model.graph.output[:]
    for name, numbers in outputs:
        flat = helper.make_tensor_value_info(f"{name}_flat", TensorProto.FLOAT, [f"{name}_places", numbers])
        model.graph.output.append(flat)
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, numbers], np.int64), f"{name}_shape"))
        model.graph.node.append(helper.make_node("Reshape", [name, f"{name}_shape"], [flat.name], name=flat.name))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "twice"))
    for node in model.graph.node:
        if node.op_type == "Resize":  # to fixed sizes
            del node.input[2:]
            node.input.append("twice")
    return model


def recogniser() -> onnx.ModelProto:
    """SFace, fed as insightface feeds ArcFace: pixels from −1 to 1 become its 0 to 255 again, and its 128 numbers are
    turned into 512 by an orthonormal matrix, which keeps all angles."""
    model = onnx.load(SFACE)
    graph = model.graph
    for node in graph.node:
        node.name = f"sface_{node.name}"  # insightface goes by names to see what a network does itself
        for place, name in enumerate(node.input):
            if name == "data":
                node.input[place] = "pixels"
    matrix, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((WIDTH, OWN_WIDTH)))
    graph.initializer.append(numpy_helper.from_array(np.array([127.5], np.float32), "half"))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(matrix.T, np.float32), "matrix"))
    graph.node.insert(0, helper.make_node("Mul", ["data", "half"], ["scaled"], name="to_half"))
    graph.node.insert(1, helper.make_node("Add", ["scaled", "half"], ["pixels"], name="to_pixels"))
    graph.node.append(helper.make_node("MatMul", [graph.output[0].name, "matrix"], ["embedding"], name="to_width"))
    inputs = [one for one in graph.input if one.name == "data"]
    del graph.input[:], graph.output[:]
    graph.input.extend(inputs)
    graph.output.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, WIDTH]))
    return model


onnx.save(detector(), f"{FOLDER}/det_10g.onnx")
onnx.save(recogniser(), f"{FOLDER}/w600k_r50.onnx")
