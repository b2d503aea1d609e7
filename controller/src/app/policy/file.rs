//! Policy overrides: `NAME: "RULE"` on each line, as oslo.policy's YAML files have them. Pure.
//!
//! Of YAML what such files use: comments, a first `---`, plain and quoted keys and values on one line. Anything else is
//! refused with its line, and so is a name that nothing asks for: a misspelt override would leave a door as it is.

use super::check::Check;
use super::{Identity, Rule};
use krater_model::FieldError;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

/// Longest file in bytes.
const MAX_FILE: usize = 256 * 1024;
/// Checks that one rule may come to with all the rules that it names: each request evaluates some.
const MAX_COST: u64 = 10_000;
/// Rules that may name one another in a row.
const MAX_CHAIN: usize = 32;

/// Rules that files may name and change, besides those of the endpoints.
const BASE: [(&str, Base); 8] = [
    ("load-balancer:read", Base::Of(Rule::Read)),
    ("load-balancer:read-global", Base::ReadsAll),
    ("load-balancer:write", Base::Of(Rule::Write)),
    ("load-balancer:read-quota", Base::Of(Rule::ReadQuota)),
    ("load-balancer:read-quota-global", Base::ReadsAllQuotas),
    ("load-balancer:write-quota", Base::Of(Rule::WriteQuota)),
    ("load-balancer:admin", Base::Of(Rule::Admin)),
    ("load-balancer:owner", Base::Owner),
];

#[derive(Debug, Clone, Copy)]
enum Base {
    Of(Rule),
    ReadsAll,
    ReadsAllQuotas,
    Owner,
}

/// What a file changes; as shipped nothing.
#[derive(Clone, Default)]
pub struct Overrides(HashMap<String, Check>);

impl fmt::Debug for Overrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rules", self.0.len())
    }
}

impl Overrides {
    /// Reads the file; `known` are the names of the endpoints' rules.
    ///
    /// # Errors
    /// Unreadable, or one of [`Self::parse`].
    pub fn load(path: &Path, known: &BTreeSet<String>) -> Result<Self, FieldError> {
        let refuse =
            |why: String| FieldError::new("api.policy", format!("{}: {why}", path.display()));
        let length = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
        if length.len() > u64::try_from(MAX_FILE).unwrap_or(u64::MAX) {
            return Err(refuse(format!("longer than {MAX_FILE} bytes")));
        }
        let text = std::fs::read_to_string(path).map_err(|error| refuse(error.to_string()))?;
        Self::parse(&text, known).map_err(refuse)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// Not the YAML described above, no rule, a name twice, a rule that is not there, a circle.
    pub fn parse(text: &str, known: &BTreeSet<String>) -> Result<Self, String> {
        if text.len() > MAX_FILE {
            return Err(format!("longer than {MAX_FILE} bytes"));
        }
        let mut rules = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let at = |why: String| format!("line {}: {why}", number + 1);
            let Some((name, rule)) = entry(line, number == 0).map_err(at)? else {
                continue;
            };
            let check = Check::parse(&rule).map_err(|why| at(format!("{name}: {why}")))?;
            if rules.insert(name.clone(), check).is_some() {
                return Err(at(format!("{name} stands on an earlier line too")));
            }
        }
        let is_base = |name: &str| BASE.iter().any(|(base, _)| *base == name);
        let named: BTreeSet<&str> = rules.values().flat_map(Check::rules).collect();
        for name in &named {
            if !rules.contains_key(*name) && !is_base(name) {
                return Err(format!("rule:{name}: there is no such rule"));
            }
        }
        for name in rules.keys() {
            if !known.contains(name) && !is_base(name) && !named.contains(name.as_str()) {
                return Err(format!(
                    "{name}: nothing asks for this rule; use the names of upstream's documentation, such as \
                     os_load-balancer_api:loadbalancer:post"
                ));
            }
        }
        let mut costs = BTreeMap::new();
        for name in rules.keys() {
            cost(name, &rules, &mut costs, 0)?;
        }
        Ok(Self(rules.into_iter().collect()))
    }

    /// Whether the endpoint that `name` is the rule of allows `who` something of `project`; `rule` is its rule as shipped.
    pub fn may(
        &self,
        who: &Identity,
        name: Option<&str>,
        rule: Rule,
        project: Option<&str>,
    ) -> bool {
        if self.0.is_empty() {
            return who.may(rule, project);
        }
        match name.and_then(|name| self.0.get(name)) {
            Some(check) => self.holds(check, who, project),
            None => {
                let base = BASE
                    .iter()
                    .find(|(_, base)| matches!(base, Base::Of(of) if *of == rule));
                base.map_or_else(
                    || who.may(rule, project),
                    |base| self.named(base.0, who, project),
                )
            }
        }
    }

