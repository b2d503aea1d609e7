"""openstacksdk's `load_balancer` proxy against one controller with no-op drivers: every call that the proxy has, and every filter
that its resources declare.

sdk.py ENDPOINT            fails when an answer is wrong, and when the proxy has a call that is not made here
sdk.py ENDPOINT --control  the negative control: an answer that is wrong, and all other calls missing
"""

import sys
import time
import warnings

warnings.filterwarnings("ignore")

from openstack import exceptions, proxy

from kit import check, connect, faults

PROJECT = "11111111-2222-4333-8444-555555555555"
# Upstream's API does not know these names, which the SDK declares nevertheless.
NO_FILTERS = {("l7_rules", "rule_value")}


class Recorder:
    """The proxy, and which of its calls were made."""

    def __init__(self, real):
        self._real = real
        self._made = set()

    def __getattr__(self, name):
        self._made.add(name)
        return getattr(self._real, name)


def calls(real):
    """What the proxy adds to those of all services; these return and take what every service's do."""
    every = {name for name in dir(real) if not name.startswith("_") and callable(getattr(real, name))}
    common = {name for name in dir(proxy.Proxy) if name not in vars(type(real))}
    return every - common


def refused(what, status, text, call):
    """The call fails with this status and text."""
    try:
        call()
    except exceptions.HttpException as error:
        check(what, (error.status_code, text in str(error.details)), (status, True))
    else:
        check(what, "done", status)


def gone(what, find):
    check(what, find(ignore_missing=True), None)
    try:
        find(ignore_missing=False)
    except exceptions.NotFoundException:
        pass
    else:
        check(what, "found", "an exception")


def filters(name, listed, item, above=()):
    """Lists the collection with each filter that the SDK declares, set to the item's own value."""
    own = {"limit", "marker"}
    for parameter, sent in type(item)._query_mapping._mapping.items():
        value = getattr(item, parameter, None)
        if parameter == "load_balancer_id" and value is None:
            value = item.load_balancers[0]["id"]
        simple = isinstance(value, (str, int, float, bool))
        if parameter in own or not simple or value == "" or (name, parameter) in NO_FILTERS:
            continue
        try:
            found = [other.id for other in listed(*above, **{parameter: value})]
        except exceptions.HttpException as error:
            check(f"{name}({parameter}={value!r}) sent as {sent}", str(error), "a list")
            continue
        if item.id not in found:
            check(f"{name}({parameter}={value!r}) sent as {sent}", found, f"with {item.id}")


