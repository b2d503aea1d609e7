//! Ledgers: each rule of the RFCs of VRRP, and each clause of what the data plane shall do, names tests that exist, or
//! says why there is none.

use std::collections::HashMap;

/// Their paths in the checkout.
pub(crate) const LEDGERS: [&str; 2] = ["vrrp/requirements.md", "dataplane/requirements.md"];
/// A ledger with fewer rules was not read right.
const RULES: usize = 60;
/// What a rule without a test must begin with.
const EXCUSES: [&str; 2] = ["not done: ", "does not apply: "];

/// Faults of the ledger's text; `read` gives other files of the checkout.
pub(crate) fn check(
    ledger: &str,
    text: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut faults = Vec::new();
    let mut files: HashMap<&str, String> = HashMap::new();
    let mut rules = 0;
    for (number, line) in text.lines().enumerate() {
        let mut fault = |what: String| faults.push(format!("{ledger}:{}: {what}", number + 1));
        let Some(row) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = row.split(" | ").collect();
        match cells.as_slice() {
            ["name", "file"] | ["section", _, _, "proof"] => {}
            [name, file] => match read(file) {
                Some(text) => drop(files.insert(name, text)),
                None => fault(format!("{file} cannot be read")),
            },
            [_, _, _, proof] => {
                rules += 1;
                let excused = EXCUSES.iter().any(|excuse| proof.starts_with(excuse));
                let tests: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
                if !excused && tests.is_empty() {
                    fault("neither a test nor a reason".into());
                }
                for test in tests.into_iter().filter(|_| !excused) {
                    let known = test.split_once("::").is_some_and(|(name, test)| {
                        files.get(name).is_some_and(|text| holds(text, test))
                    });
                    if !known {
                        fault(format!("there is no test `{test}`"));
                    }
                }
            }
            _ => fault("a row of two or four cells is needed".into()),
        }
    }
    if rules < RULES {
        faults.push(format!("{ledger}: {rules} rules, {RULES} at least"));
    }
    faults
}

/// Whether a file holds a test of this name: a function below `#[test]`, a name in a list of tests of
/// a harness, or the name of a case in a table.
fn holds(text: &str, test: &str) -> bool {
    let function = format!("fn {test}(");
    let (listed, below) = (format!("(\"{test}\","), format!("\"{test}\","));
    let case = format!("name = \"{test}\"");
    let of_table = format!("[{test}] ");
    let mut attribute = false;
    text.lines().map(str::trim).any(|line| {
        let found = (attribute && line.starts_with(&function))
            || line.contains(&listed)
            || line == below
            || line == case
            || line.starts_with(&of_table);
        attribute = line == "#[test]";
        found
    })
}

#[cfg(test)]
mod unit {
    use super::{RULES, check};

    fn faults(row: &str) -> Vec<String> {
        let head = "| name | file |\n|---|---|\n| a | a.rs |\n| b | b.toml |\n\n\
                    | section | level | rule | proof |\n|---|---|---|---|\n";
        let fill = "| 1 | MUST | Be. | `a::unit` |\n".repeat(RULES);
        let files = |path: &str| match path {
            "a.rs" => {
                Some("#[test]\nfn unit() {}\nfn helper() {}\n(\"listed\", f),\n\"below\",\n".into())
            }
            "b.toml" => Some("name = \"a case, named\"\n[id] hostile; a case\n".into()),
            _ => None,
        };
        check("a.md", &format!("{head}{fill}{row}\n"), files)
    }

    #[test]
    fn tests_that_exist_and_reasons_pass() {
        for proof in [
            "`a::unit`, `a::listed`",
            "`a::below`",
            "`b::a case, named`, `b::id`",
            "not done: `a::nothing` is too hard",
            "does not apply: no",
        ] {
            assert_eq!(faults(&format!("| 1 | MUST | Be. | {proof} |")), [""; 0]);
        }
    }

    #[test]
    fn everything_else_is_found() {
        for row in [
            "| 1 | MUST | Be. | `a::gone` |",
            "| 1 | MUST | Be. | `a::unit`, `a::helper` |",
            "| 1 | MUST | Be. | `c::unit` |",
            "| 1 | MUST | Be. | `unit` |",
            "| 1 | MUST | Be. | `b::a case` |",
            "| 1 | MUST | Be. | later |",
            "| 1 | MUST | Be. |",
            "| c | gone.rs |",
        ] {
            assert_eq!(faults(row).len(), 1, "{row}");
        }
        assert_eq!(check("a.md", "", |_| None).len(), 1, "an empty ledger");
    }
}
