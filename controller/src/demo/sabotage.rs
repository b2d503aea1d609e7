//! Breaks one part from outside. A demo that cannot fail shows nothing.

use super::amphora::Amphora;
use super::system::System;
use anyhow::Context;
use nix::sys::signal::Signal;
use serde_json::json;
use std::path::Path;

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// The standby's vrrp process stands still when the active dies; of a virtual machine all.
    Vrrp,
    /// The health monitor is deleted before the member stops.
    Health,
    /// The L7 policy is deleted before requests should follow it.
    L7,
    /// A member gets weight 0 before traffic should be spread evenly.
    Balance,
    /// The controller stands still when the active dies.
    Failover,
    /// Amphorae are told to trust another authority than the one that signed the controller's certificate.
    Mtls,
}

/// Replaces the authority that amphorae trust by another; the controller is not running.
pub(super) fn swap_authority(state_dir: &Path) -> anyhow::Result<()> {
    for kind in ["pem", "key"] {
        let (from, to) = (format!("server-ca.{kind}"), format!("client-ca.{kind}"));
        let pki = state_dir.join("pki");
        std::fs::copy(pki.join(&from), pki.join(&to))
            .with_context(|| format!("copy {from} to {to}"))?;
    }
    Ok(())
}

impl Sabotage {
    /// After the load balancer is configured, before traffic.
    pub(super) fn before_traffic(self, system: &System) -> anyhow::Result<()> {
        match self {
            Self::Health => system.change(
                "DELETE",
                &format!("healthmonitors/{}", system.ids.monitor),
                None,
            ),
            Self::L7 => system.change("DELETE", &format!("l7policies/{}", system.ids.policy), None),
            Self::Balance => {
                let path = format!(
                    "pools/{}/members/{}",
                    system.ids.web_pool,
                    system.ids.member(1)?
                );
                system.change("PUT", &path, Some(json!({"member": {"weight": 0}})))
            }
            Self::Vrrp | Self::Failover | Self::Mtls => Ok(()),
        }
    }

    /// Just before the active amphora dies.
    pub(super) fn before_death(self, system: &mut System, standby: &Amphora) -> anyhow::Result<()> {
        match self {
            Self::Vrrp => Ok(standby.vrrp()?.signal(Signal::SIGSTOP as i32)?),
            Self::Failover => {
                let controller = system.host.child("controller")?.id();
                Ok(krater_net::process::ProcessId::of(controller)?
                    .signal(Signal::SIGSTOP as i32)?)
            }
            _ => Ok(()),
        }
    }
}
