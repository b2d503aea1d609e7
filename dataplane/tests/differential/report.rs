//! `docs/haproxy-differences.md`: its table is what the run found, in both directions.

use crate::drive::Outcome;
use crate::table::Case;
use std::fmt::Write as _;
use std::path::PathBuf;

const BEGIN: &str = "<!-- written by the differential test -->\n";
const END: &str = "<!-- end -->\n";

/// The document's table must be the run's. `KRATER_UPDATE=1` writes it.
pub(crate) fn check(cases: &[Case], pairs: &[(Outcome, Outcome)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/haproxy-differences.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let found = render(cases, pairs);
    if std::env::var_os("KRATER_UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{found}{END}{after}")).unwrap();
        return;
    }
    for line in found.lines() {
        assert!(
            table.lines().any(|l| l == line),
            "found and not in docs/haproxy-differences.md (KRATER_UPDATE=1 writes it):\n{line}"
        );
    }
    for line in table.lines() {
        assert!(
            found.lines().any(|l| l == line),
            "in docs/haproxy-differences.md and not found:\n{line}"
        );
    }
}

fn render(cases: &[Case], pairs: &[(Outcome, Outcome)]) -> String {
    let mut table = String::from(
        "| case | what | clause | Krater | HAProxy 2.6 | why |\n|---|---|---|---|---|---|\n",
    );
    for (case, (ours, theirs)) in cases.iter().zip(pairs) {
        let Some((clause, why)) = &case.differs else {
            continue;
        };
        let (id, about) = (&case.id, &case.about);
        let (ours, theirs) = words(ours, theirs);
        writeln!(
            table,
            "| {id} | {about} | {clause} | {ours} | {theirs} | {why} |"
        )
        .unwrap();
    }
    table
}

/// Both outcomes in a few words that differ.
fn words(ours: &Outcome, theirs: &Outcome) -> (String, String) {
    let summaries = (ours.summary(), theirs.summary());
    if summaries.0 != summaries.1 {
        return summaries;
    }
    let (ours, theirs) = (ours.text(), theirs.text());
    let only = |a: &str, b: &str| {
        let line = a
            .lines()
            .find(|line| !b.lines().any(|other| other == *line));
        line.map_or_else(
            || "–".into(),
            |line| format!("`{}`", line.trim().replace('|', "\\|")),
        )
    };
    (only(&ours, &theirs), only(&theirs, &ours))
}
