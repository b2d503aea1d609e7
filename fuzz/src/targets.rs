//! The targets.

mod api;
mod guest;
mod http;
mod image;
mod model;
mod proxy;
mod qmp;
mod secrets;
mod vrrp;

/// Takes any bytes; panics when a promise is broken.
pub type Target = fn(&[u8]);

/// Name, which is also the corpus folder, and function.
pub const TARGETS: &[(&str, Target)] = &[
    ("api_body", api::body),
    ("api_query", api::query),
    ("krater_toml", model::krater_toml),
    ("tokens_toml", model::tokens_toml),
    ("policy_yaml", model::policy_yaml),
    ("heartbeat", model::heartbeat),
    ("desired_state", model::desired_state),
    ("agent_toml", model::agent_toml),
    ("amphora_toml", model::amphora_toml),
    ("progress", model::progress),
    ("dns_answer", model::dns_answer),
    ("resolv_conf", model::resolv_conf),
    ("http1_request", http::request),
    ("http1_response", http::response),
    ("http1_chunked", http::chunked),
    ("l7_program", http::l7_program),
    ("proxy_header", proxy::header),
    ("qmp_session", qmp::session),
    ("vrrp_packet", vrrp::packet),
    ("stored_certificate", secrets::stored_certificate),
    ("pkcs12_file", secrets::pkcs12_file),
    ("vrrp_heartbeat", vrrp::heartbeat),
    ("deb_package", image::deb_package),
    ("kernel_module", image::kernel_module),
    ("bios_installer", image::installer),
    ("efi_stub", image::efi_stub),
    ("image_lock", image::image_lock),
    ("meta_data", guest::meta_data),
    ("network_data", guest::network_data),
    ("cloud_config", guest::cloud_config),
    ("module_order", guest::module_order),
    ("disk_label", guest::disk_label),
    ("uevent", guest::uevent),
    ("dhcp_packet", guest::dhcp_packet),
];

/// By name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|t| t.0 == name).map(|t| t.1)
}