    /// Whether `who` sees what belongs to all projects, where `name` is the rule for that.
    pub fn reads_all(&self, who: &Identity, name: Option<&str>) -> bool {
        match name.and_then(|name| self.0.get(name)) {
            Some(check) => self.holds(check, who, None),
            None => self.named("load-balancer:read-global", who, None),
        }
    }

    /// Whether `who` sees the quotas of all projects.
    pub fn reads_all_quotas(&self, who: &Identity) -> bool {
        match self.0.get("os_load-balancer_api:quota:get_all-global") {
            Some(check) => self.holds(check, who, None),
            None => self.named("load-balancer:read-quota-global", who, None),
        }
    }

    fn holds(&self, check: &Check, who: &Identity, project: Option<&str>) -> bool {
        check.holds(
            &|role| who.has_role(role),
            &|rule| self.named(rule, who, project),
            who.owns(project),
        )
    }

    /// A rule by its name: the file's, else the one as shipped.
    fn named(&self, name: &str, who: &Identity, project: Option<&str>) -> bool {
        if let Some(check) = self.0.get(name) {
            return self.holds(check, who, project);
        }
        match BASE.iter().find(|(base, _)| *base == name) {
            Some((_, Base::Of(rule))) => who.may(*rule, project),
            Some((_, Base::ReadsAll)) => who.reads_all(),
            Some((_, Base::ReadsAllQuotas)) => who.reads_all_quotas(),
            Some((_, Base::Owner)) => who.owns(project),
            None => false,
        }
    }
}

/// Checks that a rule comes to. Refuses circles: their rules have no cost yet when they are met again.
fn cost(
    name: &str,
    rules: &BTreeMap<String, Check>,
    costs: &mut BTreeMap<String, Option<u64>>,
    depth: usize,
) -> Result<u64, String> {
    if depth > MAX_CHAIN {
        return Err(format!(
            "rule:{name}: more than {MAX_CHAIN} rules name one another in a row"
        ));
    }
    match costs.get(name) {
        Some(Some(known)) => return Ok(*known),
        Some(None) => return Err(format!("rule:{name} comes to itself again")),
        None => {}
    }
    let Some(check) = rules.get(name) else {
        return Ok(1);
    };
    costs.insert(name.to_owned(), None);
    let mut sum = 1_u64;
    for rule in check.rules() {
        sum = sum.saturating_add(cost(rule, rules, costs, depth + 1)?);
    }
    if sum > MAX_COST {
        return Err(format!("{name} comes to more than {MAX_COST} checks"));
    }
    costs.insert(name.to_owned(), Some(sum));
    Ok(sum)
}

/// Name and rule of a line; none: it has neither.
fn entry(line: &str, first: bool) -> Result<Option<(String, String)>, String> {
    let trimmed = line.trim();
    if trimmed.is_empty() || trimmed.starts_with('#') || first && trimmed == "---" {
        return Ok(None);
    }
    if line.starts_with([' ', '\t']) {
        return Err("is indented: a rule stands on one line".to_owned());
    }
    let (name, rest) = scalar(trimmed, true)?;
    let rest = rest.trim_start();
    let rest = rest
        .strip_prefix(':')
        .ok_or("a colon and a rule must follow the name")?;
    if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
        return Err("a blank must follow the colon".to_owned());
    }
    let (rule, rest) = match rest.trim_start() {
        "" => return Err(format!("{name} has no rule: write \"\" for everybody")),
        value => scalar(value, false)?,
    };
    let rest = rest.trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err(format!("{rest:?} is where the line should end"));
    }
    Ok(Some((name, rule)))
}

