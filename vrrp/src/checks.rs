//! Checks that programs of the operator make and report on the control socket. We run none of them.

use krater_model::FieldError;
use krater_model::control::CheckStatus;
use krater_model::state::TrackCheck;
use krater_vrrp_proto::check::Check;
use krater_vrrp_proto::{Router, Time};
use std::collections::BTreeMap;
use std::sync::Arc;
use tracing::{info, warn};

/// Checks of all routers, by name.
#[derive(Debug, Default)]
pub(crate) struct Checks(BTreeMap<String, Check>);

impl Checks {
    /// Those that these routers track; what was reported of one that stays, stays.
    pub(crate) fn set(&mut self, routers: &[Arc<Router>]) {
        let all = || {
            routers
                .iter()
                .flat_map(|router| &router.plain().track_checks)
        };
        self.0
            .retain(|name, _| all().any(|check| check.name == *name));
        for settings in all() {
            match self.0.get_mut(&settings.name) {
                Some(check) => check.configure(settings),
                None => {
                    let check = Check::new(settings);
                    self.0.insert(settings.name.clone(), check);
                }
            }
        }
    }

    /// Whether the check of this name is up.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Check::is_up)
    }

    /// Takes a report in. Whether the state changed.
    pub(crate) fn report(&mut self, name: &str, up: bool, now: Time) -> Result<bool, FieldError> {
        let Some(check) = self.0.get_mut(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let why = match known.as_slice() {
                [] => "no virtual router tracks a check".to_owned(),
                some => format!(
                    "{name:?} is tracked by no virtual router: use one of {}",
                    some.join(", ")
                ),
            };
            return Err(FieldError::new("name", why));
        };
        let before = check.is_up();
        check.report(up, now);
        let after = check.is_up();
        if before != after {
            info!(check = name, up = after, "check changed");
        }
        Ok(before != after)
    }

    /// When [`Checks::work`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.0.values().filter_map(Check::poll_timeout).min()
    }

    /// Whether silence changed one.
    pub(crate) fn work(&mut self, now: Time) -> bool {
        let mut changed = false;
        for (name, check) in &mut self.0 {
            let before = check.is_up();
            check.timeout(now);
            if before && !check.is_up() {
                warn!(check = name, "check not reported in time: down");
                changed = true;
            }
        }
        changed
    }

    /// For the control socket.
    pub(crate) fn status(&self, now: Time) -> Vec<CheckStatus> {
        let all = self.0.iter().map(|(name, check)| CheckStatus {
            name: name.clone(),
            up: check.is_up(),
            fresh_ms: check
                .poll_timeout()
                .map(|until| (until - now).micros() / 1_000),
        });
        all.collect()
    }
}

/// Checks of one name are one check.
pub(crate) fn agree<'a>(
    all: impl Iterator<Item = (usize, usize, &'a TrackCheck)>,
) -> Result<(), FieldError> {
    let mut first: BTreeMap<&str, (usize, &TrackCheck)> = BTreeMap::new();
    for (router, at, check) in all {
        let (other, known) = *first.entry(&check.name).or_insert((router, check));
        let same = (check.rise, check.fall, check.fresh) == (known.rise, known.fall, known.fresh);
        if !same {
            let why = format!(
                "another rise, fall or fresh than {} has in routers[{other}]",
                check.name
            );
            return Err(FieldError::new(
                format!("routers[{router}].track_checks[{at}]"),
                why,
            ));
        }
    }
    Ok(())
}
