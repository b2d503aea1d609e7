//! The first schema. Frozen: later changes are later migrations.
//!
//! SQLite and MariaDB do not run a migration in a transaction: what an interrupted one has made is left as it is.

use sea_orm_migration::prelude::*;

/// See the module.
#[derive(Debug)]
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &str {
        "m0001_initial"
    }
}

#[allow(
    elided_lifetimes_in_paths,
    reason = "the trait's lifetimes are written so"
)]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for (name, table, columns, unique) in INDEXES {
            if manager.has_index(*table, *name).await? {
                continue;
            }
            let mut index = Index::create();
            index.name(*name).table(Alias::new(*table));
            for column in *columns {
                index.col(Alias::new(*column));
            }
            if *unique {
                index.unique();
            }
            manager.create_index(index).await?;
        }
        Ok(())
    }
}

fn id(name: &str) -> ColumnDef {
    text(name, 36)
}

fn text(name: &str, length: u32) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.string_len(length).not_null();
    column
}

fn long_text(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.text().not_null();
    column
}

fn int(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.integer().not_null();
    column
}

fn big(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.big_integer().not_null();
    column
}

fn flag(name: &str) -> ColumnDef {
    let mut column = ColumnDef::new(Alias::new(name));
    column.boolean().not_null();
    column
}

fn null(column: ColumnDef) -> ColumnDef {
    // The builder only appends, so the wish "not null" is undone by starting again with the type.
    let kind = column
        .get_column_type()
        .cloned()
        .unwrap_or(ColumnType::Text);
    ColumnDef::new_with_type(Alias::new(column.get_column_name()), kind)
        .null()
        .take()
}

/// Builds one table: columns, primary key, then `(column, referenced table, on delete)`.
fn table(
    name: &str,
    columns: Vec<ColumnDef>,
    key: &[&str],
    references: &[(&str, &str, ForeignKeyAction)],
) -> TableCreateStatement {
    let mut table = Table::create();
    table.table(Alias::new(name)).if_not_exists();
    for mut column in columns {
        table.col(&mut column);
    }
    let mut primary = Index::create();
    for column in key {
        primary.col(Alias::new(*column));
    }
    table.primary_key(&mut primary);
    for (column, other, action) in references {
        table.foreign_key(
            ForeignKey::create()
                .name(format!("fk_{name}_{column}"))
                .from(Alias::new(name), Alias::new(*column))
                .to(Alias::new(*other), Alias::new("id"))
                .on_delete(*action),
        );
    }
    table
}

