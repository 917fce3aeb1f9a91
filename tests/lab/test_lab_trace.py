"""A live flow, followed from the routers' choice to the backend."""

import json

import pytest

from orchestrator.lab import VIP_PORT, VIP_V4, Lab
from tests.lab.test_lab_inside import answer, open_connection

pytestmark = pytest.mark.lab


def test_an_open_flow_is_followed_to_its_proxy_and_on_to_a_backend(lab: Lab) -> None:
    nodes = [node.name for node in lab.topology.l4_nodes]
    with open_connection(lab) as (address, port):
        ends = (f"{address}:{port}", f"{VIP_V4}:{VIP_PORT}", "--host", "www.example.com")
        told = json.loads(answer(lab, "trace", *ends, "--json"))
        drawn = answer(lab, "trace", *ends)
        traced = json.loads(answer(lab, "trace-packet", "--src", ends[0], "--dst", ends[1], "--json"))
    assert told["router"] == {"candidates": nodes, "unable": {}, "agreed": True}
    assert told["open"]
    assert told["brought_by"] in nodes
    assert told["proxy"] == traced["nodes"][0]["hops"][-1]["node"]
    backend = told["request"]["backend"]
    assert backend["name"] == "shop-web"
    assert all(told["proxy"] in server["healthy_on"] for server in backend["servers"])
    for words in ("all the same", f"{told['brought_by']}, when the flow began", "open here", "backend shop-web"):
        assert words in drawn
    # Nobody has the client's next port.
    unknown = json.loads(answer(lab, "trace", f"{address}:1", "web-v4", "--json"))
    assert (unknown["open"], unknown["brought_by"]) == (False, None)


def test_a_flow_that_begins_is_told_where_it_would(lab: Lab) -> None:
    told = json.loads(answer(lab, "trace", str(lab.topology.client.address), "web-v4", "--json"))
    assert told["new"]
    assert told["nodes"][0]["owner"] == told["proxy"]
    assert told["nodes"][0]["hops"][0]["reason"] == "local_syn"
