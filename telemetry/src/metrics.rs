//! Metrics that every process has, and the text form.

use crate::{LogControl, SCHEMA, version};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// `Content-Type` of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Registers what every process tells: `krater_build_info`, `krater_process_resident_bytes`,
/// `krater_log_lines_dropped_total`.
pub fn register_process(registry: &mut Registry, log: LogControl) {
    let labels = vec![
        ("version", version().to_owned()),
        ("schema", SCHEMA.to_string()),
    ];
    registry.register("krater_build", "What runs", Info::new(labels));
    registry.register_collector(Box::new(Process { log }));
}

/// The registry as OpenMetrics text.
pub fn text(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, registry)?;
    Ok(out)
}

/// Resident memory of a process in bytes (`/proc/<pid>/statm`); 0 when it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let pages = std::fs::read_to_string(format!("/proc/{pid}/statm"))
        .ok()
        .and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    let page = page
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok());
    pages.unwrap_or(0) * page.unwrap_or(4_096)
}

#[derive(Debug)]
struct Process {
    log: LogControl,
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let resident = resident_bytes(std::process::id());
        let resident = ConstGauge::new(i64::try_from(resident).unwrap_or(i64::MAX));
        let kind = resident.metric_type();
        let name = "krater_process_resident_bytes";
        resident.encode(encoder.encode_descriptor(name, "Resident memory", None, kind)?)?;
        let dropped = ConstCounter::new(self.log.dropped());
        let kind = dropped.metric_type();
        let name = "krater_log_lines_dropped";
        dropped.encode(encoder.encode_descriptor(name, "Lines not written", None, kind)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::level::{Levels, reloadable};

    #[test]
    fn the_text_has_the_process_families() {
        let (_filter, log) = reloadable(Levels::parse("info").unwrap(), Default::default());
        let mut registry = Registry::default();
        register_process(&mut registry, log);
        let text = text(&registry).unwrap();
        for name in [
            "krater_build_info{version=\"",
            "krater_process_resident_bytes ",
            "krater_log_lines_dropped_total 0",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
        assert!(resident_bytes(std::process::id()) > 0);
        assert_eq!(resident_bytes(u32::MAX), 0);
    }
}
