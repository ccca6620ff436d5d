"""An OpenAI-compatible endpoint in front of the served model: HTTP and JSON to gRPC and tensors.

A process of its own, beside tritonserver. It needs the Python packages starlette, uvicorn and
tritonclient[grpc], and nothing of the model: prompts, parsing and limits are the server's.
"""
