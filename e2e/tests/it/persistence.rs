//! Clients that stay with their member by a cookie, from the API to the wire.

use crate::story::Story;
use krater_e2e::client::{self, Connection};
use krater_e2e::system::alone;
use serde_json::json;
use std::collections::BTreeSet;

#[test]
fn an_inserted_cookie_keeps_its_client() {
    let _alone = alone();
    let story = Story::new();
    story.answers();
    let ask = |cookies: &str| {
        let mut connection = Connection::open(&story.client, story.at(80)).expect("connected");
        let head = client::head("GET", "/", "example", cookies);
        connection.request(&head, b"").expect("an answer")
    };
    // Negative control: without persistence no cookie is set.
    assert!(!ask("").head.to_lowercase().contains("set-cookie"));

    let path = format!("pools/{}", story.pool);
    let cookie = json!({"pool": {"session_persistence": {"type": "HTTP_COOKIE"}}});
    story.change("PUT", &path, Some(cookie));
    let first = ask("");
    let line = first
        .head
        .lines()
        .find_map(|line| line.strip_prefix("Set-Cookie: "))
        .unwrap_or_else(|| panic!("no cookie in {}", first.head));
    let pair = line.split(';').next().expect("a pair");
    for _ in 0..9 {
        let again = ask(&format!("Cookie: {pair}\r\n"));
        assert_eq!(again.text(), first.text());
    }
    let others: BTreeSet<String> = (0..9).map(|_| ask("").text()).collect();
    assert_eq!(others.len(), 3, "clients without it are balanced");
}
