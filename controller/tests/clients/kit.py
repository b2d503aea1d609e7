"""What the programs here share: how a client reaches the controller, and what is noted of wrong answers."""

import sys

faults = []


def check(what, found, wanted):
    if found != wanted:
        faults.append(what)
        print(f"FAULT {what}: {found!r}, not {wanted!r}", file=sys.stderr)


def environment(endpoint):
    """What the client and Ansible read."""
    return dict(
        OS_AUTH_TYPE="none",
        OS_ENDPOINT=endpoint,
        OS_LOAD_BALANCER_ENDPOINT_OVERRIDE=endpoint,
        OS_NETWORK_ENDPOINT_OVERRIDE=f"{endpoint}/network",
    )


def connect(endpoint):
    """The SDK's cloud."""
    import openstack

    return openstack.connect(
        auth_type="none",
        endpoint=endpoint,
        load_balancer_endpoint_override=endpoint,
        network_endpoint_override=f"{endpoint}/network",
        load_envvars=False,
        load_yaml_config=False,
    )
