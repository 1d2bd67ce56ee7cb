"""The recurrent model passes the conformance kit."""

from pealm_testing import ModelConformance


class TestRNN(ModelConformance):
    spec = "rnn"
    config = {"block_size": 16, "n_layer": 2, "n_embd": 24}  # noqa: RUF012
