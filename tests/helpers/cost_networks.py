"""An oracle of other people's making: the placement problem as a cost-function network, solved exactly by toulbar2 (INRAE).

Variables are the server of each layer, its q bit, and, by tensor and server, whether somebody there reads the tensor; costs are
the slides' seconds, taken from graph, network and times directly. Nothing of the package takes part.
"""

import math

import numpy as np

import dnnsplit as ds

# toulbar2 counts in whole numbers of 64 bits: all costs together are told as a million, to nine decimals, and what is
# impossible as more than that.
TOTAL, DECIMALS, NEVER = 1e6, 9, 4e6


def least_latency(graph, network, times, terms=None, most=None):
    """Return the least T over all placements, and over all schemes with sum of terms (whole numbers by layer) <= most."""
    import pytoulbar2

    names, hosts = [layer.name for layer in graph.layers], [server.name for server in network.servers]
    seconds = {(r.layer, r.server, r.precision): r.seconds for r in times.frame.itertuples()}
    links = {(n.source, n.target): n for n in network.links}

    def transfer(link, size):
        return link.latency_s + size / link.bandwidth_bytes_per_s + size * link.serialise_s_per_byte

    worst = sum(max(s for (n, _, _), s in seconds.items() if n == name) for name in names)
    worst += sum(max(transfer(link, t.size_bytes) for link in links.values()) * len(hosts) for t in graph.tensors)
    unit = TOTAL / worst
    free = [n for n in names if terms and n in terms]
    program = pytoulbar2.CFN(resolution=DECIMALS)
    for n in names:
        program.AddVariable(f"x_{n}", hosts)
        if n in free:
            program.AddVariable(f"q_{n}", ["float32", "int8"])
            both = [unit * seconds[n, h, p] for h in hosts for p in ("float32", "int8")]
            program.AddFunction([f"x_{n}", f"q_{n}"], both)
        else:
            program.AddFunction([f"x_{n}"], [unit * seconds[n, h, "float32"] for h in hosts])
    for number, tensor in enumerate(graph.tensors):
        for h in hosts:
            at_source = tensor.is_output and h == network.source
            if not tensor.consumers and not at_source:
                continue
            read = f"r_{number}_{h}"
            program.AddVariable(read, ["no", "yes"])
            for consumer in tensor.consumers:  # a reader on h makes it "yes"
                program.AddFunction([f"x_{consumer}", read], [NEVER * (at == h and not yes) for at in hosts for yes in (0, 1)])
            if at_source:
                program.AddFunction([read], [NEVER, 0])

            def cost(k, share, h=h, tensor=tensor):
                if (k, h) not in links:
                    return 0.0 if k == h else NEVER
                return unit * transfer(links[k, h], tensor.size_bytes * share)

            if tensor.producer is None:
                program.AddFunction([read], [0, cost(network.source, 1.0)])
            elif tensor.producer in free:
                scope = [f"x_{tensor.producer}", f"q_{tensor.producer}", read]
                program.AddFunction(scope, [yes * cost(k, share) for k in hosts for share in (1.0, 0.25) for yes in (0, 1)])
            else:
                program.AddFunction([f"x_{tensor.producer}", read], [yes * cost(k, 1.0) for k in hosts for yes in (0, 1)])
    if free:
        program.AddLinearConstraint([terms[n] for n in free], [f"q_{n}" for n in free], "<=", most)
    answer = program.Solve()
    return math.inf if answer is None else answer[1] / unit


def question(layers, servers, bits, seed):
    """A random problem, and a noise that is a sum of whole thousandths, which a linear constraint tells exactly."""
    graph, network, times, _ = ds.examples.random_problem(layers, servers, bits, seed)
    rng = np.random.default_rng(seed)
    chosen = [n for n in graph.layer_names if ((times.frame["layer"] == n) & (times.frame["precision"] == "int8")).any()]
    terms = {n: int(rng.integers(1, 40)) for n in chosen}
    noise = ds.NoiseModel.polynomial(chosen, {n: 1e-3 * value for n, value in terms.items()}) if bits else None
    return (graph, network, times, noise), terms, sum(terms.values()) // 2