fn tables() -> Vec<TableCreateStatement> {
    use ForeignKeyAction::{Cascade, Restrict, SetNull};
    vec![
        table(
            "meta",
            vec![text("name", 255), long_text("value")],
            &["name"],
            &[],
        ),
        table(
            "network",
            vec![
                id("id"),
                text("name", 255),
                text("description", 255),
                int("mtu"),
                flag("internal"),
                big("created_at"),
            ],
            &["id"],
            &[],
        ),
        table(
            "subnet",
            vec![
                id("id"),
                id("network_id"),
                text("name", 255),
                text("cidr", 64),
                null(text("gateway_ip", 64)),
                big("created_at"),
            ],
            &["id"],
            &[("network_id", "network", Cascade)],
        ),
        table(
            "port",
            vec![
                id("id"),
                id("network_id"),
                text("project_id", 36),
                text("name", 255),
                text("mac_address", 32),
                text("device_owner", 255),
                text("device_id", 255),
                flag("admin_state_up"),
                big("created_at"),
            ],
            &["id"],
            &[("network_id", "network", Restrict)],
        ),
        table(
            "address",
            vec![
                id("subnet_id"),
                text("ip_address", 64),
                id("port_id"),
                int("position"),
            ],
            &["subnet_id", "ip_address"],
            &[
                ("subnet_id", "subnet", Restrict),
                ("port_id", "port", Cascade),
            ],
        ),
        table(
            "load_balancer",
            vec![
                id("id"),
                text("project_id", 36),
                text("name", 255),
                text("description", 255),
                flag("enabled"),
                text("topology", 32),
                text("provider", 64),
                text("vip_address", 64),
                id("vip_port_id"),
                id("vip_subnet_id"),
                id("vip_network_id"),
                flag("vip_port_owned"),
                null(id("locked_by_flow")),
                null(long_text("error_reason")),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[],
        ),
        table(
            "pool",
            vec![
                id("id"),
                id("load_balancer_id"),
                text("project_id", 36),
                text("name", 255),
                text("description", 255),
                flag("enabled"),
                text("protocol", 32),
                text("lb_algorithm", 32),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[("load_balancer_id", "load_balancer", Cascade)],
        ),
        table(
            "session_persistence",
            vec![
                id("pool_id"),
                text("kind", 32),
                null(text("cookie_name", 255)),
                null(int("persistence_timeout")),
                null(text("persistence_granularity", 64)),
            ],
            &["pool_id"],
            &[("pool_id", "pool", Cascade)],
        ),
        table(
            "listener",
            vec![
                id("id"),
                id("load_balancer_id"),
                text("project_id", 36),
                text("name", 255),
                text("description", 255),
                flag("enabled"),
                text("protocol", 32),
                int("protocol_port"),
                int("connection_limit"),
                null(id("default_pool_id")),
                long_text("insert_headers"),
                long_text("allowed_cidrs"),
                int("timeout_client_data"),
                int("timeout_member_connect"),
                int("timeout_member_data"),
                int("timeout_tcp_inspect"),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[
                ("load_balancer_id", "load_balancer", Cascade),
                ("default_pool_id", "pool", SetNull),
            ],
        ),
        table(
            "member",
            vec![
                id("id"),
                id("pool_id"),
                text("project_id", 36),
                text("name", 255),
                flag("enabled"),
                text("address", 64),
                int("protocol_port"),
                int("weight"),
                flag("backup"),
                null(id("subnet_id")),
                null(text("monitor_address", 64)),
                null(int("monitor_port")),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[("pool_id", "pool", Cascade)],
        ),
        table(
            "health_monitor",
            vec![
                id("id"),
                id("pool_id"),
                text("project_id", 36),
                text("name", 255),
                flag("enabled"),
                text("kind", 32),
                int("delay"),
                int("timeout"),
                int("max_retries"),
                int("max_retries_down"),
                null(text("http_method", 32)),
                null(text("url_path", 255)),
                null(text("expected_codes", 64)),
                null(text("http_version", 32)),
                null(text("domain_name", 255)),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[("pool_id", "pool", Cascade)],
        ),
        table(
            "l7policy",
            vec![
                id("id"),
                id("listener_id"),
                text("project_id", 36),
                text("name", 255),
                text("description", 255),
                flag("enabled"),
                text("action", 32),
                null(id("redirect_pool_id")),
                null(text("redirect_url", 255)),
                null(text("redirect_prefix", 255)),
                null(int("redirect_http_code")),
                int("position"),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[
                ("listener_id", "listener", Cascade),
                ("redirect_pool_id", "pool", Restrict),
            ],
        ),
        table(
            "l7rule",
            vec![
                id("id"),
                id("l7policy_id"),
                text("project_id", 36),
                flag("enabled"),
                text("kind", 32),
                text("compare_type", 32),
                null(text("key", 255)),
                text("value", 255),
                flag("invert"),
                text("provisioning_status", 32),
                text("operating_status", 32),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[("l7policy_id", "l7policy", Cascade)],
        ),
        table(
            "tag",
            vec![id("resource_id"), text("tag", 255)],
            &["resource_id", "tag"],
            &[],
        ),
        table(
            "quota",
            vec![
                text("project_id", 36),
                null(int("load_balancer")),
                null(int("listener")),
                null(int("pool")),
                null(int("member")),
                null(int("health_monitor")),
                null(int("l7policy")),
                null(int("l7rule")),
                big("revision"),
            ],
            &["project_id"],
            &[],
        ),
        table(
            "amphora",
            vec![
                id("id"),
                null(id("load_balancer_id")),
                null(text("compute_id", 255)),
                text("status", 32),
                null(text("role", 32)),
                null(text("lb_network_ip", 64)),
                null(id("mgmt_port_id")),
                null(text("mgmt_mac", 32)),
                null(text("vrrp_ip", 64)),
                null(text("ha_ip", 64)),
                null(id("vrrp_port_id")),
                null(id("ha_port_id")),
                null(text("vrrp_mac", 32)),
                null(text("vrrp_interface", 32)),
                null(int("vrrp_id")),
                null(int("vrrp_priority")),
                null(big("cert_expiration")),
                flag("cert_busy"),
                null(text("cached_zone", 255)),
                null(text("image_id", 255)),
                null(text("compute_flavor", 255)),
                big("epoch_desired"),
                big("generation_desired"),
                big("epoch_applied"),
                big("generation_applied"),
                null(text("revision_digest", 255)),
                null(long_text("error_reason")),
                big("created_at"),
                null(big("updated_at")),
            ],
            &["id"],
            &[("load_balancer_id", "load_balancer", SetNull)],
        ),
        table(
            "amphora_health",
            vec![
                id("amphora_id"),
                big("last_beat"),
                text("boot_id", 64),
                big("seq"),
                flag("busy"),
                flag("dataplane_ready"),
                null(text("router_state", 32)),
                big("epoch"),
                big("generation"),
            ],
            &["amphora_id"],
            &[("amphora_id", "amphora", Cascade)],
        ),
        table(
            "listener_statistics",
            vec![
                id("amphora_id"),
                id("listener_id"),
                big("bytes_in"),
                big("bytes_out"),
                big("active_connections"),
                big("total_connections"),
                big("request_errors"),
            ],
            &["amphora_id", "listener_id"],
            &[],
        ),
        table(
            "flow",
            vec![
                id("id"),
                text("kind", 64),
                null(id("load_balancer_id")),
                long_text("payload"),
                text("request_id", 64),
                text("state", 32),
                int("current_step"),
                int("attempts"),
                null(text("claimed_by", 255)),
                null(big("lease_until")),
                big("not_before"),
                null(long_text("error")),
                big("created_at"),
                big("updated_at"),
            ],
            &["id"],
            &[],
        ),
        table(
            "flow_step",
            vec![
                id("flow_id"),
                int("position"),
                text("name", 255),
                text("state", 32),
                long_text("output"),
                int("attempts"),
                null(long_text("error")),
                big("started_at"),
                null(big("finished_at")),
            ],
            &["flow_id", "position"],
            &[("flow_id", "flow", Cascade)],
        ),
    ]
}

/// Name, table, columns, unique.
const INDEXES: &[(&str, &str, &[&str], bool)] = &[
    ("i_subnet_network_id", "subnet", &["network_id"], false),
    ("u_port_mac_address", "port", &["mac_address"], true),
    ("i_port_network_id", "port", &["network_id"], false),
    ("i_port_device_id", "port", &["device_id"], false),
    ("i_address_port_id", "address", &["port_id"], false),
    (
        "i_load_balancer_project_id",
        "load_balancer",
        &["project_id"],
        false,
    ),
    (
        "i_load_balancer_vip_port_id",
        "load_balancer",
        &["vip_port_id"],
        false,
    ),
    (
        "i_pool_load_balancer_id",
        "pool",
        &["load_balancer_id"],
        false,
    ),
    ("i_pool_project_id", "pool", &["project_id"], false),
    (
        "u_listener_load_balancer_id_protocol_port",
        "listener",
        &["load_balancer_id", "protocol_port"],
        true,
    ),
    ("i_listener_project_id", "listener", &["project_id"], false),
    (
        "i_listener_default_pool_id",
        "listener",
        &["default_pool_id"],
        false,
    ),
    (
        "u_member_pool_id_address_protocol_port",
        "member",
        &["pool_id", "address", "protocol_port"],
        true,
    ),
    ("i_member_project_id", "member", &["project_id"], false),
    (
        "u_health_monitor_pool_id",
        "health_monitor",
        &["pool_id"],
        true,
    ),
    (
        "i_health_monitor_project_id",
        "health_monitor",
        &["project_id"],
        false,
    ),
    (
        "i_l7policy_listener_id",
        "l7policy",
        &["listener_id"],
        false,
    ),
    ("i_l7policy_project_id", "l7policy", &["project_id"], false),
    (
        "i_l7policy_redirect_pool_id",
        "l7policy",
        &["redirect_pool_id"],
        false,
    ),
    ("i_l7rule_l7policy_id", "l7rule", &["l7policy_id"], false),
    ("i_l7rule_project_id", "l7rule", &["project_id"], false),
    ("i_tag_tag", "tag", &["tag"], false),
    (
        "i_amphora_load_balancer_id",
        "amphora",
        &["load_balancer_id"],
        false,
    ),
    ("i_amphora_status", "amphora", &["status"], false),
    (
        "i_amphora_health_last_beat",
        "amphora_health",
        &["last_beat"],
        false,
    ),
    (
        "i_listener_statistics_listener_id",
        "listener_statistics",
        &["listener_id"],
        false,
    ),
    ("i_flow_state", "flow", &["state"], false),
    (
        "i_flow_load_balancer_id",
        "flow",
        &["load_balancer_id"],
        false,
    ),
];
