"""What is asked of the client, and what must be read back. See `cli.py`.

Values that Krater refuses stand here as `client.refused(…)` with the text that says so.
"""

import json

from cli import Opt
from material import Material

PROJECT = "11111111-2222-4333-8444-555555555555"
WAIT = Opt("--wait", provisioning_status="ACTIVE")
CHANGED_CIPHERS = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
FIRST_CIPHERS = "ECDHE-ECDSA-AES128-GCM-SHA256"


def ids(items):
    return lambda found: [item["id"] for item in found or []] == list(items)


def tags(*wanted):
    return lambda found: sorted(found or []) == sorted(wanted)


def empty(found):
    return not found


def default(but):
    """A value that the server chose."""
    return lambda found: bool(found) and found != but


def run(client):
    secrets = Material(client.endpoint)
    networks = client.ask(["network", "list"])
    network = networks[0]["ID"]
    providers(client)
    quotas(client)
    profiles(client, network)
    flavor, zone = flavors(client)
    balancers(client, network, flavor, zone)
    lb = client.create("", Opt("--name lb", name="lb"), Opt("--vip-subnet-id noop-subnet", vip_network_id=network))
    pool = pools(client, lb, secrets)
    listeners(client, lb, pool, secrets)
    members(client, pool)
    monitors(client, lb)
    policies(client, lb, pool)
    amphorae(client, lb)
    client.delete("", [lb["id"]], Opt("--cascade", because="with all below it"), Opt("--wait", because="gone"))
    left = client.ask(["loadbalancer", "pool", "list"])
    if left != []:
        client.fault(f"loadbalancer delete --cascade leaves {left}")


def providers(client):
    found = {row["name"] for row in client.ask(["loadbalancer", "provider", "list"])}
    if not {"amphora", "octavia"} <= found:
        client.fault(f"loadbalancer provider list: {found}")
    command = "loadbalancer provider capability list"
    for option, kinds in [("--flavor", {"flavor"}), ("--availability-zone", {"availability_zone"})]:
        rows = client.ask([*command.split(), "amphora", option]) or []
        if {row["type"] for row in rows} != kinds:
            client.fault(f"{command} {option}: {rows}")
        client.cover(command, [Opt(option, because="a filter")])


QUOTAS = ["healthmonitor", "listener", "loadbalancer", "member", "pool", "l7policy", "l7rule"]
KEYS = {"healthmonitor": "health_monitor", "loadbalancer": "load_balancer"}


def quotas(client):
    unlimited = client.ask(["loadbalancer", "quota", "defaults", "show"])
    if set(unlimited.values()) != {-1}:
        client.fault(f"loadbalancer quota defaults show: {unlimited}")
    options = [Opt(f"--{name} {at + 3}", **{KEYS.get(name, name): at + 3}) for at, name in enumerate(QUOTAS)]
    client.change("set", "quota", [PROJECT], *options)
    client.listed("quota", {"": [PROJECT], f"--project {PROJECT}": [PROJECT], "--project other": []}, key="project_id")
    client.change("unset", "quota", [PROJECT], *[Opt(f"--{name}", **{KEYS.get(name, name): -1}) for name in QUOTAS[:4]])
    shown = client.show("quota", [PROJECT])
    if [shown.get(name) for name in QUOTAS[4:]] != [7, 8, 9]:
        client.fault(f"loadbalancer quota unset took others: {shown}")
    client.change("unset", "quota", [PROJECT], *[Opt(f"--{name}", **{KEYS.get(name, name): -1}) for name in QUOTAS[4:]])
    client.do(["loadbalancer", "quota", "set", "--pool", "1", PROJECT])
    client.do(["loadbalancer", "quota", "reset", PROJECT])
    if client.show("quota", [PROJECT]) != unlimited:
        client.fault("loadbalancer quota reset")


