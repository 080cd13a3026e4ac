"""Running a cut model: one process per server, tensors between them over the Open Inference Protocol (gRPC)."""
