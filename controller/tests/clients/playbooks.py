"""Ansible's load balancer modules of the collection `openstack.cloud` against one controller with no-op drivers.

playbooks.py ENDPOINT FOLDER            runs real playbooks: create, the same again, change, the same again, remove, the same again
playbooks.py ENDPOINT FOLDER --control  the negative control: the same playbook twice, both times as if it were the first

Each option of each module has a value here that is read back through the SDK, or a reason why not.
"""

import importlib
import json
import os
import pathlib
import pkgutil
import subprocess
import sys

from kit import check, connect, environment, faults
from material import Material

endpoint, folder = sys.argv[1], pathlib.Path(sys.argv[2])
cloud = connect(endpoint)
lb = cloud.load_balancer
secrets = Material(endpoint)
used = set()


def play(name, tasks, expected, fails=False):
    """Runs one playbook; each task must report `changed` as expected. Gives the tasks' results."""
    result = folder / f"{name}.results"
    steps = []
    for at, (module, arguments) in enumerate(tasks):
        used.update((module, option) for option in arguments)
        steps.append({"name": module, f"openstack.cloud.{module}": arguments, "register": f"r{at}", "ignore_errors": fails})
    every = ", ".join(f"r{at}" for at in range(len(tasks)))
    content = "{{ [%s] | to_json }}" % every
    steps.append({"name": "results", "ansible.builtin.copy": {"content": content, "dest": str(result), "mode": "0600"}})
    book = folder / f"{name}.json"
    book.write_text(json.dumps([{"hosts": "localhost", "gather_facts": False, "tasks": steps}]))
    program = pathlib.Path(sys.executable).parent / "ansible-playbook"
    variables = dict(
        os.environ,
        **environment(endpoint),
        HOME=str(folder),
        ANSIBLE_LOCALHOST_WARNING="False",
        ANSIBLE_INVENTORY_UNPARSED_WARNING="False",
        ANSIBLE_PYTHON_INTERPRETER=sys.executable,
        ANSIBLE_PIPELINING="True",
        LC_ALL="C.UTF-8",
        PYTHONPATH=str(pathlib.Path(__file__).parent / "clock"),
    )
    command = [sys.executable, str(program), "-i", "localhost,", "-c", "local", str(book)]
    done = subprocess.run(command, env=variables, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        check(name, done.stdout[-3000:] + done.stderr[-2000:], "success")
        return [{}] * len(tasks)
    results = json.loads(result.read_text())
    for (module, _), found in zip(tasks, results):
        if not fails:
            check(f"{name}: {module} changed", found.get("changed"), expected)
    return results


def reads(what, item, **wanted):
    for field, value in wanted.items():
        check(f"{what}.{field}", getattr(item, field, "nothing") if item else "nothing", value)


SUBNET = next(cloud.network.subnets(name="noop-subnet"))
PRESENT = [
    ("loadbalancer", dict(name="lb", state="present", description="one", flavor="f",
                          vip_subnet="noop-subnet", wait=True, timeout=60)),
    ("lb_listener", dict(name="l", state="present", load_balancer="lb", description="one", protocol="TERMINATED_HTTPS",
                         protocol_port=443, timeout_client_data=1000, timeout_member_data=2000, is_admin_state_up=True,
                         default_tls_container_ref=secrets.server,
                         sni_container_refs=[secrets.other])),
    ("lb_pool", dict(name="p", state="present", listener="l", description="one", protocol="HTTP", lb_algorithm="ROUND_ROBIN")),
    ("lb_member", dict(name="m", state="present", pool="p", address="10.0.0.1", protocol_port=80, subnet_id=SUBNET.id,
                       monitor_address="10.0.0.2", monitor_port=81, weight=3)),
    ("lb_health_monitor", dict(name="h", state="present", pool="p", type="HTTP", delay=5, health_monitor_timeout=3, max_retries=3,
                               max_retries_down=4, http_method="HEAD", url_path="/a", expected_codes="200",
                               is_admin_state_up=True)),
]
CHANGED = [
    ("loadbalancer", dict(name="lb", description="two", vip_subnet="noop-subnet", flavor="f")),
    ("lb_listener", dict(name="l", load_balancer="lb", description="two", protocol="TERMINATED_HTTPS", protocol_port=443,
                         timeout_client_data=3000, timeout_member_data=4000, is_admin_state_up=False,
                         default_tls_container_ref=secrets.other,
                         sni_container_refs=[secrets.server])),
    ("lb_pool", dict(name="p", listener="l", description="two", protocol="HTTP", lb_algorithm="LEAST_CONNECTIONS")),
    ("lb_member", dict(name="m", pool="p", address="10.0.0.1", protocol_port=80, subnet_id=SUBNET.id,
                       monitor_address="10.0.0.3", monitor_port=82, weight=4)),
    ("lb_health_monitor", dict(name="h", pool="p", type="HTTP", delay=6, health_monitor_timeout=4, max_retries=4, max_retries_down=5,
                               http_method="GET", url_path="/b", expected_codes="200-204", is_admin_state_up=False)),
]
ABSENT = [
    ("lb_health_monitor", dict(name="h", state="absent")),
    ("lb_member", dict(name="m", pool="p", state="absent")),
    ("lb_pool", dict(name="p", state="absent")),
    ("lb_listener", dict(name="l", state="absent", load_balancer="lb")),
    ("loadbalancer", dict(name="lb", state="absent", delete_floating_ip=True)),
]
# Other ways to a VIP and a pool.
OTHERS = [
    ("loadbalancer", dict(name="lb2", vip_network="noop", vip_address="198.19.0.78")),
    ("lb_pool", dict(name="p2", loadbalancer="lb2", protocol="TCP", lb_algorithm="SOURCE_IP")),
]
# There are no floating IPs: not supported.
FLOATING = [
    ("loadbalancer", dict(name="lb2", vip_network="noop", assign_floating_ip=True, floating_ip_network="noop")),
    ("loadbalancer", dict(name="lb2", vip_network="noop", floating_ip_address="203.0.113.7")),
]
# Of every module of the collection: how to reach the cloud, and how long to wait.
COMMON = {"auth", "cloud", "wait", "timeout"}


def first():
    reads("loadbalancer", lb.find_load_balancer("lb"), description="one", flavor_id=flavor.id,
          vip_subnet_id=SUBNET.id, provisioning_status="ACTIVE")
    reads("lb_listener", lb.find_listener("l"), description="one", protocol="TERMINATED_HTTPS", protocol_port=443,
          timeout_client_data=1000, timeout_member_data=2000, is_admin_state_up=True,
          default_tls_container_ref=secrets.server, sni_container_refs=[secrets.other])
    pool = lb.find_pool("p")
    reads("lb_pool", pool, description="one", protocol="HTTP", lb_algorithm="ROUND_ROBIN")
    check("lb_pool.listener", pool and pool.listeners, [{"id": lb.find_listener("l").id}])
    reads("lb_member", pool and lb.find_member("m", pool), address="10.0.0.1", protocol_port=80, subnet_id=SUBNET.id,
          monitor_address="10.0.0.2", monitor_port=81, weight=3)
    reads("lb_health_monitor", lb.find_health_monitor("h"), type="HTTP", delay=5, timeout=3, max_retries=3, max_retries_down=4,
          http_method="HEAD", url_path="/a", expected_codes="200", is_admin_state_up=True)


def second():
    reads("loadbalancer", lb.find_load_balancer("lb"), description="two")
    reads("lb_listener", lb.find_listener("l"), description="two", timeout_client_data=3000, timeout_member_data=4000,
          is_admin_state_up=False, default_tls_container_ref=secrets.other,
          sni_container_refs=[secrets.server])
    reads("lb_pool", lb.find_pool("p"), description="two", lb_algorithm="LEAST_CONNECTIONS")
    reads("lb_member", lb.find_member("m", lb.find_pool("p")), monitor_address="10.0.0.3", monitor_port=82, weight=4)
    reads("lb_health_monitor", lb.find_health_monitor("h"), delay=6, timeout=4, max_retries=4, max_retries_down=5, http_method="GET",
          url_path="/b", expected_codes="200-204", is_admin_state_up=False)


def covered():
    """Every option of every load balancer module of the installed collection was used."""
    base = "ansible_collections.openstack.cloud.plugins.modules"
    folder = importlib.import_module(base).__path__
    names = [item.name for item in pkgutil.iter_modules(folder) if item.name.startswith(("lb_", "loadbalancer"))]
    check("modules", len(names) >= 5, True)
    for name in names:
        module = importlib.import_module(f"{base}.{name}")
        [kind] = [kind for kind in vars(module).values() if getattr(kind, "__module__", "") == base + "." + name and isinstance(kind, type)]
        for option in kind.argument_spec:
            if option not in COMMON and (name, option) not in used:
                check(f"{name}: {option}", "no case", "a case")
    return names


profile = lb.create_flavor_profile(name="fp", provider_name="amphora", flavor_data="{}")
flavor = lb.create_flavor(name="f", flavor_profile_id=profile.id)
if sys.argv[3:] == ["--control"]:
    play("create", PRESENT[:1], True)
    play("create again", PRESENT[:1], True)
else:
    play("create", PRESENT, True)
    first()
    play("create again", PRESENT, False)
    first()
    play("change", CHANGED, True)
    second()
    play("change again", CHANGED, False)
    play("others", OTHERS, True)
    reads("loadbalancer", lb.find_load_balancer("lb2"), vip_address="198.19.0.78")
    check("lb_pool.loadbalancer", lb.find_pool("p2").loadbalancers, [{"id": lb.find_load_balancer("lb2").id}])
    port = lb.find_load_balancer("lb").vip_port_id
    play("port", [("loadbalancer", dict(name="lb3", vip_port=port))], True)
    reads("loadbalancer", lb.find_load_balancer("lb3"), vip_port_id=port)
    for found in play("floating", FLOATING, None, fails=True):
        check("floating IPs are refused", found.get("failed"), True)
    play("remove", ABSENT, True)
    check("left", [lb.find_load_balancer("lb"), lb.find_pool("p"), lb.find_listener("l"), lb.find_health_monitor("h")], [None] * 4)
    play("remove again", [ABSENT[0], *ABSENT[2:]], False)
names = covered()
print(f"{len(names)} modules, {len(used)} options, {len(faults)} faults")
sys.exit(1 if faults else 0)
