"""What ``flwr run`` starts: the server's and the clients' part of ``fedsam fit``; see docs/deployment.md."""

from shared.federated.flower.apps import client_app, server_app

client = client_app("fedsam.training:build")
server = server_app("fedsam.training:run")
