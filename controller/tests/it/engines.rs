//! The whole API suite again on each database server: this program runs itself with the server's address in the
//! environment, so that the same functions test all engines and no test can be forgotten.

use crate::common::SERVER;
use krater_e2e::database::{DATABASE, Durability, Engine, Server};
use std::process::Command;

/// Tests that have no database of the API.
const ELSEWHERE: [&str; 14] = [
    "database_tls::",
    "engines::",
    "servers::",
    "several::",
    "keystone::",
    "barbican::",
    "https::",
    "schemathesis::",
    "clients::",
    "noop::",
    "db_command::",
    "net_command::",
    "print_config::",
    "wire::",
];
/// A suite that ran fewer has lost its tests.
const TESTS: usize = 40;

fn suite_on(engine: Engine) {
    let server = Server::start(engine, Durability::Relaxed);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(SERVER, server.url(DATABASE));
    for elsewhere in ELSEWHERE {
        command.args(["--skip", elsewhere]);
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    assert!(passed >= TESTS, "{passed} tests ran:\n{said}");
}

#[test]
fn the_suite_passes_on_postgresql() {
    suite_on(Engine::Postgres);
}

#[test]
fn the_suite_passes_on_mariadb() {
    suite_on(Engine::MariaDb);
}
