"""Writes a ModelInferRequest of one item with MLServer's own messages: python payload.py ITEM_FILE REQUEST_FILE."""
# pyright: reportMissingImports=false

import sys
from pathlib import Path


def main(item: Path, request: Path) -> None:
    """Reads an item and writes the request."""
    from mlserver.grpc import dataplane_pb2 as pb

    contents = pb.InferTensorContents(bytes_contents=[item.read_bytes()])
    tensor = pb.ModelInferRequest.InferInputTensor(name="item", datatype="BYTES", shape=[1, 1], contents=contents)
    request.write_bytes(pb.ModelInferRequest(model_name="peer", inputs=[tensor]).SerializeToString())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
