//! What the data plane does at the moment.

use super::Control;
use crate::apply::Applier;
use crate::runtime::Routes;
use krater_dataplane_core::member::Probed;
use krater_model::control::{
    DataplaneStatus, ListenerState, ListenerStatus, MemberStatus, PoolStatus,
};

/// Members that get traffic, and members configured.
pub(super) fn members(routes: &Routes) -> (u32, u32) {
    let (mut up, mut total) = (0_u32, 0_u32);
    for pool in routes.pools.values() {
        for member in &pool.members {
            total = total.saturating_add(1);
            if pool.conf.enabled && member.state.is_candidate(&member.conf) {
                up = up.saturating_add(1);
            }
        }
    }
    (up, total)
}

/// For `GET /status`, in the order of the snapshot.
pub(super) fn status(control: &Control, applier: &Applier) -> DataplaneStatus {
    let routes = control.shared.routes();
    let mut status = DataplaneStatus {
        version: control.version.clone(),
        pid: std::process::id(),
        revision: routes.table.as_ref().map(|table| table.revision),
        snapshots_alive: u32::try_from(applier.alive()).unwrap_or(u32::MAX),
        listeners: Vec::new(),
        pools: Vec::new(),
    };
    let Some(table) = &routes.table else {
        return status;
    };
    for conf in &table.listeners {
        let Some(view) = routes.listeners.get(&conf.id) else {
            continue;
        };
        let state = match applier.failure(conf.id) {
            _ if !conf.enabled => ListenerState::Disabled,
            Some(why) => ListenerState::Failed(why.clone()),
            None if view.runtime.is_full(conf.connection_limit) => ListenerState::Full,
            None => ListenerState::Open,
        };
        status.listeners.push(ListenerStatus {
            id: conf.id,
            name: conf.label.clone(),
            load_balancer_id: conf.load_balancer_id,
            state,
            stats: view.runtime.snapshot(),
            dropped_ciphers: match &view.tls {
                Some(Ok(terminator)) => terminator.dropped_ciphers().to_vec(),
                _ => Vec::new(),
            },
        });
    }
    for conf in &table.pools {
        let Some(view) = routes.pools.get(&conf.id) else {
            continue;
        };
        let members = view.members.iter().map(|member| MemberStatus {
            id: member.conf.id,
            name: member.conf.label.clone(),
            health: member.state.health(&member.conf),
            reason: match member.state.probed() {
                _ if member.conf.down.is_some() => member.conf.down.clone().unwrap_or_default(),
                _ if member.state.is_set() => "set by amphora ctl".into(),
                Probed::NoMonitor => "no monitor".into(),
                _ => control.probes.reason(&member.state),
            },
            active_connections: member.state.active(),
            total_connections: member.state.total(),
        });
        status.pools.push(PoolStatus {
            id: conf.id,
            name: conf.label.clone(),
            load_balancer_id: conf.load_balancer_id,
            members: members.collect(),
        });
    }
    status
}
