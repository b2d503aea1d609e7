//! How long things may take, by what amphorae are made of.

use crate::config::Drivers;
use std::time::Duration;

/// Goals are good enough values in milliseconds (memory: megabytes); a step that is later than `…within` has failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// create → ACTIVE of a pair.
    pub(super) create_goal: Option<f64>,
    /// A listener or member change in effect on both amphorae.
    pub(super) change_goal: Option<f64>,
    /// Outage when the active dies, at advertisements of 100 ms and of 10 ms.
    pub(super) outage_goal: Option<[f64; 2]>,
    /// Kill → pair complete.
    pub(super) pair_goal: Option<f64>,
    /// Resident memory of all processes of an idle amphora.
    pub(super) memory_goal: Option<f64>,
    /// An ordinary request's deadline.
    pub(super) request_within: Duration,
    /// How long a change may take until the load balancer is ACTIVE again; the creation too.
    pub(super) active_within: Duration,
    /// A standby that has not taken over by then does not work; how fast it is, is another question.
    pub(super) takeover_within: Duration,
    /// A replacement that is not there by then does not come.
    pub(super) pair_within: Duration,
    /// A stopped member still in use by then is not monitored.
    pub(super) leave_within: Duration,
    /// Probes before the kill: they show what no outage looks like.
    pub(super) baseline: Duration,
    /// One probe is started in each of these.
    pub(super) probe_every: Duration,
    /// Fewer probes than this in the baseline show nothing.
    pub(super) fewest_probes: usize,
    /// Processes of an amphora on this host, at least.
    pub(super) processes: usize,
}

impl Limits {
    /// Of a driver.
    pub(super) const fn of(drivers: Drivers) -> Self {
        match drivers {
            Drivers::Netns | Drivers::Noop => Self::NETNS,
            Drivers::Qemu => Self::QEMU,
        }
    }

    const NETNS: Self = Self {
        create_goal: Some(1_500.0),
        change_goal: Some(100.0),
        outage_goal: Some([400.0, 60.0]),
        pair_goal: Some(10_000.0),
        memory_goal: Some(30.0),
        request_within: Duration::from_secs(2),
        active_within: Duration::from_secs(30),
        takeover_within: Duration::from_secs(3),
        pair_within: Duration::from_secs(30),
        leave_within: Duration::from_secs(15),
        baseline: Duration::from_millis(500),
        probe_every: Duration::from_millis(1),
        fewest_probes: 100,
        // Agent, data plane, vrrp.
        processes: 3,
    };

    /// No goals: under TCG everything is slow by a factor that is the host's. A machine is up in 5 to 30 s and
    /// serves a hundred new connections a second.
    const QEMU: Self = Self {
        create_goal: None,
        change_goal: None,
        outage_goal: None,
        pair_goal: None,
        memory_goal: None,
        request_within: Duration::from_secs(15),
        active_within: Duration::from_secs(180),
        takeover_within: Duration::from_secs(30),
        pair_within: Duration::from_secs(180),
        leave_within: Duration::from_secs(60),
        baseline: Duration::from_secs(2),
        probe_every: Duration::from_millis(50),
        fewest_probes: 20,
        // The machine and the writer of its console.
        processes: 2,
    };
}
