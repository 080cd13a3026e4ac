"""A cut model in operation: one process per server, tensors between them over the Open Inference Protocol (gRPC).

In: a `Bundle` or `PlanSet`, a network or addresses. Out: a `Client`, measured latencies.
May import every room before it, up to cutting.
"""