/// A quoted or plain text, and what follows it.
fn scalar(text: &str, key: bool) -> Result<(String, &str), String> {
    if let Some(inner) = text.strip_prefix('"') {
        let mut value = String::new();
        let mut rest = inner.chars();
        while let Some(c) = rest.next() {
            match c {
                '"' => return Ok((value, rest.as_str())),
                '\\' => match rest.next() {
                    Some(c @ ('"' | '\\')) => value.push(c),
                    _ => return Err("only \\\" and \\\\ are understood after a backslash".into()),
                },
                c => value.push(c),
            }
        }
        return Err("a quotation mark is not closed".to_owned());
    }
    if let Some(mut rest) = text.strip_prefix('\'') {
        let mut value = String::new();
        loop {
            let Some((part, after)) = rest.split_once('\'') else {
                return Err("a quotation mark is not closed".to_owned());
            };
            value.push_str(part);
            match after.strip_prefix('\'') {
                Some(more) => {
                    value.push('\'');
                    rest = more;
                }
                None => return Ok((value, after)),
            }
        }
    }
    // What begins otherwise in YAML: lists, maps, anchors, tags, block texts.
    if text.starts_with([
        '-', '?', '[', ']', '{', '}', ',', '&', '*', '|', '>', '%', '`', '!', '@',
    ]) {
        return Err(format!("quote {text:?}"));
    }
    let end = if key {
        // A plain key may have colons in it: the one before a blank ends it.
        let blank = text.find(": ").or_else(|| text.find(":\t"));
        blank.or_else(|| text.strip_suffix(':').map(str::len))
    } else {
        Some(text.find(" #").unwrap_or(text.len()))
    };
    let end = end.ok_or("a colon and a rule must follow the name")?;
    let (value, rest) = text.split_at(end);
    Ok((value.trim_end().to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        ["post", "get_all", "get_one", "delete"]
            .map(|verb| format!("os_load-balancer_api:loadbalancer:{verb}"))
            .into()
    }

    fn who(role: &str) -> Identity {
        Identity::new("u".into(), "own".into(), [role.to_owned()])
    }

    const POST: Option<&str> = Some("os_load-balancer_api:loadbalancer:post");

    #[test]
    fn without_a_file_all_is_as_shipped() {
        let none = Overrides::default();
        for rule in [Rule::Read, Rule::Write, Rule::Admin, Rule::ReadQuota] {
            for role in ["reader", "member", "admin", "load-balancer_quota_admin"] {
                for project in [None, Some("own"), Some("foreign")] {
                    let who = who(role);
                    assert_eq!(none.may(&who, POST, rule, project), who.may(rule, project));
                    assert_eq!(none.reads_all(&who, None), who.reads_all());
                }
            }
        }
    }

    #[test]
    fn a_file_changes_endpoints_and_the_rules_that_they_share() {
        let text = "---\n# who makes load balancers\n\
            os_load-balancer_api:loadbalancer:post: role:builder and rule:ours  # nobody else\n\
            \"load-balancer:write\": 'role:operator or (role:member and project_id:%(project_id)s)'\n\
            \n'ours': \"rule:load-balancer:owner\"\nload-balancer:read-global: \"role:auditor\"\n";
        let file = Overrides::parse(text, &known()).unwrap();
        assert_eq!(format!("{file:?}"), "4 rules");
        let may = |role: &str, name, rule, project| file.may(&who(role), name, rule, Some(project));
        assert!(may("builder", POST, Rule::Write, "own"));
        assert!(
            may("BUILDER", POST, Rule::Write, "own"),
            "case does not matter"
        );
        assert!(!may("builder", POST, Rule::Write, "foreign"));
        assert!(!may("admin", POST, Rule::Write, "own"));
        // Another endpoint that is written to.
        assert!(may("operator", None, Rule::Write, "foreign"));
        assert!(may("member", None, Rule::Write, "own"));
        assert!(!may("member", None, Rule::Write, "foreign"));
        assert!(!may("load-balancer_admin", None, Rule::Write, "own"));
        // What the file does not name.
        assert!(may("load-balancer_admin", None, Rule::Admin, "own"));
        assert!(file.reads_all(&who("auditor"), None));
        assert!(!file.reads_all(&who("admin"), None));
    }

    #[test]
    fn refusals_name_line_and_fault() {
        let deep: String = (0..20)
            .map(|n| format!("r{n}: rule:r{0} and rule:r{0}\n", n + 1))
            .collect();
        let chain: String = (0..40)
            .map(|n| format!("c{n}: rule:c{}\n", n + 1))
            .collect();
        let chain = format!("{chain}c40: role:x\nload-balancer:write: rule:c0");
        for (text, said) in [
            (
                "os_load-balancer_api:loadbalancer:pots: '@'",
                "nothing asks",
            ),
            ("load-balancer:write: rule:none", "rule:none"),
            (
                "load-balancer:write: role:a\nload-balancer:write: role:b",
                "line 2",
            ),
            ("load-balancer:write: rule:load-balancer:write", "itself"),
            (
                "load-balancer:write: rule:a\na: rule:b\nb: rule:a",
                "itself",
            ),
            ("load-balancer:write:", "has no rule"),
            ("load-balancer:write", "line 1: a colon"),
            ("\"load-balancer:write\":'@'", "a blank"),
            ("load-balancer:write: \"role:a", "not closed"),
            ("load-balancer:write: \"role:a\" role:b", "where the line"),
            ("load-balancer:write: 'role:a", "not closed"),
            ("load-balancer:write: \"\\n\"", "backslash"),
            ("load-balancer:write: >", "quote"),
            ("load-balancer:write: @", "quote"),
            ("- role:a", "quote"),
            (
                "load-balancer:write: \"@\"\n  more: x",
                "line 2: is indented",
            ),
            ("load-balancer:write: is_admin:True", "is_admin:True"),
            (&chain, "in a row"),
            (
                &format!("{deep}r20: role:x\nload-balancer:write: rule:r0"),
                "10000 checks",
            ),
        ] {
            let why = Overrides::parse(text, &known()).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
    }
}
