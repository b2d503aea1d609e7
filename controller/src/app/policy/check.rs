//! The language of policy rules: what of oslo.policy's operators write into override files. Pure.
//!
//! `@` and an empty text (always), `!` (never), `role:NAME`, `rule:NAME`, `project_id:%(project_id)s`, `not`, `and`, `or`
//! in this order of binding, and parentheses.

/// Deepest nesting of parentheses and `not`.
const MAX_DEPTH: usize = 16;
/// Longest name of a role or rule.
const MAX_NAME: usize = 128;

/// What a rule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Everybody.
    Always,
    /// Nobody.
    Never,
    /// Who has the role; case does not matter.
    Role(String),
    /// Whom another rule allows.
    Rule(String),
    /// Whose project the object's is.
    OwnProject,
    /// Everybody else.
    Not(Box<Self>),
    /// All of them.
    All(Vec<Self>),
    /// One of them.
    Any(Vec<Self>),
}

impl Check {
    /// Reads a rule's text; the error says what is wrong with it.
    ///
    /// # Errors
    /// A word that is none, parentheses that do not match, too deep.
    pub fn parse(text: &str) -> Result<Self, String> {
        let words = words(text);
        if words.is_empty() {
            return Ok(Self::Always);
        }
        let mut parser = Parser {
            words: &words,
            depth: 0,
        };
        let check = parser.any()?;
        match parser.words.first() {
            None => Ok(check),
            Some(word) => Err(format!(
                "{word:?} is where `and`, `or` or the end should be"
            )),
        }
    }

    /// Whether it holds, where `role` and `rule` answer for names, and `own` for the project.
    pub fn holds(
        &self,
        role: &impl Fn(&str) -> bool,
        rule: &impl Fn(&str) -> bool,
        own: bool,
    ) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Role(name) => role(name),
            Self::Rule(name) => rule(name),
            Self::OwnProject => own,
            Self::Not(check) => !check.holds(role, rule, own),
            Self::All(checks) => checks.iter().all(|check| check.holds(role, rule, own)),
            Self::Any(checks) => checks.iter().any(|check| check.holds(role, rule, own)),
        }
    }

    /// Names of the rules in it.
    pub fn rules(&self) -> Vec<&str> {
        match self {
            Self::Rule(name) => vec![name],
            Self::Not(check) => check.rules(),
            Self::All(checks) | Self::Any(checks) => checks.iter().flat_map(Self::rules).collect(),
            Self::Always | Self::Never | Self::Role(_) | Self::OwnProject => Vec::new(),
        }
    }
}

/// Words, and parentheses at their ends: one inside a word belongs to it, as in `%(project_id)s`.
fn words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    for mut word in text.split_whitespace() {
        while let Some(rest) = word.strip_prefix('(') {
            words.push("(");
            word = rest;
        }
        let inner = word.trim_end_matches(')');
        if !inner.is_empty() {
            words.push(inner);
        }
        words.extend(
            word.get(inner.len()..)
                .unwrap_or_default()
                .chars()
                .map(|_| ")"),
        );
    }
    words
}

struct Parser<'a> {
    words: &'a [&'a str],
    depth: usize,
}

impl Parser<'_> {
    fn takes(&mut self, wanted: &str) -> bool {
        match self.words.split_first() {
            Some((word, rest)) if word.eq_ignore_ascii_case(wanted) => {
                self.words = rest;
                true
            }
            _ => false,
        }
    }

    fn any(&mut self) -> Result<Check, String> {
        let mut checks = vec![self.all()?];
        while self.takes("or") {
            checks.push(self.all()?);
        }
        Ok(single(checks, Check::Any))
    }

    fn all(&mut self) -> Result<Check, String> {
        let mut checks = vec![self.one()?];
        while self.takes("and") {
            checks.push(self.one()?);
        }
        Ok(single(checks, Check::All))
    }

    fn one(&mut self) -> Result<Check, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!("nested deeper than {MAX_DEPTH}"));
        }
        let check = if self.takes("not") {
            Check::Not(Box::new(self.one()?))
        } else if self.takes("(") {
            let inner = self.any()?;
            if !self.takes(")") {
                return Err("a parenthesis is not closed".to_owned());
            }
            inner
        } else {
            self.word()?
        };
        self.depth -= 1;
        Ok(check)
    }

    fn word(&mut self) -> Result<Check, String> {
        let Some((word, rest)) = self.words.split_first() else {
            return Err("it ends where a check should be".to_owned());
        };
        self.words = rest;
        let named = |name: &str| {
            if name.is_empty() || name.len() > MAX_NAME {
                return Err(format!("{word:?}: a name has 1 to {MAX_NAME} bytes"));
            }
            Ok(name.to_owned())
        };
        match *word {
            "@" => Ok(Check::Always),
            "!" => Ok(Check::Never),
            "project_id:%(project_id)s" => Ok(Check::OwnProject),
            word => match word.split_once(':') {
                Some(("role", name)) => named(name).map(Check::Role),
                Some(("rule", name)) => named(name).map(Check::Rule),
                _ => Err(format!(
                    "{word:?}: use role:NAME, rule:NAME, project_id:%(project_id)s, @ or !; others are not supported yet"
                )),
            },
        }
    }
}

fn single(mut checks: Vec<Check>, many: fn(Vec<Check>) -> Check) -> Check {
    match checks.pop() {
        Some(only) if checks.is_empty() => only,
        Some(last) => {
            checks.push(last);
            many(checks)
        }
        None => Check::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the roles a and b, in a foreign project, where the rules that begin with y hold.
    fn holds(text: &str) -> bool {
        let check = Check::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"));
        check.holds(
            &|role| ["a", "b"].contains(&role),
            &|rule| rule.starts_with('y'),
            false,
        )
    }

    #[test]
    fn rules_mean_what_oslo_policy_reads_in_them() {
        for (text, expected) in [
            ("", true),
            ("  ", true),
            ("@", true),
            ("!", false),
            ("role:a", true),
            ("role:c", false),
            ("rule:yes", true),
            ("rule:no", false),
            ("project_id:%(project_id)s", false),
            ("not project_id:%(project_id)s", true),
            ("not not role:a", true),
            ("role:a and role:b", true),
            ("role:a and role:c", false),
            ("role:c or role:b", true),
            // `and` binds tighter than `or`, `not` tighter than both.
            ("role:a or role:b and role:c", true),
            ("(role:a or role:b) and role:c", false),
            ("not role:c and role:a", true),
            ("not (role:c or role:a)", false),
            ("((role:a) AND (rule:yes)) Or !", true),
            ("(role:c and project_id:%(project_id)s) or role:b", true),
        ] {
            assert_eq!(holds(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_refused_with_the_word() {
        for (text, said) in [
            ("role:", "1 to 128"),
            ("is_admin:True", "is_admin:True"),
            ("user_id:%(user_id)s", "not supported yet"),
            ("role:a role:b", "\"role:b\""),
            ("role:a and", "ends"),
            ("and role:a", "\"and\""),
            ("(role:a", "not closed"),
            ("role:a)", "\")\""),
            ("()", "\")\""),
            (&"(".repeat(17), "deeper"),
            (&"not ".repeat(17), "deeper"),
        ] {
            let why = Check::parse(text).unwrap_err();
            assert!(why.contains(said), "{text}: {why}");
        }
        let nested = format!("{}role:a{}", "(".repeat(15), ")".repeat(15));
        assert!(holds(&nested));
    }
}
