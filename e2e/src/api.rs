//! A client of the public REST API: one connection per request, blocking.

use crate::wait;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Where the API is.
#[derive(Debug, Clone, Copy)]
pub struct Api {
    /// Address of the listener.
    pub address: SocketAddr,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Names are in lower case.
    pub headers: Vec<(String, String)>,
    /// `Null` when there is none; a string when it is not JSON.
    pub body: Value,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|h| h.0 == name)
            .map(|h| h.1.as_str())
    }
}

impl Api {
    /// Sends text as it is; an error is a broken connection.
    pub fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        self.patiently(ANSWER, method, path, headers, body)
    }

    /// Sends text as it is and waits for so long.
    pub(crate) fn patiently(
        &self,
        limit: Duration,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut stream = TcpStream::connect_timeout(&self.address, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
            self.address
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        parse(&bytes).ok_or_else(|| std::io::Error::other("the answer ended early"))
    }

    /// Sends JSON.
    pub fn send(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Answer> {
        let text = body.map(Value::to_string).unwrap_or_default();
        let mut headers = vec![("accept", "application/json")];
        if body.is_some() {
            headers.push(("content-type", "application/json"));
        }
        self.raw(method, path, &headers, text.as_bytes())
    }

    /// A 2xx answer's body.
    ///
    /// # Panics
    /// On any other status.
    pub fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self
            .send(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        answer.body
    }

    /// The body of a GET.
    ///
    /// # Panics
    /// On another status than 2xx.
    pub fn get(&self, path: &str) -> Value {
        self.must("GET", path, None)
    }

    /// Creates an object below `/v2/lbaas/`; gives its representation without the envelope.
    ///
    /// # Panics
    /// On another status than 2xx.
    pub fn create(&self, path: &str, body: &Value) -> Value {
        let answer = self.must("POST", &format!("/v2/lbaas/{path}"), Some(body));
        answer
            .as_object()
            .and_then(|map| map.values().next())
            .cloned()
            .unwrap_or_default()
    }

    /// The id of the subnet of this name.
    pub fn subnet(&self, name: &str) -> String {
        let found = self.get(&format!("/network/v2.0/subnets?name={name}"));
        text(&found["subnets"][0]["id"])
    }

    /// A load balancer on `public-subnet`; it is PENDING_CREATE.
    pub fn create_load_balancer(&self, name: &str) -> Value {
        let subnet = self.subnet("public-subnet");
        self.create(
            "loadbalancers",
            &json!({"loadbalancer": {"name": name, "vip_subnet_id": subnet}}),
        )
    }

    /// The object at `/v2/lbaas/<path>`, without its envelope; none when the answer is 404.
    ///
    /// # Panics
    /// On another status than 200 and 404.
    pub fn show(&self, path: &str) -> Option<Value> {
        let path = format!("/v2/lbaas/{path}");
        let answer = self
            .send("GET", &path, None)
            .unwrap_or_else(|error| panic!("GET {path}: {error}"));
        assert!(
            [200, 404].contains(&answer.status),
            "GET {path}: {} {}",
            answer.status,
            answer.body
        );
        let inner = answer
            .body
            .as_object()
            .and_then(|map| map.values().next())
            .cloned();
        inner.filter(|_| answer.status == 200)
    }

    /// Waits until the load balancer is ACTIVE.
    ///
    /// # Panics
    /// On ERROR, or when it takes too long.
    pub fn active(&self, load_balancer: &str) -> Value {
        let mut last = Value::Null;
        wait::until(&format!("load balancer {load_balancer} ACTIVE"), || {
            last = self
                .show(&format!("loadbalancers/{load_balancer}"))
                .unwrap_or_default();
            let status = text(&last["provisioning_status"]);
            assert_ne!(status, "ERROR", "{last}");
            (status == "ACTIVE").then(|| last.clone())
        })
    }

    /// Amphorae of a load balancer that are not deleted.
    pub fn amphorae(&self, load_balancer: &str) -> Vec<Value> {
        let answer = self.get(&format!(
            "/v2/octavia/amphorae?loadbalancer_id={load_balancer}"
        ));
        let list = answer["amphorae"].as_array().cloned().unwrap_or_default();
        list.into_iter()
            .filter(|a| a["status"] != "DELETED")
            .collect()
    }
}

/// Text of a JSON string, else empty.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut body = &bytes[end + 4..];
    if let Some((_, length)) = headers.iter().find(|h| h.0 == "content-length") {
        body = body.get(..length.parse().ok()?)?;
    }
    let body = match body {
        [] => Value::Null,
        body => serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned())),
    };
    Some(Answer {
        status,
        headers,
        body,
    })
}
