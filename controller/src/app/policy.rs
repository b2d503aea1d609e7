//! Who may do what: Keystone's default roles and Octavia's advanced ones, as upstream's policies have them. Pure.

use std::collections::BTreeSet;

pub mod check;
pub mod file;

/// Who a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// For logs.
    pub user: String,
    /// Whose objects it works with.
    pub project: String,
    /// What it may do, with all that they imply.
    roles: BTreeSet<String>,
}

/// What an endpoint asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Any token.
    Any,
    /// Reading what belongs to a project, or to nobody.
    Read,
    /// Changing what belongs to a project.
    Write,
    /// Reading a project's quota.
    ReadQuota,
    /// Changing quotas.
    WriteQuota,
    /// Operators.
    Admin,
}

impl Identity {
    /// With the roles that these imply: `admin` is a `member`, who is a `reader`.
    pub fn new(user: String, project: String, given: impl IntoIterator<Item = String>) -> Self {
        let mut roles: BTreeSet<String> = given.into_iter().collect();
        for (role, implied) in [("admin", "member"), ("member", "reader")] {
            if roles.contains(role) {
                roles.insert(implied.to_owned());
            }
        }
        Self {
            user,
            project,
            roles,
        }
    }

    fn has(&self, roles: &[&str]) -> bool {
        roles.iter().any(|role| self.roles.contains(*role))
    }

    /// Whether it has the role, whose case does not matter.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|own| own.eq_ignore_ascii_case(role))
    }

    /// Whether the project is its own; what belongs to nobody counts as that.
    pub fn owns(&self, project: Option<&str>) -> bool {
        project.is_none_or(|project| project == self.project)
    }

    /// Whether it sees the objects of all projects.
    pub fn reads_all(&self) -> bool {
        self.has(&[
            "admin",
            "load-balancer_admin",
            "load-balancer_global_observer",
        ])
    }

    /// Whether it sees the quotas of all projects.
    pub fn reads_all_quotas(&self) -> bool {
        self.reads_all() || self.has(&["load-balancer_quota_admin"])
    }

    /// Whether `rule` allows it something of `project`; none: it belongs to nobody.
    pub fn may(&self, rule: Rule, project: Option<&str>) -> bool {
        let own = self.owns(project);
        let admin = self.has(&["admin", "load-balancer_admin"]);
        let reads = self.has(&["reader", "load-balancer_observer", "load-balancer_member"]);
        match rule {
            Rule::Any => true,
            Rule::Admin => admin,
            Rule::Read => self.reads_all() || own && reads,
            Rule::Write => admin || own && self.has(&["member", "load-balancer_member"]),
            Rule::ReadQuota => self.reads_all_quotas() || own && reads,
            Rule::WriteQuota => admin || self.has(&["load-balancer_quota_admin"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Role, then what it may: own and foreign objects read, written, own and foreign quotas read, quotas written, admin.
    #[test]
    fn each_role_may_what_upstream_lets_it() {
        for (role, may) in [
            ("", "--------"),
            ("service", "--------"),
            ("reader", "r---q---"),
            ("member", "r-w-q---"),
            ("admin", "rRwWqQua"),
            ("load-balancer_observer", "r---q---"),
            ("load-balancer_member", "r-w-q---"),
            ("load-balancer_global_observer", "rR--qQ--"),
            ("load-balancer_quota_admin", "----qQu-"),
            ("load-balancer_admin", "rRwWqQua"),
        ] {
            let who = Identity::new("u".into(), "own".into(), [role.to_owned()]);
            let mut found = String::new();
            for (rule, letters) in [
                (Rule::Read, "rR"),
                (Rule::Write, "wW"),
                (Rule::ReadQuota, "qQ"),
            ] {
                for (project, letter) in ["own", "foreign"].iter().zip(letters.chars()) {
                    found.push(if who.may(rule, Some(project)) {
                        letter
                    } else {
                        '-'
                    });
                }
                assert_eq!(who.may(rule, None), who.may(rule, Some("own")), "{role}");
            }
            for (rule, letter) in [(Rule::WriteQuota, 'u'), (Rule::Admin, 'a')] {
                found.push(if who.may(rule, Some("own")) {
                    letter
                } else {
                    '-'
                });
            }
            assert_eq!(found, may, "{role}");
            assert!(who.may(Rule::Any, Some("foreign")));
        }
    }
}
