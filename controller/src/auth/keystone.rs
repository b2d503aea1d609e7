//! Keystone: each token is shown to it once, and what it said is remembered for a while.
//!
//! We show our own token with each question. It is made of a user's name and password when it is first needed, kept until
//! shortly before it ends, and made anew when Keystone no longer takes it.

use super::Unavailable;
use super::cache::{Cache, key};
use crate::app::policy::Identity;
use crate::config;
use crate::db::now;
use crate::service::{CallError, Service};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Bytes;
use krater_model::{FieldError, Secret};
use serde::Deserialize;
use serde_json::json;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Longest token that is worth a question, in bytes: Keystone's own have some 200, with a signature some 1,000.
const MAX_TOKEN: usize = 8 * 1024;
/// Longest project and user, as in the database.
const MAX_ID: usize = 36;
/// Longest role.
const MAX_ROLE: usize = 255;
/// Questions at the same time: a flood of wrong tokens is not passed on.
const QUESTIONS: usize = 16;
/// Our own token is made anew this long before it ends.
const RENEW: i64 = 30_000;

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const SUBJECT: HeaderName = HeaderName::from_static("x-subject-token");

/// See the module.
pub struct Keystone {
    service: Service,
    /// The body that asks for our own token.
    credentials: Secret,
    challenge: HeaderValue,
    cache_millis: i64,
    cache: Mutex<Cache>,
    questions: Semaphore,
    own: tokio::sync::Mutex<Option<Own>>,
}

struct Own {
    token: HeaderValue,
    /// Unix milliseconds.
    until: i64,
}

/// Why nothing is known about a token.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{what}: answered with {status}: {said}")]
    Refused {
        what: &'static str,
        status: StatusCode,
        said: String,
    },
    #[error("{what}: the answer is not understood: {why}")]
    Answer { what: &'static str, why: String },
}

#[derive(Deserialize)]
struct Answer {
    token: Token,
}

