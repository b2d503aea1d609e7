//! Another key manager (Barbican v1) instead of our own: secrets are read there with the token of who refers to them, once,
//! when the reference is set. What the token may not read does not exist.

use crate::config;
use crate::service::{CallError, Service};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Response, StatusCode};
use hyper::body::Bytes;
use krater_model::{FieldError, Secret};
use serde::Deserialize;
use zeroize::Zeroizing;

const TOKEN: HeaderName = HeaderName::from_static("x-auth-token");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Secrets of a container that are looked at; a certificate has four.
const MAX_REFERENCES: usize = 32;

/// See the module.
#[derive(Debug)]
pub struct Barbican {
    service: Service,
}

/// It does not say.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Not reached, broken, late.
    #[error(transparent)]
    Call(#[from] CallError),
    /// A status that means neither yes nor no.
    #[error("{service} answered {path} with {status}")]
    Status {
        /// Who.
        service: String,
        /// What was asked.
        path: String,
        /// What it answered.
        status: StatusCode,
    },
    /// An answer that is none of a key manager.
    #[error("{service}: the answer to {path} is not understood: {why}")]
    Answer {
        /// Who.
        service: String,
        /// What was asked.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    content_types: Option<ContentTypes>,
}

#[derive(Deserialize)]
struct ContentTypes {
    default: String,
}

#[derive(Deserialize)]
struct Container {
    #[serde(default)]
    secret_refs: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    #[serde(default)]
    name: Option<String>,
    secret_ref: String,
}

impl Barbican {
    /// With what the configuration says; it is first asked when a reference is set.
    ///
    /// # Errors
    /// No address, no authorities.
    pub fn new(config: &config::Secrets) -> Result<Self, FieldError> {
        let url = config.url.as_deref().unwrap_or_default();
        let service = Service::new("secrets.url", url, config.ca_file.as_deref())?;
        Ok(Self {
            service: service.below("/v1"),
        })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        self.service.as_str()
    }

    /// What a secret holds; none: there is no such secret for this token, or nothing in it.
    ///
    /// # Errors
    /// It does not say.
    pub async fn payload(
        &self,
        token: Option<&Secret>,
        id: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
        let path = format!("/secrets/{id}");
        let Some(answer) = self.get(&path, token, JSON).await? else {
            return Ok(None);
        };
        let metadata: Metadata = self.understood(&path, &answer)?;
        // It gives out a payload as what it is, and as nothing else.
        let kind = metadata.content_types.map(|types| types.default);
        let Some(kind) = kind.and_then(|kind| HeaderValue::try_from(kind).ok()) else {
            return Ok(None);
        };
        let answer = self.get(&format!("{path}/payload"), token, kind).await?;
        Ok(answer.map(|answer| Zeroizing::new(answer.into_body().to_vec())))
    }

    /// Names and references of a container; none: there is no such container for this token.
    ///
    /// # Errors
    /// It does not say.
    pub async fn container(
        &self,
        token: Option<&Secret>,
        id: &str,
    ) -> Result<Option<Vec<(String, String)>>, Failure> {
        let path = format!("/containers/{id}");
        let Some(answer) = self.get(&path, token, JSON).await? else {
            return Ok(None);
        };
        let container: Container = self.understood(&path, &answer)?;
        let named = container.secret_refs.into_iter().take(MAX_REFERENCES);
        let named = named.map(|one| (one.name.unwrap_or_default(), one.secret_ref));
        Ok(Some(named.collect()))
    }

    async fn get(
        &self,
        path: &str,
        token: Option<&Secret>,
        accept: HeaderValue,
    ) -> Result<Option<Response<Bytes>>, Failure> {
        let mut headers = vec![(ACCEPT, accept), (CONTENT_TYPE, JSON)];
        if let Some(token) = token
            && let Ok(mut token) = HeaderValue::from_str(token.expose())
        {
            token.set_sensitive(true);
            headers.push((TOKEN, token));
        }
        let call = self.service.call(Method::GET, path, &headers, Bytes::new());
        let answer = call.await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(None),
            status => Err(Failure::Status {
                service: self.url().to_owned(),
                path: path.to_owned(),
                status,
            }),
        }
    }

    fn understood<T: serde::de::DeserializeOwned>(
        &self,
        path: &str,
        answer: &Response<Bytes>,
    ) -> Result<T, Failure> {
        serde_json::from_slice(answer.body()).map_err(|error| Failure::Answer {
            service: self.url().to_owned(),
            path: path.to_owned(),
            why: error.to_string(),
        })
    }
}