def profiles(client, network):
    topology = '{"loadbalancer_topology": "%s"}'
    single, pair = topology % "SINGLE", topology % "ACTIVE_STANDBY"
    first = client.create(
        "flavorprofile",
        Opt("--name fp1", name="fp1"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt(f"--flavor-data '{single}'", flavor_data=single),
    )
    second = client.create(
        "flavorprofile",
        Opt("--name fp2", name="fp2"),
        Opt("--provider octavia", provider_name="octavia"),
        Opt(f"--flavor-data '{single}'", flavor_data=single),
    )
    one, two = first["id"], second["id"]
    cases = {"": [one, two], "--name fp1": [one], "--provider amphora": [one], "--provider octavia": [two]}
    client.listed("flavorprofile", cases)
    client.change(
        "set",
        "flavorprofile",
        [two],
        Opt("--name fp3", name="fp3"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt(f"--flavor-data '{pair}'", flavor_data=pair),
    )
    for key in ["compute_flavor", "amp_image_tag", "sriov_vip", "allow_member_sriov"]:
        option = Opt("--flavor-data '{\"%s\": true}'" % key, because="refused")
        at = ["--name", "x", "--provider", "amphora"]
        client.refused("loadbalancer flavorprofile create", option, f"not supported yet: {key}", at=at)
    client.delete("flavorprofile", [two])

    anywhere, here = "{}", json.dumps({"valid_vip_networks": [network]})
    first = client.create(
        "availabilityzoneprofile",
        Opt("--name zp1", name="zp1"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt(f"--availability-zone-data '{here}'", availability_zone_data=here),
    )
    second = client.create(
        "availabilityzoneprofile",
        Opt("--name zp2", name="zp2"),
        Opt("--provider octavia", provider_name="octavia"),
        Opt(f"--availability-zone-data '{anywhere}'", availability_zone_data=anywhere),
    )
    one, two = first["id"], second["id"]
    cases = {"": [one, two], "--name zp1": [one], "--provider amphora": [one], "--provider octavia": [two]}
    client.listed("availabilityzoneprofile", cases)
    client.change(
        "set",
        "availabilityzoneprofile",
        [two],
        Opt("--name zp3", name="zp3"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt(f"--availability-zone-data '{here}'", availability_zone_data=here),
    )
    for key in ["compute_zone", "volume_zone", "management_network"]:
        option = Opt("--availability-zone-data '{\"%s\": \"x\"}'" % key, because="refused")
        at = ["--name", "x", "--provider", "amphora"]
        client.refused("loadbalancer availabilityzoneprofile create", option, f"not supported yet: {key}", at=at)
    client.delete("availabilityzoneprofile", [two])


def flavors(client):
    profile = client.show("flavorprofile", ["fp1"])["id"]
    other = client.create(
        "flavorprofile",
        Opt("--name fp4", name="fp4"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt("--flavor-data '{}'", flavor_data="{}"),
    )
    first = client.create(
        "flavor",
        Opt("--name f1", name="f1"),
        Opt("--flavorprofile fp1", flavor_profile_id=profile),
        Opt("--description one", description="one"),
        Opt("--enable", enabled=True),
    )
    second = client.create(
        "flavor",
        Opt("--name f2", name="f2"),
        Opt(f"--flavorprofile {other['id']}", flavor_profile_id=other["id"]),
        Opt("--disable", enabled=False),
    )
    one, two = first["id"], second["id"]
    cases = {
        "": [one, two],
        "--name f1": [one],
        "--flavorprofile fp4": [two],
        "--enable": [one],
        "--disable": [two],
    }
    client.listed("flavor", cases)
    change = [Opt("--name f3", name="f3"), Opt("--description two", description="two"), Opt("--enable", enabled=True)]
    client.change("set", "flavor", [two], *change)
    client.change("set", "flavor", [two], Opt("--disable", enabled=False, name="f3"))
    client.change("unset", "flavor", [two], Opt("--description", description=empty, name="f3"))
    client.delete("flavor", [two])

    profile = client.show("availabilityzoneprofile", ["zp1"])["id"]
    other = client.create(
        "availabilityzoneprofile",
        Opt("--name zp4", name="zp4"),
        Opt("--provider amphora", provider_name="amphora"),
        Opt("--availability-zone-data '{}'", availability_zone_data="{}"),
    )
    client.create(
        "availabilityzone",
        Opt("--name z1", name="z1"),
        Opt("--availabilityzoneprofile zp1", availability_zone_profile_id=profile),
        Opt("--description one", description="one"),
        Opt("--enable", enabled=True),
    )
    client.create(
        "availabilityzone",
        Opt("--name z2", name="z2"),
        Opt(f"--availabilityzoneprofile {other['id']}", availability_zone_profile_id=other["id"]),
        Opt("--disable", enabled=False),
    )
    cases = {
        "": ["z1", "z2"],
        "--name z1": ["z1"],
        "--availabilityzoneprofile zp4": ["z2"],
        "--enable": ["z1"],
        "--disable": ["z2"],
    }
    client.listed("availabilityzone", cases, key="name")
    change = [Opt("--description two", description="two"), Opt("--enable", enabled=True)]
    client.change("set", "availabilityzone", ["z2"], *change)
    client.change("set", "availabilityzone", ["z2"], Opt("--disable", enabled=False, description="two"))
    client.change("unset", "availabilityzone", ["z2"], Opt("--description", description=empty))
    client.delete("availabilityzone", ["z2"])
    return first, "z1"


# How the client says that there is none of this name; the API refuses the attribute itself as not supported yet.
NO_POLICY, NO_GROUP = "Unable to locate gold in policies", "Unable to locate web in security_groups"


def balancers(client, network, flavor, zone):
    subnets = {row["Name"]: row["ID"] for row in client.ask(["subnet", "list"])}
    v6 = subnets["noop-subnet6"]

    def more(found):
        return [(vip["subnet_id"], vip["ip_address"]) for vip in found] == [(v6, "2001:db8:34::7")]

    first = client.create(
        "",
        Opt("--name lb1", name="lb1"),
        Opt("--description first", description="first"),
        Opt("--vip-subnet-id noop-subnet", vip_subnet_id=subnets["noop-subnet"]),
        Opt("--vip-address 198.19.0.77", vip_address="198.19.0.77"),
        Opt("--additional-vip subnet-id=noop-subnet6,ip-address=2001:db8:34::7", additional_vips=more),
        Opt("--vip-qos-policy-id None", vip_qos_policy_id=None),
        Opt(f"--project {PROJECT}", project_id=PROJECT),
        Opt("--provider amphora", provider="amphora"),
        Opt(f"--availability-zone {zone}", availability_zone=zone),
        Opt("--enable", admin_state_up=True),
        Opt("--flavor f1", flavor_id=flavor["id"]),
        Opt("--tag red", tags=tags("red", "blue")),
        Opt("--tag blue", tags=tags("red", "blue")),
        WAIT,
    )
    second = client.create(
        "",
        Opt("--name lb2", name="lb2"),
        Opt("--vip-network-id noop", vip_network_id=network),
        Opt("--provider octavia", provider="octavia"),
        Opt("--disable", admin_state_up=False),
        Opt("--no-tag", tags=tags()),
    )
    # With no-op drivers every port exists.
    port = "77777777-8888-4999-8aaa-bbbbbbbbbbbb"
    third = client.create("", Opt("--name lb3", name="lb3"), Opt(f"--vip-port-id {port}", vip_port_id=port), Opt("--tag red", tags=tags("red")))
    at = ["--vip-subnet-id", "noop-subnet"]
    client.refused("loadbalancer create", Opt("--vip-qos-policy-id gold", because="none"), NO_POLICY, at=at)
    client.refused("loadbalancer create", Opt("--vip-sg-id web", because="none"), NO_GROUP, at=at)
    client.refused("loadbalancer set", Opt("--vip-qos-policy-id gold", because="none"), NO_POLICY, at=["lb1"])
    client.refused("loadbalancer set", Opt("--vip-sg-id web", because="none"), NO_GROUP, at=["lb1"])
    one, two, three = first["id"], second["id"], third["id"]
    every = [one, two, three]
    online = {lb["id"]: client.show("", [lb["id"]]).get("operating_status") for lb in (first, second, third)}
    cases = {
        "": every,
        "--name lb1": [one],
        "--enable": [one, three],
        "--disable": [two],
        f"--project {PROJECT}": [one],
        "--vip-network-id noop": every,
        "--vip-subnet-id noop-subnet": [lb["id"] for lb in (first, second, third) if lb.get("vip_subnet_id") == subnets["noop-subnet"]],
        "--vip-qos-policy-id None": every,
        f"--vip-port-id {port}": [three],
        "--provider octavia": [two],
        "--provider amphora": [one, three],
        "--flavor f1": [one],
        f"--availability-zone {zone}": [one],
        "--tags red,blue": [one],
        "--tags red": [one, three],
        "--any-tags blue,green": [one],
        "--not-tags red,blue": [two, three],
        "--not-any-tags red,blue": [two],
    }
    for status in ["ACTIVE", "ERROR", "PENDING_CREATE", "PENDING_UPDATE", "PENDING_DELETE"]:
        cases[f"--provisioning-status {status}"] = every if status == "ACTIVE" else []
    for status in ["ONLINE", "DRAINING", "OFFLINE", "DEGRADED", "ERROR", "NO_MONITOR"]:
        cases[f"--operating-status {status}"] = [lb for lb, has in online.items() if has == status]
    client.listed("", cases)
    client.change(
        "set",
        "",
        [one],
        Opt("--name lb4", name="lb4"),
        Opt("--description second", description="second"),
        Opt("--vip-qos-policy-id None", vip_qos_policy_id=None),
        Opt("--disable", admin_state_up=False),
        Opt("--tag green", tags=tags("red", "blue", "green")),
        WAIT,
    )
    client.change("set", "", [one], Opt("--enable", admin_state_up=True, name="lb4"))
    client.change("set", "", [one], Opt("--no-tag", tags=tags("white", "black")), Opt("--tag white --tag black", tags=tags("white", "black")))
    client.change("unset", "", [one], Opt("--tag white", tags=tags("black")), WAIT)
    client.change(
        "unset",
        "",
        [one],
        Opt("--name", name=""),
        Opt("--description", description=""),
        Opt("--vip-qos-policy-id", vip_qos_policy_id=None),
        Opt("--vip-sg-id", vip_sg_ids=[]),
        Opt("--all-tag", tags=tags()),
    )
    stats = client.ask(["loadbalancer", "stats", "show", one])
    if stats != dict.fromkeys(["active_connections", "bytes_in", "bytes_out", "request_errors", "total_connections"], 0):
        client.fault(f"loadbalancer stats show: {stats}")
    before = {row["id"] for row in client.ask(["loadbalancer", "amphora", "list", "--loadbalancer", one])}
    client.do(["loadbalancer", "failover", one, "--wait"])
    client.cover("loadbalancer failover", [WAIT])
    now = client.ask(["loadbalancer", "amphora", "list", "--loadbalancer", one, "--status", "ALLOCATED"])
    if client.show("", [one])["provisioning_status"] != "ACTIVE" or not now or before & {row["id"] for row in now}:
        client.fault(f"loadbalancer failover --wait: {before} {now}")
    for lb in every:
        client.delete("", [lb], Opt("--wait", because="gone"))


def pools(client, lb, secrets):
    at = ["--loadbalancer", lb["id"], "--lb-algorithm", "ROUND_ROBIN"]
    first = client.create(
        "pool",
        Opt("--name p1", name="p1"),
        Opt("--description one", description="one"),
        Opt("--protocol HTTP", protocol="HTTP"),
        Opt("--loadbalancer lb", loadbalancers=ids([lb["id"]])),
        Opt("--lb-algorithm LEAST_CONNECTIONS", lb_algorithm="LEAST_CONNECTIONS"),
        Opt(
            "--session-persistence type=APP_COOKIE,cookie_name=where",
            session_persistence=lambda found: (found["type"], found["cookie_name"]) == ("APP_COOKIE", "where"),
        ),
        Opt("--enable", admin_state_up=True),
        Opt("--enable-tls", tls_enabled=True),
        Opt(f"--tls-container-ref {secrets.server}", tls_container_ref=secrets.server),
        Opt(f"--ca-tls-container-ref {secrets.ca}", ca_tls_container_ref=secrets.ca),
        Opt(f"--crl-container-ref {secrets.crl}", crl_container_ref=secrets.crl),
        Opt(f"--tls-ciphers {FIRST_CIPHERS}", tls_ciphers=FIRST_CIPHERS),
        Opt("--tls-version TLSv1.2", tls_versions=["TLSv1.2"]),
        Opt("--alpn-protocol http/1.1", alpn_protocols=["http/1.1"]),
        Opt("--tag red", tags=tags("red")),
        WAIT,
    )
    listener = client.create(
        "listener",
        Opt("--name for-pools", name="for-pools"),
        Opt("--protocol HTTP", protocol="HTTP"),
        Opt("--protocol-port 8000", protocol_port=8000),
        at=[lb["id"]],
    )
    second = client.create(
        "pool",
        Opt("--name p2", name="p2"),
        Opt("--protocol HTTP", protocol="HTTP"),
        Opt("--listener for-pools", listeners=ids([listener["id"]])),
        Opt("--lb-algorithm ROUND_ROBIN", lb_algorithm="ROUND_ROBIN"),
        Opt("--disable", admin_state_up=False),
        Opt("--disable-tls", tls_enabled=False),
        Opt("--no-tag", tags=tags()),
    )
    others = []
    for protocol, algorithm in [("TCP", "SOURCE_IP"), ("HTTPS", "SOURCE_IP_PORT"), ("PROXY", "ROUND_ROBIN"), ("PROXYV2", "ROUND_ROBIN")]:
        other = client.create(
            "pool",
            Opt(f"--name {protocol}", name=protocol),
            Opt(f"--protocol {protocol}", protocol=protocol),
            Opt(f"--loadbalancer {lb['id']}", loadbalancers=ids([lb["id"]])),
            Opt(f"--lb-algorithm {algorithm}", lb_algorithm=algorithm),
        )
        others.append(other["id"])
    for protocol in ["UDP", "SCTP"]:
        option = Opt(f"--protocol {protocol}", because="refused")
        client.refused("loadbalancer pool create", option, f"not supported yet: protocol {protocol}", at=at)
    one, two = first["id"], second["id"]
    cases = {
        "": [one, two, *others],
        "--loadbalancer lb": [one, two, *others],
        "--tags red": [one],
        "--any-tags red,blue": [one],
        "--not-tags red": [two, *others],
        "--not-any-tags red,blue": [two, *others],
    }
    client.listed("pool", cases)
    for other in others:
        client.delete("pool", [other], Opt("--wait", because="gone"))
    change = [
        Opt("--name p3", name="p3"),
        Opt("--description two", description="two"),
        Opt("--session-persistence type=HTTP_COOKIE", session_persistence=lambda found: found["type"] == "HTTP_COOKIE"),
        Opt("--lb-algorithm SOURCE_IP", lb_algorithm="SOURCE_IP"),
        Opt("--enable", admin_state_up=True),
        Opt("--enable-tls", tls_enabled=True),
        Opt(f"--tls-container-ref {secrets.other}", tls_container_ref=secrets.other),
        Opt(f"--ca-tls-container-ref {secrets.ca}", ca_tls_container_ref=secrets.ca),
        Opt(f"--crl-container-ref {secrets.crl}", crl_container_ref=secrets.crl),
        Opt(f"--tls-ciphers {CHANGED_CIPHERS}", tls_ciphers=CHANGED_CIPHERS),
        Opt("--tls-version TLSv1.2 --tls-version TLSv1.3", tls_versions=["TLSv1.2", "TLSv1.3"]),
        Opt("--alpn-protocol http/1.0", alpn_protocols=["http/1.0"]),
        Opt("--tag green", tags=tags("green")),
        WAIT,
    ]
    client.change("set", "pool", [two], *change)
    client.change("set", "pool", [two], Opt("--disable", admin_state_up=False), Opt("--disable-tls", tls_enabled=False))
    client.change("set", "pool", [two], Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "pool", [two], Opt("--tag a", tags=tags("b")), WAIT)
    client.change(
        "unset",
        "pool",
        [two],
        Opt("--name", name=""),
        Opt("--description", description=""),
        Opt("--session-persistence", session_persistence=None),
        Opt("--tls-container-ref", tls_container_ref=None),
        Opt("--crl-container-ref", crl_container_ref=None),
        Opt("--all-tag", tags=tags()),
    )
    client.change("unset", "pool", [two], Opt("--ca-tls-container-ref", ca_tls_container_ref=None))
    client.change(
        "unset",
        "pool",
        [one],
        Opt("--tls-ciphers", tls_ciphers=default(FIRST_CIPHERS)),
        Opt("--tls-versions", tls_versions=default(["TLSv1.2"])),
        Opt("--alpn-protocols", alpn_protocols=default(["http/1.1"])),
    )
    client.delete("listener", [listener["id"]], Opt("--wait", because="gone"))
    client.delete("pool", [two], Opt("--wait", because="gone"))
    return first


TIMES = ["client-data", "member-connect", "member-data", "tcp-inspect"]
USUAL = [50000, 5000, 50000, 0]


def times(add):
    return [Opt(f"--timeout-{name} {add + at}", **{f"timeout_{name.replace('-', '_')}": add + at}) for at, name in enumerate(TIMES)]


def listeners(client, lb, pool, secrets):
    first = client.create(
        "listener",
        Opt("--name l1", name="l1"),
        Opt("--description one", description="one"),
        Opt("--protocol HTTP", protocol="HTTP"),
        Opt("--protocol-port 80", protocol_port=80),
        Opt("--connection-limit 100", connection_limit=100),
        Opt(f"--default-pool {pool['name']}", default_pool_id=pool["id"]),
        Opt("--insert-headers X-Forwarded-For=true,X-Forwarded-Port=false", insert_headers={"X-Forwarded-For": "true", "X-Forwarded-Port": "false"}),
        *times(1000),
        Opt("--enable", admin_state_up=True),
        Opt("--allowed-cidr 10.0.0.0/8", allowed_cidrs=["10.0.0.0/8", "192.0.2.0/24"]),
        Opt("--allowed-cidr 192.0.2.0/24", allowed_cidrs=["10.0.0.0/8", "192.0.2.0/24"]),
        Opt("--tag red --tag blue", tags=tags("red", "blue")),
        WAIT,
        at=["lb"],
    )
    second = client.create(
        "listener",
        Opt("--name l2", name="l2"),
        Opt("--protocol TERMINATED_HTTPS", protocol="TERMINATED_HTTPS"),
        Opt("--protocol-port 443", protocol_port=443),
        Opt(f"--default-tls-container-ref {secrets.server}", default_tls_container_ref=secrets.server),
        Opt(f"--sni-container-refs {secrets.other} {secrets.server}", sni_container_refs=[secrets.other, secrets.server]),
        Opt(f"--client-ca-tls-container-ref {secrets.ca}", client_ca_tls_container_ref=secrets.ca),
        Opt("--client-authentication OPTIONAL", client_authentication="OPTIONAL"),
        Opt(f"--client-crl-container-ref {secrets.crl}", client_crl_container_ref=secrets.crl),
        Opt(f"--tls-ciphers {FIRST_CIPHERS}", tls_ciphers=FIRST_CIPHERS),
        Opt("--tls-version TLSv1.2", tls_versions=["TLSv1.2"]),
        Opt("--alpn-protocol http/1.1", alpn_protocols=["http/1.1"]),
        Opt("--hsts-max-age 100", hsts_max_age=100),
        Opt("--hsts-include-subdomains", hsts_include_subdomains=True),
        Opt("--hsts-preload", hsts_preload=True),
        Opt("--disable", admin_state_up=False),
        Opt("--no-tag", tags=tags()),
        at=["lb"],
    )
    others = []
    for port, protocol in enumerate(["TCP", "HTTPS"], 9000):
        options = [Opt(f"--protocol {protocol}", protocol=protocol), Opt(f"--protocol-port {port}", protocol_port=port)]
        others.append(client.create("listener", *options, Opt(f"--name {protocol}", name=protocol), at=["lb"])["id"])
    for protocol in ["UDP", "SCTP", "PROMETHEUS"]:
        option = Opt(f"--protocol {protocol}", because="refused")
        at = ["lb", "--protocol-port", "99"]
        client.refused("loadbalancer listener create", option, f"not supported yet: protocol {protocol}", at=at)
    one, two = first["id"], second["id"]
    project = first["project_id"]
    every = [one, two, *others]
    cases = {
        "": every,
        "--name l1": [one],
        "--loadbalancer lb": every,
        "--enable": [one, *others],
        "--disable": [two],
        f"--project {project}": every,
        f"--project {PROJECT}": every if project == PROJECT else [],
        "--tags red": [one],
        "--any-tags red,green": [one],
        "--not-tags red,blue": [two, *others],
        "--not-any-tags blue": [two, *others],
    }
    client.listed("listener", cases)
    for other in others:
        client.delete("listener", [other], Opt("--wait", because="gone"))
    client.change(
        "set",
        "listener",
        [one],
        Opt("--name l3", name="l3"),
        Opt("--description two", description="two"),
        Opt("--connection-limit 200", connection_limit=200),
        Opt(f"--default-pool {pool['id']}", default_pool_id=pool["id"]),
        Opt("--insert-headers X-Forwarded-Proto=true", insert_headers={"X-Forwarded-Proto": "true"}),
        *times(2000),
        Opt("--disable", admin_state_up=False),
        Opt("--allowed-cidr 203.0.113.0/24", allowed_cidrs=["203.0.113.0/24"]),
        Opt("--tag green", tags=tags("red", "blue", "green")),
        WAIT,
    )
    client.change("set", "listener", [one], Opt("--enable", admin_state_up=True, name="l3"))
    client.change("set", "listener", [one], Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "listener", [one], Opt("--tag b", tags=tags("a")), WAIT)
    usual = [Opt(f"--timeout-{name}", **{f"timeout_{name.replace('-', '_')}": USUAL[at]}) for at, name in enumerate(TIMES)]
    client.change(
        "unset",
        "listener",
        [one],
        Opt("--name", name=""),
        Opt("--description", description=""),
        Opt("--connection-limit", connection_limit=-1),
        Opt("--default-pool", default_pool_id=None),
        Opt("--insert-headers", insert_headers=empty),
        *usual,
        Opt("--allowed-cidrs", allowed_cidrs=empty),
        Opt("--all-tag", tags=tags()),
    )
    client.change(
        "set",
        "listener",
        [two],
        Opt(f"--default-tls-container-ref {secrets.other}", default_tls_container_ref=secrets.other),
        Opt(f"--sni-container-refs {secrets.server}", sni_container_refs=[secrets.server]),
        Opt(f"--client-ca-tls-container-ref {secrets.ca}", client_ca_tls_container_ref=secrets.ca),
        Opt("--client-authentication MANDATORY", client_authentication="MANDATORY"),
        Opt(f"--client-crl-container-ref {secrets.crl}", client_crl_container_ref=secrets.crl),
        Opt(f"--tls-ciphers {CHANGED_CIPHERS}", tls_ciphers=CHANGED_CIPHERS),
        Opt("--tls-version TLSv1.2 --tls-version TLSv1.3", tls_versions=["TLSv1.2", "TLSv1.3"]),
        Opt("--alpn-protocol http/1.0", alpn_protocols=["http/1.0"]),
        Opt("--hsts-max-age 200", hsts_max_age=200),
    )
    client.change("unset", "listener", [two], Opt("--hsts-preload", hsts_preload=False, hsts_include_subdomains=True))
    client.change("unset", "listener", [two], Opt("--hsts-include-subdomains", hsts_include_subdomains=False, hsts_max_age=200))
    change = [Opt("--hsts-include-subdomains", hsts_include_subdomains=True), Opt("--hsts-preload", hsts_preload=True)]
    client.change("set", "listener", [two], *change)
    client.change("unset", "listener", [two], *[Opt(option.name, **{key: False for key in option.reads}) for option in change])
    client.change(
        "unset",
        "listener",
        [two],
        Opt("--hsts-max-age", hsts_max_age=None),
        Opt("--client-authentication", client_authentication="NONE"),
        Opt("--client-crl-container-ref", client_crl_container_ref=None),
        Opt("--default-tls-container-ref", default_tls_container_ref=None),
        Opt("--tls-ciphers", tls_ciphers=default(CHANGED_CIPHERS)),
        Opt("--tls-versions", tls_versions=default(["TLSv1.2"])),
        Opt("--alpn-protocols", alpn_protocols=default(["http/1.0"])),
    )
    client.change("unset", "listener", [two], Opt("--client-ca-tls-container-ref", client_ca_tls_container_ref=None))
    change = Opt(f"--default-tls-container-ref {secrets.server}", default_tls_container_ref=secrets.server)
    client.change("set", "listener", [two], change, Opt("--client-authentication NONE", client_authentication="NONE"))
    client.change("unset", "listener", [two], Opt("--sni-container-refs", sni_container_refs=empty))
    stats = client.ask(["loadbalancer", "listener", "stats", "show", one])
    if not stats or set(stats.values()) != {0}:
        client.fault(f"loadbalancer listener stats show: {stats}")
    status, out, errors = client.run(["loadbalancer", "status", "show", "lb"])
    tree = json.loads(out)["loadbalancer"] if status == 0 else {}
    if {listener["id"] for listener in tree.get("listeners", [])} != {one, two}:
        client.fault(f"loadbalancer status show: {errors} {out}")
    client.delete("listener", [two], Opt("--wait", because="gone"))
    client.delete("listener", [one], Opt("--wait", because="gone"))


def members(client, pool):
    subnets = {row["Name"]: row["ID"] for row in client.ask(["subnet", "list"])}
    subnet = subnets["noop-subnet"]
    at, above = [pool["name"]], [pool["id"]]
    first = client.create(
        "member",
        Opt("--name m1", name="m1"),
        Opt("--address 10.0.0.1", address="10.0.0.1"),
        Opt("--protocol-port 80", protocol_port=80),
        Opt("--subnet-id noop-subnet", subnet_id=subnet),
        Opt("--weight 5", weight=5),
        Opt("--enable-backup", backup=True),
        Opt("--monitor-address 10.0.0.9", monitor_address="10.0.0.9"),
        Opt("--monitor-port 8080", monitor_port=8080),
        Opt("--enable", admin_state_up=True),
        Opt("--tag red --tag blue", tags=tags("red", "blue")),
        WAIT,
        at=at,
        above=above,
    )
    second = client.create(
        "member",
        Opt("--name m2", name="m2"),
        Opt("--address 2001:db8::2", address="2001:db8::2"),
        Opt("--protocol-port 81", protocol_port=81),
        Opt("--disable-backup", backup=False),
        Opt("--disable", admin_state_up=False),
        Opt("--no-tag", tags=tags()),
        at=at,
        above=above,
    )
    more = [*at, "--address", "10.0.0.3", "--protocol-port", "80"]
    text = "The load balancer flavor does not allow SR-IOV member ports."
    client.refused("loadbalancer member create", Opt("--request-sriov", because="refused"), text, at=more)
    one, two = first["id"], second["id"]
    cases = {
        "": [one, two],
        "--tags red": [one],
        "--any-tags red,green": [one],
        "--not-tags red,blue": [two],
        "--not-any-tags blue": [two],
    }
    client.listed("member", cases, at=at)
    member = [pool["id"], one]
    client.change(
        "set",
        "member",
        member,
        Opt("--name m3", name="m3"),
        Opt("--disable-backup", backup=False),
        Opt("--weight 7", weight=7),
        Opt("--monitor-address 10.0.0.8", monitor_address="10.0.0.8"),
        Opt("--monitor-port 8081", monitor_port=8081),
        Opt("--disable", admin_state_up=False),
        Opt("--tag green", tags=tags("red", "blue", "green")),
        WAIT,
    )
    client.change("set", "member", member, Opt("--enable", admin_state_up=True, name="m3"), Opt("--enable-backup", backup=True))
    client.change("set", "member", member, Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "member", member, Opt("--tag b", tags=tags("a")), WAIT)
    client.change(
        "unset",
        "member",
        member,
        Opt("--name", name=empty),
        Opt("--backup", backup=False),
        Opt("--monitor-address", monitor_address=None),
        Opt("--monitor-port", monitor_port=None),
        Opt("--weight", weight=1),
        Opt("--all-tag", tags=tags()),
    )
    client.delete("member", member, Opt("--wait", because="gone"))
    client.delete("member", [pool["id"], two])


def monitors(client, lb):
    def pool(name):
        options = [Opt(f"--name {name}", name=name), Opt("--protocol HTTP", protocol="HTTP")]
        above = [Opt("--loadbalancer lb", loadbalancers=ids([lb["id"]])), Opt("--lb-algorithm ROUND_ROBIN", lb_algorithm="ROUND_ROBIN")]
        return client.create("pool", *options, *above)

    watched = pool("watched")
    first = client.create(
        "healthmonitor",
        Opt("--name h1", name="h1"),
        Opt("--type HTTP", type="HTTP"),
        Opt("--delay 5", delay=5),
        Opt("--timeout 3", timeout=3),
        Opt("--max-retries 4", max_retries=4),
        Opt("--max-retries-down 2", max_retries_down=2),
        Opt("--http-method HEAD", http_method="HEAD"),
        Opt("--http-version 1.1", http_version=1.1),
        Opt("--domain-name www.example.com", domain_name="www.example.com"),
        Opt("--url-path /alive", url_path="/alive"),
        Opt("--expected-codes 200-204", expected_codes="200-204"),
        Opt("--enable", admin_state_up=True),
        Opt("--tag red --tag blue", tags=tags("red", "blue")),
        WAIT,
        at=["watched"],
    )
    if not ids([watched["id"]])(first["pools"]):
        client.fault(f"loadbalancer healthmonitor create POOL: {first}")
    others = []
    for kind in ["PING", "TCP", "HTTPS", "TLS-HELLO"]:
        other = client.create(
            "healthmonitor",
            Opt(f"--name {kind}", name=kind),
            Opt(f"--type {kind}", type=kind),
            Opt("--delay 5", delay=5),
            Opt("--timeout 3", timeout=3),
            Opt("--max-retries 3", max_retries=3),
            Opt("--disable", admin_state_up=False),
            Opt("--no-tag", tags=tags()),
            at=[pool(f"for-{kind}")["id"]],
        )
        others.append(other["id"])
    free = pool("free")
    for kind in ["UDP-CONNECT", "SCTP"]:
        at = [free["id"], "--delay", "5", "--timeout", "3", "--max-retries", "3"]
        client.refused("loadbalancer healthmonitor create", Opt(f"--type {kind}", because="refused"), "HTTP 400", at=at)
    one = first["id"]
    cases = {
        "": [one, *others],
        "--tags red": [one],
        "--any-tags red,green": [one],
        "--not-tags red,blue": others,
        "--not-any-tags blue": others,
    }
    client.listed("healthmonitor", cases)
    client.change(
        "set",
        "healthmonitor",
        [one],
        Opt("--name h2", name="h2"),
        Opt("--delay 6", delay=6),
        Opt("--timeout 4", timeout=4),
        Opt("--max-retries 5", max_retries=5),
        Opt("--max-retries-down 6", max_retries_down=6),
        Opt("--http-version 1.1", http_version=1.1),
        Opt("--domain-name other.example.com", domain_name="other.example.com"),
        Opt("--url-path /ready", url_path="/ready"),
        Opt("--expected-codes 200,202", expected_codes="200,202"),
        Opt("--disable", admin_state_up=False),
        Opt("--tag green", tags=tags("red", "blue", "green")),
        WAIT,
    )
    for method in ["GET", "POST", "DELETE", "PUT", "OPTIONS", "PATCH", "CONNECT", "TRACE"]:
        client.change("set", "healthmonitor", [one], Opt(f"--http-method {method}", http_method=method))
    client.change("set", "healthmonitor", [one], Opt("--enable", admin_state_up=True, name="h2"))
    client.change("set", "healthmonitor", [one], Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "healthmonitor", [one], Opt("--tag b", tags=tags("a")), WAIT)
    client.change("unset", "healthmonitor", [one], Opt("--domain-name", domain_name=None))
    client.change("set", "healthmonitor", [one], Opt("--http-version 1.0", http_version=1.0))
    client.change(
        "unset",
        "healthmonitor",
        [one],
        Opt("--name", name=""),
        Opt("--expected-codes", expected_codes="200"),
        Opt("--http-method", http_method="GET"),
        Opt("--http-version", http_version=None),
        Opt("--max-retries-down", max_retries_down=3),
        Opt("--url-path", url_path="/"),
        Opt("--all-tag", tags=tags()),
    )
    client.delete("healthmonitor", [one], Opt("--wait", because="gone"))
    client.delete("healthmonitor", [others[0]])


def policies(client, lb, pool):
    listener = client.create(
        "listener",
        Opt("--name routed", name="routed"),
        Opt("--protocol HTTP", protocol="HTTP"),
        Opt("--protocol-port 8080", protocol_port=8080),
        at=["lb"],
    )
    at = ["routed"]
    first = client.create(
        "l7policy",
        Opt("--name y1", name="y1"),
        Opt("--description one", description="one"),
        Opt("--action REDIRECT_TO_POOL", action="REDIRECT_TO_POOL"),
        Opt(f"--redirect-pool {pool['name']}", redirect_pool_id=pool["id"]),
        Opt("--position 1", position=1),
        Opt("--enable", admin_state_up=True),
        Opt("--tag red --tag blue", tags=tags("red", "blue")),
        WAIT,
        at=at,
    )
    if first["listener_id"] != listener["id"]:
        client.fault(f"loadbalancer l7policy create LISTENER: {first}")
    second = client.create(
        "l7policy",
        Opt("--name y2", name="y2"),
        Opt("--action REDIRECT_TO_URL", action="REDIRECT_TO_URL"),
        Opt("--redirect-url https://example.com/", redirect_url="https://example.com/"),
        Opt("--redirect-http-code 301", redirect_http_code=301),
        Opt("--disable", admin_state_up=False),
        Opt("--no-tag", tags=tags()),
        at=at,
    )
    third = client.create(
        "l7policy",
        Opt("--name y3", name="y3"),
        Opt("--action REDIRECT_PREFIX", action="REDIRECT_PREFIX"),
        Opt("--redirect-prefix https://example.org", redirect_prefix="https://example.org"),
        at=at,
    )
    fourth = client.create("l7policy", Opt("--name y4", name="y4"), Opt("--action REJECT", action="REJECT"), at=at)
    one, two, three, four = (policy["id"] for policy in (first, second, third, fourth))
    cases = {
        "": [one, two, three, four],
        "--listener routed": [one, two, three, four],
        "--tags red": [one],
        "--any-tags red,green": [one],
        "--not-tags red,blue": [two, three, four],
        "--not-any-tags blue": [two, three, four],
    }
    client.listed("l7policy", cases)
    for code in [302, 303, 307, 308]:
        client.change("set", "l7policy", [two], Opt(f"--redirect-http-code {code}", redirect_http_code=code))
    client.change(
        "set",
        "l7policy",
        [four],
        Opt("--name y5", name="y5"),
        Opt("--description two", description="two"),
        Opt("--action REDIRECT_TO_POOL", action="REDIRECT_TO_POOL"),
        Opt(f"--redirect-pool {pool['id']}", redirect_pool_id=pool["id"]),
        Opt("--position 1", position=1),
        Opt("--disable", admin_state_up=False),
        Opt("--tag green", tags=tags("green")),
        WAIT,
    )
    found = client.show("l7policy", [one])
    if found.get("position") != 2:
        client.fault(f"loadbalancer l7policy set --position 1 moves nothing: {found}")
    client.change(
        "set",
        "l7policy",
        [four],
        Opt("--action REDIRECT_TO_URL", action="REDIRECT_TO_URL"),
        Opt("--redirect-url http://a.example/", redirect_url="http://a.example/", redirect_pool_id=None),
        Opt("--enable", admin_state_up=True, name="y5"),
    )
    client.change(
        "set",
        "l7policy",
        [four],
        Opt("--action REDIRECT_PREFIX", action="REDIRECT_PREFIX"),
        Opt("--redirect-prefix http://b.example", redirect_prefix="http://b.example", redirect_url=None),
    )
    client.change("set", "l7policy", [four], Opt("--action REJECT", action="REJECT", redirect_prefix=None))
    client.change("set", "l7policy", [four], Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "l7policy", [four], Opt("--tag b", tags=tags("a")), WAIT)
    client.change(
        "unset",
        "l7policy",
        [four],
        Opt("--name", name=""),
        Opt("--description", description=""),
        Opt("--all-tag", tags=tags()),
    )
    client.change("unset", "l7policy", [two], Opt("--redirect-http-code", redirect_http_code=302))
    rules(client, first)
    client.delete("l7policy", [four], Opt("--wait", because="gone"))
    client.delete("l7policy", [three])


RULES = [
    ("HOST_NAME", "EQUAL_TO", "www.example.com", None),
    ("PATH", "STARTS_WITH", "/x", None),
    ("FILE_TYPE", "REGEX", "jpg|png", None),
    ("HEADER", "CONTAINS", "a", "X-A"),
    ("COOKIE", "ENDS_WITH", "b", "c"),
    ("SSL_CONN_HAS_CERT", "EQUAL_TO", "true", None),
    ("SSL_VERIFY_RESULT", "EQUAL_TO", "0", None),
    ("SSL_DN_FIELD", "STARTS_WITH", "Krater", "O"),
]


def matching(kind, compare, value, key):
    options = [
        Opt(f"--type {kind}", type=kind),
        Opt(f"--compare-type {compare}", compare_type=compare),
        Opt(f"--value '{value}'", value=value),
    ]
    return options + [Opt(f"--key {key}", key=key)] if key else options


def rules(client, policy):
    at = [policy["id"]]
    made = []
    for kind, compare, value, key in RULES:
        options = matching(kind, compare, value, key)
        if kind == "PATH":
            options += [Opt("--invert", invert=True), Opt("--enable", admin_state_up=True), Opt("--tag red --tag blue", tags=tags("red", "blue")), WAIT]
        if kind == "HEADER":
            options += [Opt("--disable", admin_state_up=False), Opt("--no-tag", tags=tags())]
        made.append(client.create("l7rule", *options, at=[policy["name"]], above=at)["id"])
    one, rest = made[1], [made[0], *made[2:]]
    cases = {
        "": made,
        "--tags red": [one],
        "--any-tags red,green": [one],
        "--not-tags red,blue": rest,
        "--not-any-tags blue": rest,
    }
    client.listed("l7rule", cases, at=[policy["name"]])
    rule = [policy["id"], one]
    for kind, compare, value, key in RULES:
        if not key and not kind.startswith("SSL"):
            client.change("set", "l7rule", rule, *matching(kind, compare, value, key))
    change = [
        Opt("--type HEADER", type="HEADER"),
        Opt("--compare-type CONTAINS", compare_type="CONTAINS"),
        Opt("--value v", value="v"),
        Opt("--key X-B", key="X-B"),
        Opt("--invert", invert=True),
        Opt("--disable", admin_state_up=False),
        Opt("--tag green", tags=tags("red", "blue", "green")),
        WAIT,
    ]
    client.change("set", "l7rule", rule, *change)
    client.change("set", "l7rule", rule, Opt("--enable", admin_state_up=True, key="X-B"))
    client.change("set", "l7rule", rule, Opt("--no-tag", tags=tags("a", "b")), Opt("--tag a --tag b", tags=tags("a", "b")))
    client.change("unset", "l7rule", rule, Opt("--tag b", tags=tags("a")), WAIT)
    client.change("unset", "l7rule", rule, Opt("--invert", invert=False), Opt("--all-tag", tags=tags()))
    change = [Opt("--type PATH", type="PATH"), Opt("--compare-type STARTS_WITH", compare_type="STARTS_WITH"), Opt("--value /y", value="/y")]
    client.change("set", "l7rule", rule, *change)
    client.change("unset", "l7rule", rule, Opt("--key", key=None))
    client.delete("l7rule", rule, Opt("--wait", because="gone"))
    client.delete("l7rule", [policy["id"], rest[0]])


def amphorae(client, lb):
    every = client.ask(["loadbalancer", "amphora", "list", "--loadbalancer", "lb", "--status", "ALLOCATED", "--long"])
    client.cover("loadbalancer amphora list", [Opt("--long", because="more columns")])
    if not every or "compute_id" not in every[0]:
        client.fault(f"loadbalancer amphora list --long: {every}")
        return
    own = [row["id"] for row in every]
    one = own[0]
    role = {row["id"]: row["role"] for row in every}
    shown = client.show("amphora", [one])
    if shown.get("loadbalancer_id") != lb["id"]:
        client.fault(f"loadbalancer amphora show: {shown}")
    cases = {"--loadbalancer lb": own, f"--compute-id {shown['compute_id']}": [one], "--image-id 5d5a4ffb-7d2c-4c55-9a53-92a4c6a8e2f0": []}
    for name in ["MASTER", "BACKUP", "STANDALONE"]:
        cases[f"--role {name}"] = [amphora for amphora in own if role[amphora] == name]
    statuses = ["ALLOCATED", "BOOTING", "DELETED", "ERROR", "PENDING_CREATE", "PENDING_DELETE", "READY", "FAILOVER_STOPPED"]
    for option in ["--status", "--provisioning-status"]:
        for status in statuses:
            cases[f"{option} {status}"] = own if status == "ALLOCATED" else []
    client.listed("amphora", cases)
    listener = client.ask(["loadbalancer", "listener", "list"])[0]
    for option in [[], ["--listener", listener["name"]]]:
        stats = client.ask(["loadbalancer", "amphora", "stats", "show", one, *option])
        if not stats or set(stats.values()) != {0}:
            client.fault(f"loadbalancer amphora stats show: {stats}")
    client.cover("loadbalancer amphora stats show", [Opt("--listener x", because="counters of one")])
    text = "not supported yet: config"
    client.refused("loadbalancer amphora configure", Opt("--wait", because="refused"), text, at=[one])
    # Only one in ERROR can be deleted: the state machine's tests have such.
    client.refused("loadbalancer amphora delete", Opt("--wait", because="refused"), "HTTP 409", at=[one])
    client.do(["loadbalancer", "amphora", "failover", one, "--wait"])
    client.cover("loadbalancer amphora failover", [WAIT])
    now = client.ask(["loadbalancer", "amphora", "list", "--loadbalancer", "lb", "--status", "ALLOCATED"])
    now = {row["id"] for row in now}
    if one in now or len(now) != len(own) or client.show("", ["lb"])["provisioning_status"] != "ACTIVE":
        client.fault(f"loadbalancer amphora failover --wait: {own} {now}")