def run(lb):
    def settle():
        for _ in range(2_000):
            if not any(item.provisioning_status.startswith("PENDING") for item in lb.load_balancers()):
                return
            time.sleep(0.01)
        check("settle", "PENDING", "ACTIVE")

    def updated(what, item, update, get, **changes):
        """Changes one attribute after the other, and reads each back."""
        for name, value in changes.items():
            update(item.id, **{name: value})
            settle()
            check(f"{what}.{name}", getattr(get(item.id), name), value)

    # Providers, profiles, flavors, zones.
    names = [provider.name for provider in lb.providers()]
    check("providers", {"amphora", "octavia"} <= set(names), True)
    capabilities = [item.name for item in lb.provider_flavor_capabilities("amphora")]
    check("provider_flavor_capabilities", capabilities, ["loadbalancer_topology"])
    data = '{"loadbalancer_topology": "SINGLE"}'
    profile = lb.create_flavor_profile(name="fp", provider_name="amphora", flavor_data="{}")
    check("create_flavor_profile", (profile.name, profile.provider_name, profile.flavor_data), ("fp", "amphora", "{}"))
    updated("flavor_profile", profile, lb.update_flavor_profile, lb.get_flavor_profile, name="fp2", flavor_data=data)
    check("find_flavor_profile", lb.find_flavor_profile("fp2").id, profile.id)
    filters("flavor_profiles", lb.flavor_profiles, lb.get_flavor_profile(profile.id))
    flavor = lb.create_flavor(name="f", flavor_profile_id=profile.id, description="d", is_enabled=True)
    check("create_flavor", (flavor.name, flavor.flavor_profile_id, flavor.is_enabled), ("f", profile.id, True))
    updated("flavor", flavor, lb.update_flavor, lb.get_flavor, name="f2", description="e", is_enabled=False)
    updated("flavor", flavor, lb.update_flavor, lb.get_flavor, is_enabled=True)
    check("find_flavor", lb.find_flavor("f2").id, flavor.id)
    filters("flavors", lb.flavors, lb.get_flavor(flavor.id))
    zones = lb.create_availability_zone_profile(name="zp", provider_name="amphora", availability_zone_data="{}")
    check("create_availability_zone_profile", (zones.name, zones.availability_zone_data), ("zp", "{}"))
    updated("availability_zone_profile", zones, lb.update_availability_zone_profile, lb.get_availability_zone_profile, name="zp2")
    check("find_availability_zone_profile", lb.find_availability_zone_profile("zp2").id, zones.id)
    filters("availability_zone_profiles", lb.availability_zone_profiles, lb.get_availability_zone_profile(zones.id))
    zone = lb.create_availability_zone(name="z", availability_zone_profile_id=zones.id, description="d")
    check("create_availability_zone", (zone.name, zone.description), ("z", "d"))
    lb.update_availability_zone("z", description="e")
    check("update_availability_zone", lb.get_availability_zone("z").description, "e")
    check("find_availability_zone", lb.find_availability_zone("z").name, "z")
    check("availability_zones", [item.name for item in lb.availability_zones(description="e")], ["z"])

    # Quotas.
    default = lb.get_quota_default()
    check("get_quota_default", {default.load_balancers, default.listeners, default.pools, default.members}, {-1})
    quota = lb.update_quota(PROJECT, load_balancers=5, listeners=6, pools=7, health_monitors=8, members=9)
    check("update_quota", (quota.load_balancers, quota.members), (5, 9))
    quota = lb.get_quota(PROJECT)
    check("get_quota", [quota.listeners, quota.pools, quota.health_monitors], [6, 7, 8])
    check("quotas", [(item.project_id, item.load_balancers) for item in lb.quotas()], [(PROJECT, 5)])
    lb.delete_quota(PROJECT)
    check("delete_quota", lb.get_quota(PROJECT).load_balancers, -1)

    # A load balancer.
    balancer = lb.create_load_balancer(
        name="lb", description="d", vip_subnet_id=SUBNET, project_id=PROJECT, flavor_id=flavor.id,
        availability_zone="z", provider="amphora", is_admin_state_up=True, tags=["red"],
    )
    check("create_load_balancer", (balancer.name, balancer.vip_subnet_id, balancer.flavor_id), ("lb", SUBNET, flavor.id))
    balancer = lb.wait_for_load_balancer("lb", interval=0.01)
    check("wait_for_load_balancer", balancer.provisioning_status, "ACTIVE")
    check("tags", balancer.tags, ["red"])
    updated(
        "load_balancer", balancer, lb.update_load_balancer, lb.get_load_balancer,
        name="lb2", description="e", is_admin_state_up=False, tags=["blue"],
    )
    updated("load_balancer", balancer, lb.update_load_balancer, lb.get_load_balancer, is_admin_state_up=True)
    refused("vip_sg_ids", 501, "not supported yet: vip_sg_ids", lambda: lb.update_load_balancer(balancer, vip_sg_ids=["x"]))
    refused(
        "vip_qos_policy_id", 501, "not supported yet: vip_qos_policy_id",
        lambda: lb.update_load_balancer(balancer, vip_qos_policy_id=PROJECT),
    )
    check("find_load_balancer", lb.find_load_balancer("lb2").id, balancer.id)
    check("find_load_balancer by id", lb.find_load_balancer(balancer.id).name, "lb2")
    filters("load_balancers", lb.load_balancers, lb.get_load_balancer(balancer.id))
    check("get_load_balancer_statistics", lb.get_load_balancer_statistics(balancer.id).total_connections, 0)

    # A pool, a listener.
    pool = lb.create_pool(name="p", protocol="HTTP", lb_algorithm="ROUND_ROBIN", loadbalancer_id=balancer.id, description="d")
    check("create_pool", (pool.protocol, pool.lb_algorithm, pool.loadbalancers), ("HTTP", "ROUND_ROBIN", [{"id": balancer.id}]))
    pool = lb.wait_for_status(pool, "ACTIVE", interval=0.01, wait=60, attribute="provisioning_status")
    check("wait_for_status", pool.provisioning_status, "ACTIVE")
    settle()
    sticky = {"type": "HTTP_COOKIE", "cookie_name": None, "persistence_timeout": None, "persistence_granularity": None}
    updated(
        "pool", pool, lb.update_pool, lb.get_pool, name="p2", description="e", lb_algorithm="SOURCE_IP",
        is_admin_state_up=False, tls_enabled=True, tls_versions=["TLSv1.3"], alpn_protocols=["http/1.1"], tags=["blue"],
    )
    lb.update_pool(pool, session_persistence={"type": "HTTP_COOKIE"}, is_admin_state_up=True)
    settle()
    check("pool.session_persistence", lb.get_pool(pool).session_persistence, sticky)
    check("find_pool", lb.find_pool("p2").id, pool.id)
    filters("pools", lb.pools, lb.get_pool(pool.id))
    listener = lb.create_listener(
        name="l", protocol="HTTP", protocol_port=80, load_balancer_id=balancer.id, default_pool_id=pool.id, description="d",
    )
    check("create_listener", (listener.protocol_port, listener.default_pool_id), (80, pool.id))
    settle()
    updated(
        "listener", listener, lb.update_listener, lb.get_listener, name="l2", description="e", connection_limit=7,
        timeout_client_data=1, timeout_member_connect=2, timeout_member_data=3, timeout_tcp_inspect=4, is_admin_state_up=False,
        allowed_cidrs=["10.0.0.0/8"], insert_headers={"X-Forwarded-For": "true"}, tags=["blue"],
    )
    check("find_listener", lb.find_listener("l2").id, listener.id)
    filters("listeners", lb.listeners, lb.get_listener(listener.id))
    check("get_listener_statistics", lb.get_listener_statistics(listener.id).bytes_in, 0)

    # Members, a health monitor.
    member = lb.create_member(
        pool, name="m", address="10.0.0.1", protocol_port=80, weight=3, subnet_id=SUBNET, monitor_address="10.0.0.2", monitor_port=81,
    )
    check("create_member", (member.address, member.weight, member.subnet_id), ("10.0.0.1", 3, SUBNET))
    settle()
    for name, value in dict(name="m2", weight=4, backup=True, monitor_address="10.0.0.3", monitor_port=82, is_admin_state_up=False).items():
        lb.update_member(member, pool, **{name: value})
        settle()
        check(f"member.{name}", getattr(lb.get_member(member.id, pool), name), value)
    check("find_member", lb.find_member("m2", pool).id, member.id)
    filters("members", lb.members, lb.get_member(member.id, pool), above=[pool])
    monitor = lb.create_health_monitor(
        name="h", pool_id=pool.id, type="HTTP", delay=5, timeout=3, max_retries=3, http_method="HEAD", url_path="/a", expected_codes="200",
    )
    check("create_health_monitor", (monitor.type, monitor.delay, monitor.url_path), ("HTTP", 5, "/a"))
    settle()
    updated(
        "health_monitor", monitor, lb.update_health_monitor, lb.get_health_monitor, name="h2", delay=6, timeout=4, max_retries=4,
        max_retries_down=5, http_method="GET", url_path="/b", expected_codes="200-204", is_admin_state_up=False, tags=["blue"],
    )
    check("find_health_monitor", lb.find_health_monitor("h2").id, monitor.id)
    filters("health_monitors", lb.health_monitors, lb.get_health_monitor(monitor.id))

    # A policy, a rule.
    policy = lb.create_l7_policy(name="y", listener_id=listener.id, action="REDIRECT_TO_URL", redirect_url="http://a.example/")
    check("create_l7_policy", (policy.action, policy.redirect_url, policy.position), ("REDIRECT_TO_URL", "http://a.example/", 1))
    settle()
    updated(
        "l7_policy", policy, lb.update_l7_policy, lb.get_l7_policy, name="y2", description="e", redirect_url="http://b.example/",
        redirect_prefix="http://c.example", redirect_pool_id=pool.id, is_admin_state_up=False, tags=["blue"],
    )
    check("find_l7_policy", lb.find_l7_policy("y2").id, policy.id)
    filters("l7_policies", lb.l7_policies, lb.get_l7_policy(policy.id))
    rule = lb.create_l7_rule(policy, type="HEADER", compare_type="EQUAL_TO", key="X-A", rule_value="1", invert=True)
    check("create_l7_rule", (rule.type, rule.key, rule.rule_value, rule.invert), ("HEADER", "X-A", "1", True))
    settle()
    for name, value in dict(compare_type="CONTAINS", key="X-B", rule_value="2", invert=False, type="COOKIE").items():
        lb.update_l7_rule(rule, policy, **{name: value})
        settle()
        check(f"l7_rule.{name}", getattr(lb.get_l7_rule(rule.id, policy), name), value)
    check("find_l7_rule", lb.find_l7_rule(rule.id, policy).id, rule.id)
    filters("l7_rules", lb.l7_rules, lb.get_l7_rule(rule.id, policy), above=[policy])

    # Amphorae.
    before = list(lb.amphorae(loadbalancer_id=balancer.id, status="ALLOCATED"))
    check("amphorae", {amphora.loadbalancer_id for amphora in before}, {balancer.id})
    amphora = lb.get_amphora(before[0].id)
    check("get_amphora", amphora.status, "ALLOCATED")
    check("find_amphora", lb.find_amphora(amphora.id).id, amphora.id)
    filters("amphorae", lb.amphorae, amphora)
    refused("configure_amphora", 501, "not supported yet: config", lambda: lb.configure_amphora(amphora.id))
    lb.failover_amphora(amphora.id)
    settle()
    after = {item.id for item in lb.amphorae(loadbalancer_id=balancer.id, status="ALLOCATED")}
    check("failover_amphora", (amphora.id in after, len(after)), (False, len(before)))
    lb.failover_load_balancer(balancer.id)
    settle()
    check("failover_load_balancer", {item.id for item in lb.amphorae(loadbalancer_id=balancer.id, status="ALLOCATED")} & after, set())

    # Everything goes.
    lb.delete_l7_rule(rule, policy, ignore_missing=False)
    settle()
    gone("delete_l7_rule", lambda **how: lb.find_l7_rule(rule.id, policy, **how))
    lb.delete_l7_policy(policy, ignore_missing=False)
    settle()
    gone("delete_l7_policy", lambda **how: lb.find_l7_policy("y2", **how))
    lb.delete_health_monitor(monitor, ignore_missing=False)
    settle()
    gone("delete_health_monitor", lambda **how: lb.find_health_monitor("h2", **how))
    lb.delete_member(member, pool, ignore_missing=False)
    settle()
    gone("delete_member", lambda **how: lb.find_member("m2", pool, **how))
    lb.delete_listener(listener, ignore_missing=False)
    settle()
    gone("delete_listener", lambda **how: lb.find_listener("l2", **how))
    lb.delete_pool(pool, ignore_missing=False)
    lb.wait_for_delete(pool, interval=0.01, wait=60)
    settle()
    gone("delete_pool", lambda **how: lb.find_pool("p2", **how))
    lb.delete_load_balancer(balancer, ignore_missing=False, cascade=True)
    lb.wait_for_delete(balancer, interval=0.01, wait=60)
    gone("delete_load_balancer", lambda **how: lb.find_load_balancer("lb2", **how))
    lb.delete_flavor(flavor, ignore_missing=False)
    gone("delete_flavor", lambda **how: lb.find_flavor("f2", **how))
    lb.delete_flavor_profile(profile, ignore_missing=False)
    gone("delete_flavor_profile", lambda **how: lb.find_flavor_profile("fp2", **how))
    lb.delete_availability_zone("z", ignore_missing=False)
    gone("delete_availability_zone", lambda **how: lb.find_availability_zone("z", **how))
    lb.delete_availability_zone_profile(zones, ignore_missing=False)
    gone("delete_availability_zone_profile", lambda **how: lb.find_availability_zone_profile("zp2", **how))


endpoint = sys.argv[1]
cloud = connect(endpoint)
SUBNET = next(subnet.id for subnet in cloud.network.subnets(name="noop-subnet"))
recorder = Recorder(cloud.load_balancer)
if sys.argv[2:] == ["--control"]:
    made = recorder.create_flavor_profile(name="control", provider_name="amphora", flavor_data="{}")
    check("create_flavor_profile", made.name, "another")
else:
    run(recorder)
every = calls(cloud.load_balancer)
for name in sorted(every - recorder._made):
    check(name, "no case", "a call")
print(f"{len(every)} calls, {len(faults)} faults")
if len(every) < 75:
    check("calls", len(every), "at least 75")
sys.exit(1 if faults else 0)
