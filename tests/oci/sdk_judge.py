"""Oracle's own SDK as a judge: reads a list of tasks as JSON, carries them out, writes the list of results.

Run in the environment that has it: `.venv-oci/bin/python tests/oci/sdk_judge.py < tasks.json`."""

import json
import os
import sys
from types import SimpleNamespace

import oci
from oci.generative_ai_inference import GenerativeAiInferenceClient


class _Request(SimpleNamespace):
    """As much of a request as the signer looks at."""


def sign(task):
    """The headers that Oracle's signer puts on a POST."""
    signer = oci.signer.Signer(
        task["tenancy"], task["user"], task["fingerprint"], None, private_key_content=task["key"]
    )
    if task.get("token"):
        signer = oci.auth.signers.SecurityTokenSigner(task["token"], signer.private_key)
    headers = {"date": task["date"], "content-type": "application/json"}
    body = task["body"].encode()
    headers["content-length"] = str(len(body))
    request = _Request(method="POST", url=task["url"], path_url=task["target"], headers=headers, body=body)
    signer.do_request_sign(request)
    return {name.lower(): value for name, value in request.headers.items()}


def client_of(task):
    """A client of the place that is said, signing as it is said."""
    if task.get("instance"):
        os.environ["OCI_METADATA_BASE_URL"] = task["metadata"]
        signer = oci.auth.signers.InstancePrincipalsSecurityTokenSigner(federation_endpoint=task["federation"])
        return GenerativeAiInferenceClient(
            {"region": "us-chicago-1"},
            signer=signer,
            service_endpoint=task["endpoint"],
            retry_strategy=oci.retry.NoneRetryStrategy(),
        )
    return GenerativeAiInferenceClient(
        {**task["config"], "region": "us-chicago-1"},
        service_endpoint=task["endpoint"],
        retry_strategy=oci.retry.NoneRetryStrategy(),
    )


def chat(task):
    """One chat: the events of a stream, or the answer as the SDK reads it; or the error as it reads that."""
    client = client_of(task)
    details = client.base_client.deserialize_response_data(json.dumps(task["details"]).encode(), "ChatDetails")
    try:
        response = client.chat(details)
    except oci.exceptions.ServiceError as error:
        return {
            "status": error.status,
            "code": error.code,
            "message": error.message,
            "request_id": error.request_id,
        }
    if hasattr(response.data, "events"):
        return {"events": [event.data for event in response.data.events()]}
    return {"answer": oci.util.to_dict(response.data)}


def regions(task):
    """Every region's realm, and every realm's domain."""
    return {"realms": oci.regions.REGION_REALMS, "domains": oci.regions.REALMS}


TASKS = {"sign": sign, "chat": chat, "regions": regions}

if __name__ == "__main__":
    json.dump([TASKS[task["do"]](task) for task in json.load(sys.stdin)], sys.stdout)
