"""What ``flwr run`` starts: the server's and the clients' part of ``fedseca fit``; see docs/deployment.md."""

from shared.federated.flower.apps import client_app, server_app

client = client_app("fedseca.training:build")
server = server_app("fedseca.training:run")
