//! Keystone as tests start it: the real one that `cargo xtask setup` has fetched, by `peers/serve_keystone.py`, on a port and in a
//! folder of its own. Its process ends with its [`Keystone`], and with the thread of the test that started it.

use crate::api::{Answer, Api, text};
use crate::{python, root, wait};
use serde_json::{Value, json};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// Its user `admin` and all users that tests make have it.
pub const PASSWORD: &str = "krater-5b1c";
/// Python reads some hundred files at the start, five times for a new server.
const START: Duration = Duration::from_secs(300);
/// Longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Keystone {
    folder: tempfile::TempDir,
    child: Option<Child>,
    api: Api,
    admin: String,
}

impl Keystone {
    /// Makes a server whose tokens live for so many seconds, and waits until it answers.
    ///
    /// # Panics
    /// Without the program, or when it does not get ready.
    pub fn start(expiration: u32) -> Self {
        let mut keystone = Self {
            folder: tempfile::tempdir().expect("a folder"),
            child: None,
            api: Api {
                address: ([127, 0, 0, 1], 0).into(),
            },
            admin: String::new(),
        };
        keystone.up(expiration);
        keystone
    }

    /// `http://…/v3`
    pub fn url(&self) -> String {
        format!("http://{}/v3", self.api.address)
    }

    /// Starts it (again), at the same place, with tokens of so many seconds.
    ///
    /// # Panics
    /// When it does not get ready.
    pub fn up(&mut self, expiration: u32) {
        self.down();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("log");
        let _ = std::fs::remove_file(self.folder.path().join("port"));
        let mut child = python("venv-keystone")
            .arg(root().join("e2e/peers/serve_keystone.py"))
            .arg(self.folder.path())
            .arg(self.api.address.port().to_string())
            .arg(expiration.to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("start Keystone");
        let port = wait::within(START, "Keystone is ready", || {
            if let Some(status) = child.try_wait().expect("wait for Keystone") {
                panic!("Keystone ended with {status}:\n{}", self.log());
            }
            let text = std::fs::read_to_string(self.folder.path().join("port")).ok()?;
            text.parse().ok()
        });
        self.child = Some(child);
        self.api.address.set_port(port);
        self.admin = self.token("admin", "admin");
    }

    /// Kills it.
    pub fn down(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn ask(&self, body: &Value) -> Answer {
        let headers = [("content-type", "application/json")];
        self.api
            .patiently(
                ANSWER,
                "POST",
                "/v3/auth/tokens",
                &headers,
                body.to_string().as_bytes(),
            )
            .expect("an answer of Keystone")
    }

    fn password(user: &str) -> Value {
        json!({"methods": ["password"], "password": {"user":
            {"name": user, "domain": {"id": "default"}, "password": PASSWORD}}})
    }

    /// A token of a user for a project, both by name.
    ///
    /// # Panics
    /// When it gives none.
    pub fn token(&self, user: &str, project: &str) -> String {
        let scope = json!({"project": {"name": project, "domain": {"id": "default"}}});
        let identity = Self::password(user);
        self.made(&json!({"auth": {"identity": identity, "scope": scope}}))
    }

    /// A token of a user for nothing.
    ///
    /// # Panics
    /// When it gives none.
    pub fn unscoped(&self, user: &str) -> String {
        let identity = Self::password(user);
        self.made(&json!({"auth": {"identity": identity, "scope": "unscoped"}}))
    }

    fn made(&self, body: &Value) -> String {
        let answer = self.ask(body);
        assert_eq!(answer.status, 201, "{}\n{}", answer.body, self.log());
        let token = answer.header("x-subject-token");
        token.expect("a token").to_owned()
    }

    /// Takes a token back.
    ///
    /// # Panics
    /// When it is not taken.
    pub fn revoke(&self, token: &str) {
        let headers = [
            ("x-auth-token", self.admin.as_str()),
            ("x-subject-token", token),
        ];
        let answer = self
            .api
            .patiently(ANSWER, "DELETE", "/v3/auth/tokens", &headers, b"");
        assert_eq!(answer.expect("an answer of Keystone").status, 204);
    }

    /// What the administrator does; gives the answer's body.
    ///
    /// # Panics
    /// On another status than 2xx.
    pub fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let headers = [
            ("content-type", "application/json"),
            ("x-auth-token", &self.admin),
        ];
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = self
            .api
            .patiently(
                ANSWER,
                method,
                &format!("/v3{path}"),
                &headers,
                text.as_bytes(),
            )
            .expect("an answer of Keystone");
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {} {}",
            answer.status,
            answer.body
        );
        answer.body
    }

    /// Makes a project; gives its id.
    pub fn project(&self, name: &str) -> String {
        let body = json!({"project": {"name": name, "domain_id": "default"}});
        text(&self.admin("POST", "/projects", &body)["project"]["id"])
    }

    /// Makes a user with a role in a project (by id), and the role when it is missing; gives its id.
    pub fn user(&self, name: &str, project: &str, role: &str) -> String {
        let found = self.admin("GET", &format!("/roles?name={role}"), &Value::Null);
        let role = match found["roles"][0]["id"].as_str() {
            Some(id) => id.to_owned(),
            None => {
                let made = self.admin("POST", "/roles", &json!({"role": {"name": role}}));
                text(&made["role"]["id"])
            }
        };
        let body = json!({"user": {"name": name, "domain_id": "default", "password": PASSWORD}});
        let user = text(&self.admin("POST", "/users", &body)["user"]["id"]);
        let path = format!("/projects/{project}/users/{user}/roles/{role}");
        self.admin("PUT", &path, &Value::Null);
        user
    }

    /// Puts a service into the catalog.
    pub fn service(&self, kind: &str, url: &str) {
        let body = json!({"service": {"type": kind, "name": kind}});
        let service = text(&self.admin("POST", "/services", &body)["service"]["id"]);
        let body = json!({"endpoint": {"service_id": service, "interface": "public",
            "region_id": "RegionOne", "url": url}});
        self.admin("POST", "/endpoints", &body);
    }
}

impl Drop for Keystone {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<&str> = log.lines().rev().take(60).collect();
            eprintln!("Keystone's log ends:");
            for line in end.iter().rev() {
                eprintln!("{line}");
            }
        }
        self.down();
    }
}