#[derive(Deserialize)]
struct Token {
    expires_at: String,
    user: Named,
    /// None: the token is of no project.
    project: Option<Named>,
    #[serde(default)]
    roles: Vec<Role>,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

#[derive(Deserialize)]
struct Role {
    name: String,
}

impl fmt::Debug for Keystone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keystone")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl Keystone {
    /// With what the configuration says; it is first asked when a token comes.
    ///
    /// # Errors
    /// A key that is missing or wrong, a password that cannot be read.
    pub fn new(config: &config::Keystone) -> Result<Self, FieldError> {
        let needed = |key: &str, value: &Option<String>| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| {
                FieldError::new(
                    format!("keystone.{key}"),
                    "is needed with keystone.url".to_owned(),
                )
            })
        };
        let url = needed("url", &config.url)?;
        let user = needed("username", &config.username)?;
        let path = config.password_file.as_ref().ok_or_else(|| {
            let why = "is needed with keystone.url".to_owned();
            FieldError::new("keystone.password_file", why)
        })?;
        let password = std::fs::read_to_string(path).map_err(|error| {
            let why = format!("{}: {error}", path.display());
            FieldError::new("keystone.password_file", why)
        })?;
        let service = Service::new("keystone.url", &url, config.ca_file.as_deref())?.below("/v3");
        let challenge = format!("Keystone uri=\"{}\"", service.as_str());
        let challenge = HeaderValue::try_from(challenge)
            .map_err(|error| FieldError::new("keystone.url", error.to_string()))?;
        // Whole seconds, as expiry is one.
        let body = json!({"auth": {
            "identity": {"methods": ["password"], "password": {"user": {
                "name": user, "domain": {"name": config.user_domain},
                "password": password.trim_end_matches(['\r', '\n']),
            }}},
            "scope": {"project": {
                "name": config.project, "domain": {"name": config.project_domain},
            }},
        }});
        Ok(Self {
            service,
            credentials: Secret::new(body.to_string()),
            challenge,
            cache_millis: i64::from(config.cache_seconds) * 1_000,
            cache: Mutex::default(),
            questions: Semaphore::new(QUESTIONS),
            own: tokio::sync::Mutex::default(),
        })
    }

    /// What a 401 says, as keystonemiddleware does.
    pub fn challenge(&self) -> HeaderValue {
        self.challenge.clone()
    }

    /// Whose a token is; none: nobody's.
    ///
    /// # Errors
    /// Keystone does not say. Why is logged here.
    pub async fn identify(&self, token: &str) -> Result<Option<Identity>, Unavailable> {
        let value = HeaderValue::from_str(token).ok();
        let Some(value) = value.filter(|value| !value.is_empty() && value.len() <= MAX_TOKEN)
        else {
            return Ok(None);
        };
        let key = key(token);
        if let Some(who) = self.remembered(&key) {
            return Ok(Some(who));
        }
        let _turn = self.questions.acquire().await.map_err(|_| Unavailable)?;
        // Somebody may have asked the same meanwhile.
        if let Some(who) = self.remembered(&key) {
            return Ok(Some(who));
        }
        match self.ask(value).await {
            Ok(None) => Ok(None),
            Ok(Some((who, expires))) => {
                let now = now();
                if expires <= now {
                    return Ok(None);
                }
                let until = expires.min(now.saturating_add(self.cache_millis));
                self.cache().insert(key, who.clone(), until, now);
                Ok(Some(who))
            }
            Err(failure) => {
                tracing::error!(error = %krater_model::report(&failure), "keystone failed");
                Err(Unavailable)
            }
        }
    }

    fn remembered(&self, key: &[u8; 32]) -> Option<Identity> {
        self.cache().find(key, now()).cloned()
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose a token is and until when.
    async fn ask(&self, token: HeaderValue) -> Result<Option<(Identity, i64)>, Failure> {
        let what = "validating a token";
        let (mut renew, mut lost) = (false, false);
        loop {
            let own = self.own_token(renew).await?;
            let headers = [(TOKEN, own), (SUBJECT, token.clone())];
            let path = "/auth/tokens?nocatalog";
            let answer = match self
                .service
                .call(Method::GET, path, &headers, Bytes::new())
                .await
            {
                // A worker of Keystone that ends takes its connections along; asking again changes nothing there.
                Err(CallError::Lost(..)) if !lost => {
                    lost = true;
                    continue;
                }
                answer => answer?,
            };
            match answer.status() {
                StatusCode::OK => return understood(what, &answer).map(known),
                StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => return Ok(None),
                // Ours was revoked, or Keystone has new keys.
                StatusCode::UNAUTHORIZED if !renew => renew = true,
                _ => return Err(refused(what, &answer)),
            }
        }
    }

    async fn own_token(&self, renew: bool) -> Result<HeaderValue, Failure> {
        let what = "our own token";
        // One makes it, the others wait: bounded by the call's deadline.
        let mut own = self.own.lock().await;
        let good = own
            .as_ref()
            .filter(|own| !renew && now() < own.until)
            .map(|own| own.token.clone());
        if let Some(token) = good {
            return Ok(token);
        }
        *own = None;
        let body = Bytes::copy_from_slice(self.credentials.expose().as_bytes());
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self
            .service
            .call(Method::POST, "/auth/tokens?nocatalog", &[json], body)
            .await?;
        if answer.status() != StatusCode::CREATED {
            return Err(refused(what, &answer));
        }
        let token = answer.headers().get(SUBJECT).cloned();
        let mut token = token.ok_or_else(|| Failure::Answer {
            what,
            why: "there is no X-Subject-Token".to_owned(),
        })?;
        token.set_sensitive(true);
        let expires = expires(what, &understood(what, &answer)?)?;
        // One that ends sooner than it could be renewed is used all the same.
        *own = Some(Own {
            token: token.clone(),
            until: expires.saturating_sub(RENEW).max(now()),
        });
        Ok(token)
    }
}

fn refused(what: &'static str, answer: &Response<Bytes>) -> Failure {
    let said = String::from_utf8_lossy(answer.body());
    Failure::Refused {
        what,
        status: answer.status(),
        said: said.chars().filter(|c| !c.is_control()).take(200).collect(),
    }
}

fn understood(what: &'static str, answer: &Response<Bytes>) -> Result<Token, Failure> {
    match serde_json::from_slice::<Answer>(answer.body()) {
        Ok(answer) => Ok(answer.token),
        Err(error) => Err(Failure::Answer {
            what,
            why: error.to_string(),
        }),
    }
}

