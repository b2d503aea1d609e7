//! L7 policies and rules.

use super::*;

/// What to do with requests that match all rules. A policy without enabled rules matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L7Policy {
    /// Identifier.
    pub id: L7PolicyId,
    /// Administrative state; false: left out.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Order within its kind of action (spec/octavia-agent.md section 5.2).
    pub position: u32,
    /// The action.
    pub action: L7Action,
    /// All must match.
    #[serde(default)]
    pub rules: Vec<L7Rule>,
}

/// A policy's action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum L7Action {
    /// 403.
    Reject,
    /// Another pool.
    RedirectToPool {
        /// Which.
        pool: PoolId,
    },
    /// Location is exactly `url`.
    RedirectToUrl {
        /// Target.
        url: String,
        /// 301, 302, 303, 307 or 308.
        code: StatusCode,
    },
    /// Location is `prefix` followed by the request's path and query; `/` as prefix is no prefix.
    RedirectPrefix {
        /// Scheme and authority, perhaps a path.
        prefix: String,
        /// 301, 302, 303, 307 or 308.
        code: StatusCode,
    },
}

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct L7Rule {
    /// Identifier.
    pub id: L7RuleId,
    /// Administrative state; false: left out.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What is looked at.
    pub subject: L7Subject,
    /// How.
    pub compare: L7Compare,
    /// With what.
    pub value: String,
    /// The condition is negated.
    #[serde(default)]
    pub invert: bool,
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub enum L7Subject {
    /// Host header with its port or without, case-insensitive: it matches when either does.
    HostName,
    /// Path of the request target.
    Path,
    /// EQUAL_TO: the path ends so. REGEX: the path's extension without dot, or the whole path.
    FileType,
    /// A header.
    Header {
        /// Name.
        key: String,
    },
    /// A cookie.
    Cookie {
        /// Name.
        key: String,
    },
    /// The client showed a certificate.
    SslConnHasCert,
    /// Verification result as a number, 0 is good.
    SslVerifyResult,
    /// A field of the client certificate's distinguished name.
    SslDnField {
        /// Such as `CN`.
        key: String,
    },
}

/// How a rule compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum L7Compare {
    /// Regular expression, linear time.
    Regex,
    /// Prefix.
    StartsWith,
    /// Suffix.
    EndsWith,
    /// Infix.
    Contains,
    /// Whole.
    EqualTo,
}
