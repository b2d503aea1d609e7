//! Which flow has which steps.

use crate::db::query::flow::FlowKind;

/// All kinds.
pub const ALL: [FlowKind; 8] = [
    FlowKind::CreateLoadBalancer,
    FlowKind::UpdateLoadBalancer,
    FlowKind::DeleteLoadBalancer,
    FlowKind::UpdateTree,
    FlowKind::FailoverLoadBalancer,
    FlowKind::FailoverAmphora,
    FlowKind::RotateCertificate,
    FlowKind::DeleteAmphora,
];

/// One step of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Unique in its flow; in the journal, the logs and the crash points.
    pub name: &'static str,
    /// What it does.
    pub action: Action,
    /// Which round of replacing it belongs to (see [`Action`]); 0 in flows with one round.
    pub round: usize,
}

/// What a step does. Those about new amphorae read the plan that `Allocate` of the same round left
/// in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Plans which amphorae go and come; makes rows, ports and addresses for those that come.
    Allocate,
    /// Boots the new amphorae with fresh certificates, all at once.
    Boot,
    /// Waits until their agents answer, under the right names.
    Connect,
    /// Ends the amphorae that go: first politely, so that the VIP moves without waiting, then by force.
    Fence,
    /// Composes the desired states, plugs NICs, pushes to all amphorae at once.
    Push,
    /// Waits until an amphora owns the VIP and the others are fit to take over.
    Ready,
    /// Removes rows and ports of the amphorae that are gone.
    Retire,
    /// Unplugs NICs that nobody needs, settles the statuses: ACTIVE, or row removed.
    Finish,
    /// Ends all amphorae of the load balancer.
    Stop,
    /// Removes everything that the load balancer had; it becomes DELETED.
    Remove,
    /// Gives an amphora a new certificate.
    Certificate,
    /// Ends the one amphora of the payload and removes its row and ports.
    End,
}

const fn step(name: &'static str, action: Action) -> Step {
    Step {
        name,
        action,
        round: 0,
    }
}

const fn second(name: &'static str, action: Action) -> Step {
    Step {
        name,
        action,
        round: 1,
    }
}

const CREATE: &[Step] = &[
    step("allocate", Action::Allocate),
    step("boot", Action::Boot),
    step("connect", Action::Connect),
    step("push", Action::Push),
    step("ready", Action::Ready),
    step("finish", Action::Finish),
];

const UPDATE: &[Step] = &[step("push", Action::Push), step("finish", Action::Finish)];

const DELETE: &[Step] = &[step("stop", Action::Stop), step("remove", Action::Remove)];

const FAILOVER: &[Step] = &[
    step("allocate", Action::Allocate),
    step("boot", Action::Boot),
    step("connect", Action::Connect),
    step("fence", Action::Fence),
    step("push", Action::Push),
    step("ready", Action::Ready),
    step("retire", Action::Retire),
    step("finish", Action::Finish),
];

/// First those that do not hold the VIP, then the others, so that the VIP moves once.
const FAILOVER_ALL: &[Step] = &[
    step("allocate", Action::Allocate),
    step("boot", Action::Boot),
    step("connect", Action::Connect),
    step("fence", Action::Fence),
    step("push", Action::Push),
    step("ready", Action::Ready),
    step("retire", Action::Retire),
    second("allocate-second", Action::Allocate),
    second("boot-second", Action::Boot),
    second("connect-second", Action::Connect),
    second("fence-second", Action::Fence),
    second("push-second", Action::Push),
    second("ready-second", Action::Ready),
    second("retire-second", Action::Retire),
    step("finish", Action::Finish),
];

const ROTATE: &[Step] = &[step("certificate", Action::Certificate)];

const END: &[Step] = &[step("end", Action::End)];

/// The steps of a flow, in order.
pub const fn steps(kind: FlowKind) -> &'static [Step] {
    match kind {
        FlowKind::CreateLoadBalancer => CREATE,
        FlowKind::UpdateLoadBalancer | FlowKind::UpdateTree => UPDATE,
        FlowKind::DeleteLoadBalancer => DELETE,
        FlowKind::FailoverLoadBalancer => FAILOVER_ALL,
        FlowKind::FailoverAmphora => FAILOVER,
        FlowKind::RotateCertificate => ROTATE,
        FlowKind::DeleteAmphora => END,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_in_a_flow() {
        for kind in ALL {
            let names: HashSet<&str> = steps(kind).iter().map(|step| step.name).collect();
            assert_eq!(names.len(), steps(kind).len(), "{kind:?}");
        }
    }
}