/// Unix milliseconds; Keystone writes microseconds too, which only shorten.
fn expires(what: &'static str, token: &Token) -> Result<i64, Failure> {
    let text = &token.expires_at;
    let whole = text
        .split_once('.')
        .map_or(text.as_str(), |(whole, _)| whole);
    crate::time::parse(whole).ok_or_else(|| Failure::Answer {
        what,
        why: format!("expires_at is {text:?}"),
    })
}

/// Who a validated token is; a token of no project has no roles here, so that it may nothing.
fn known(token: Token) -> Option<(Identity, i64)> {
    let expires = expires("validating a token", &token).ok()?;
    let plain = |text: &str, max: usize| {
        !text.is_empty() && text.len() <= max && text.chars().all(|c| c.is_ascii_graphic())
    };
    let (project, roles) = match token.project {
        Some(project) if plain(&project.id, MAX_ID) => (project.id, token.roles),
        Some(_) => return None,
        None => (String::new(), Vec::new()),
    };
    // Users of federations and LDAP have longer ids, of which logs need no more.
    let user: String = token
        .user
        .id
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .take(64)
        .collect();
    let roles = roles.into_iter().map(|role| role.name);
    let roles = roles.filter(|role| !role.is_empty() && role.len() <= MAX_ROLE);
    Some((Identity::new(user, project, roles), expires))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(text: &str) -> Option<(Identity, i64)> {
        let answer: Answer = serde_json::from_str(text).unwrap();
        known(answer.token)
    }

    #[test]
    fn what_keystone_says_about_a_token_is_understood() {
        let (who, expires) = token(
            r#"{"token": {"methods": ["password"], "user": {"id": "u", "name": "n", "domain": {"id": "default"}},
            "expires_at": "2026-01-02T03:04:05.000000Z", "issued_at": "2026-01-02T02:04:05.000000Z",
            "project": {"id": "p", "name": "demo"}, "is_domain": false, "roles": [{"id": "1", "name": "member"}]}}"#,
        )
        .unwrap();
        assert_eq!(expires, 1_767_323_045_000);
        assert_eq!((who.user.as_str(), who.project.as_str()), ("u", "p"));
        assert!(who.has_role("member") && who.has_role("reader") && !who.has_role("admin"));
        // Without a project: it is known and may nothing.
        let (who, _) = token(
            r#"{"token": {"user": {"id": "u"}, "expires_at": "2026-01-02T03:04:05Z", "roles": [{"name": "admin"}]}}"#,
        )
        .unwrap();
        assert!(!who.has_role("admin"));
        assert_eq!(who.project, "");
        for wrong in [
            r#"{"token": {"user": {"id": "u"}, "expires_at": "soon"}}"#,
            r#"{"token": {"user": {"id": "u"}, "expires_at": "2026-01-02T03:04:05Z", "project": {"id": "a b"}}}"#,
        ] {
            assert!(token(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn what_is_missing_in_the_configuration_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "s3cret\n").unwrap();
        let whole = config::Keystone {
            url: Some("http://127.0.0.1:5000".into()),
            username: Some("krater".into()),
            password_file: Some(password),
            ..config::Keystone::default()
        };
        let keystone = Keystone::new(&whole).unwrap();
        assert_eq!(
            keystone.challenge(),
            "Keystone uri=\"http://127.0.0.1:5000/v3\""
        );
        assert!(keystone.credentials.expose().contains("\"s3cret\""));
        assert!(!format!("{keystone:?}").contains("s3cret"));
        for (key, broken) in [
            (
                "keystone.url",
                config::Keystone {
                    url: None,
                    ..whole.clone()
                },
            ),
            (
                "keystone.url",
                config::Keystone {
                    url: Some("x".into()),
                    ..whole.clone()
                },
            ),
            (
                "keystone.username",
                config::Keystone {
                    username: None,
                    ..whole.clone()
                },
            ),
            (
                "keystone.password_file",
                config::Keystone {
                    password_file: None,
                    ..whole.clone()
                },
            ),
            (
                "keystone.password_file",
                config::Keystone {
                    password_file: Some("/nonexistent".into()),
                    ..whole.clone()
                },
            ),
        ] {
            let error = Keystone::new(&broken).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }
}
