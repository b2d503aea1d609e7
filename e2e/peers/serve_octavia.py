"""Upstream's `octavia-api` for `cargo xtask numbers --upstream`: SQLite, no authentication, the no-op provider driver.

serve_octavia.py FOLDER PORT: makes FOLDER/octavia.db, then becomes gunicorn with two workers of four threads.

Upstream's no-op provider leaves objects PENDING; its workers, which would make them ACTIVE, are not part of the comparison.
In their place a thread here writes ACTIVE, which costs one statement for each change.
"""

import os
import pathlib
import queue
import sys
import threading
import time


def configure(folder):
    from octavia.common import config  # noqa: F401 (it registers the options)
    from oslo_config import cfg

    conf = pathlib.Path(folder) / "octavia.conf"
    if not conf.exists():
        conf.write_text(f"""
[DEFAULT]
transport_url = fake://
[api_settings]
auth_strategy = noauth
enabled_provider_drivers = noop_driver: The no-op driver
default_provider_driver = noop_driver
[database]
connection = sqlite:///{folder}/octavia.db
[controller_worker]
network_driver = network_noop_driver
compute_driver = compute_noop_driver
amphora_driver = amphora_noop_driver
[certificates]
cert_manager = noop_cert_manager
[oslo_policy]
enforce_scope = false
""")
    # SQLAlchemy refuses it for a file.
    cfg.CONF.set_override("pool_timeout", None, group="database")
    return ["octavia-api", "--config-file", str(conf)]


def make(folder):
    """The tables, and the rows that upstream's migrations put into them."""
    from octavia.common import constants, service
    from octavia.db import api, base_models, models

    service.prepare_service(configure(folder))
    base_models.BASE.metadata.create_all(api.get_engine())
    names = {
        models.ProvisioningStatus: constants.SUPPORTED_PROVISIONING_STATUSES,
        models.HealthMonitorType: constants.SUPPORTED_HEALTH_MONITOR_TYPES,
        models.Algorithm: constants.SUPPORTED_LB_ALGORITHMS,
        models.Protocol: constants.SUPPORTED_PROTOCOLS,
        models.OperatingStatus: constants.SUPPORTED_OPERATING_STATUSES,
        models.SessionPersistenceType: constants.SUPPORTED_SP_TYPES,
        models.AmphoraRoles: constants.SUPPORTED_AMPHORA_ROLES,
        models.LBTopology: constants.SUPPORTED_LB_TOPOLOGIES,
        models.VRRPAuthMethod: constants.SUPPORTED_VRRP_AUTH,
        models.L7RuleType: constants.SUPPORTED_L7RULE_TYPES,
        models.L7RuleCompareType: constants.SUPPORTED_L7RULE_COMPARE_TYPES,
        models.L7PolicyAction: constants.SUPPORTED_L7POLICY_ACTIONS,
        models.ClientAuthenticationMode: constants.SUPPORTED_CLIENT_AUTH_MODES,
    }
    with api.session().begin() as session:
        for model, texts in names.items():
            session.add_all([model(name=text) for text in texts])


def settle(waiting):
    """Writes ACTIVE for what the driver was told."""
    import sqlalchemy
    from octavia.db import api

    shown = sqlalchemy.text("SELECT provisioning_status FROM load_balancer WHERE id = :id")
    updates = [
        sqlalchemy.text(f"UPDATE {table} SET provisioning_status = 'ACTIVE' WHERE {key} = :id")
        for table, key in [("listener", "load_balancer_id"), ("load_balancer", "id")]
    ]
    while True:
        balancer = waiting.get()
        for _ in range(10_000):
            try:
                with api.get_engine().begin() as connection:
                    status = connection.execute(shown, {"id": balancer}).scalar()
                    # The request's transaction ends after the driver's call.
                    if status and status.startswith("PENDING"):
                        for update in updates:
                            connection.execute(update, {"id": balancer})
                        break
            except sqlalchemy.exc.OperationalError:
                pass  # Locked by a request.
            time.sleep(0.002)


def application():
    """What gunicorn serves, in each worker."""
    folder = os.environ["OCTAVIA_FOLDER"]
    arguments = configure(folder)
    from octavia.api import app
    from octavia.api.drivers.noop_driver import driver

    waiting = queue.SimpleQueue()
    manager = driver.NoopManager

    def told(name, attribute):
        real = getattr(manager, name)

        def call(self, item):
            real(self, item)
            waiting.put(getattr(item, attribute))

        setattr(manager, name, call)

    told("loadbalancer_create", "loadbalancer_id")
    told("listener_create", "loadbalancer_id")
    served = app.setup_app(argv=arguments)
    threading.Thread(target=settle, args=[waiting], daemon=True).start()
    return served


if __name__ == "__main__":
    os.environ["OCTAVIA_FOLDER"] = sys.argv[1]
    make(sys.argv[1])
    gunicorn = [sys.executable, "-m", "gunicorn", "--chdir", str(pathlib.Path(__file__).resolve().parent)]
    gunicorn += ["--bind", f"127.0.0.1:{sys.argv[2]}", "--workers", "2", "--threads", "4", "--keep-alive", "60"]
    os.execv(sys.executable, [*gunicorn, "serve_octavia:application()"])
