//! L7 policies, compiled once per snapshot and evaluated per request.
//!
//! The effective order is HAProxy's (spec/octavia-agent.md section 5.2): every REJECT before every
//! redirect to a URL or prefix, and these before REDIRECT_TO_POOL; `position` orders within a class.
//!
//! Cost: policies whose rules demand an exact host, an exact path or a path prefix are found by
//! hash, so that a hundred of them cost a few look-ups; the others are tried in turn.

use crate::exchange::{ClientInfo, Decision, RequestView};
use krater_model::state::{L7Action, L7Policy, L7Rule, L7Subject};
use krater_model::{FieldError, PoolId};
use std::collections::{BTreeSet, HashMap};

mod rule;

#[cfg(test)]
mod tests;

pub(crate) use rule::cookies;
use rule::{Key, Rule, Scratch};

/// Classes in the order in which they are tried.
const CLASSES: usize = 3;

/// Compiled policies of one listener.
#[derive(Debug, Default)]
pub struct Program {
    classes: [Class; CLASSES],
}

#[derive(Debug, Default)]
struct Class {
    /// In order of position.
    policies: Vec<Policy>,
    /// Policies that need this host, by index.
    by_host: HashMap<Box<[u8]>, Vec<usize>>,
    /// Policies that need this path.
    by_path: HashMap<Box<[u8]>, Vec<usize>>,
    /// Policies that need a path that begins so.
    by_prefix: HashMap<Box<[u8]>, Vec<usize>>,
    /// Lengths of the keys of `by_prefix`.
    prefix_lengths: BTreeSet<usize>,
    /// All others.
    rest: Vec<usize>,
}

#[derive(Debug)]
struct Policy {
    action: Action,
    rules: Vec<Rule>,
}

#[derive(Debug)]
enum Action {
    Reject,
    Pool(PoolId),
    Redirect {
        code: u16,
        location: Box<str>,
        append_path: bool,
    },
}

/// Compiles the policies of a listener; every pool counts as usable.
pub fn compile(policies: &[L7Policy]) -> Result<Program, FieldError> {
    compile_with(policies, |_| true)
}

/// Compiles the policies of a listener. A redirect to a pool that is not `usable` (disabled) takes
/// no request, as with Octavia.
pub fn compile_with(
    policies: &[L7Policy],
    usable: impl Fn(PoolId) -> bool,
) -> Result<Program, FieldError> {
    let mut order: Vec<usize> = (0..policies.len()).collect();
    order.sort_by_key(|i| policies.get(*i).map(|policy| policy.position));
    let mut program = Program::default();
    for at in order {
        let Some(policy) = policies.get(at) else {
            continue;
        };
        let mut rules = Vec::new();
        // Disabled parts are checked too: enabling them later must not fail.
        for (r, rule) in policy.rules.iter().enumerate() {
            let compiled = Rule::compile(rule)
                .map_err(|e| e.within(format!("l7_policies[{at}].rules[{r}]")))?;
            if rule.enabled {
                rules.push((rule, compiled));
            }
        }
        let (class, action) = match &policy.action {
            L7Action::Reject => (0, Action::Reject),
            L7Action::RedirectToUrl { url, code } => (1, redirect(url, code.value(), false)),
            // HAProxy's special case: nothing comes before the path.
            L7Action::RedirectPrefix { prefix, code } => {
                let prefix = if prefix == "/" { "" } else { prefix };
                (1, redirect(prefix, code.value(), true))
            }
            L7Action::RedirectToPool { pool } if usable(*pool) => (2, Action::Pool(*pool)),
            L7Action::RedirectToPool { .. } => continue,
        };
        if policy.enabled && !rules.is_empty() {
            program.classes[class].add(action, rules);
        }
    }
    Ok(program)
}

fn redirect(location: &str, code: u16, append_path: bool) -> Action {
    Action::Redirect {
        code,
        location: location.into(),
        append_path,
    }
}

impl Class {
    fn add(&mut self, action: Action, rules: Vec<(&L7Rule, Rule)>) {
        let index = self.policies.len();
        let key = rules.iter().find_map(|(_, rule)| rule.key());
        match key {
            Some(Key::Host(host)) => self.by_host.entry(host).or_default().push(index),
            Some(Key::Path(path)) => self.by_path.entry(path).or_default().push(index),
            Some(Key::PathPrefix(prefix)) => {
                self.prefix_lengths.insert(prefix.len());
                self.by_prefix.entry(prefix).or_default().push(index);
            }
            None => self.rest.push(index),
        }
        self.policies.push(Policy {
            action,
            rules: rules.into_iter().map(|(_, rule)| rule).collect(),
        });
    }

    /// The first policy, by position, that takes the request.
    fn first<R: RequestView>(&self, scratch: &mut Scratch<'_, R>) -> Option<&Policy> {
        if self.policies.is_empty() {
            return None;
        }
        let mut best = usize::MAX;
        let mut consider = |candidates: &[usize], scratch: &mut Scratch<'_, R>| {
            for index in candidates.iter().take_while(|index| **index < best) {
                let policy = self.policies.get(*index);
                if policy.is_some_and(|p| p.rules.iter().all(|rule| rule.matches(scratch))) {
                    best = *index;
                    break;
                }
            }
        };
        if !self.by_host.is_empty() {
            for found in [
                self.by_host.get(scratch.name()),
                scratch.host().and_then(|host| self.by_host.get(host)),
            ] {
                consider(found.map_or(&[], Vec::as_slice), scratch);
            }
        }
        let path = scratch.request.path();
        if !self.by_path.is_empty() {
            consider(self.by_path.get(path).map_or(&[], Vec::as_slice), scratch);
        }
        for length in self.prefix_lengths.iter().take_while(|l| **l <= path.len()) {
            let prefix = path.get(..*length).unwrap_or_default();
            consider(
                self.by_prefix.get(prefix).map_or(&[], Vec::as_slice),
                scratch,
            );
        }
        consider(&self.rest, scratch);
        self.policies.get(best)
    }
}

impl Program {
    /// Whether it has no policy that could take anything.
    pub fn is_empty(&self) -> bool {
        self.classes.iter().all(|class| class.policies.is_empty())
    }

    /// Decides what to do with a request.
    pub fn evaluate<R: RequestView>(&self, request: &R, client: &ClientInfo<'_>) -> Decision<'_> {
        if self.is_empty() {
            return Decision::Default;
        }
        let mut scratch = Scratch::new(request, client);
        for class in &self.classes {
            if let Some(policy) = class.first(&mut scratch) {
                return match &policy.action {
                    Action::Reject => Decision::Reject,
                    Action::Pool(pool) => Decision::Pool(*pool),
                    Action::Redirect {
                        code,
                        location,
                        append_path,
                    } => Decision::Redirect {
                        code: *code,
                        location,
                        append_path: *append_path,
                    },
                };
            }
        }
        Decision::Default
    }
}

/// Whether rules on `subject` can only ever match on TLS listeners.
pub const fn needs_tls(subject: &L7Subject) -> bool {
    matches!(
        subject,
        L7Subject::SslConnHasCert | L7Subject::SslVerifyResult | L7Subject::SslDnField { .. }
    )
}
