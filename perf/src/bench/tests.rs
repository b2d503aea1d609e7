use super::*;
use crate::origin::Counts;
use contender::Seen;

/// A summary as `load --json` prints it.
fn summary(requests: u64) -> Summary {
    serde_json::from_value(serde_json::json!({
        "requests": requests, "errors": 0, "first_error": null, "seconds": 1.0, "per_second": 1.0,
        "body_bytes": requests * 10, "p50_ms": 1.0, "p90_ms": 1.0, "p99_ms": 1.0, "p999_ms": 1.0,
        "max_ms": 1.0, "curve": [], "own_cpu_us": 1.0, "own_busy": 0.1, "watched": null,
        "core_busy_seconds": null,
        "total": { "requests": requests, "body_bytes": requests * 10, "connections": 2,
            "full_handshakes": 0, "resumed": 0, "lost": 0, "sent_bytes": 500, "received_bytes": 700 }
    }))
    .unwrap()
}

fn work(name: &str) -> Workload {
    workload::select(&[name.to_owned()]).unwrap()[0]
}

#[test]
fn every_difference_between_client_balancer_and_server_is_found() {
    let good = (
        Counts {
            requests: 5,
            body_bytes: 50,
            forwarded: 5,
            ..Counts::default()
        },
        Some(Seen {
            connections: 2,
            bytes_in: 500,
            bytes_out: 700,
        }),
    );
    let zero = (Counts::default(), Some(Seen::default()));
    let check =
        |after: &Sight| equal_work(&work("http-1k"), Who::Krater, &summary(5), &zero, after);
    check(&good).unwrap();
    let spoil: [fn(&mut Sight); 7] = [
        |s| s.0.requests += 1,
        |s| s.0.body_bytes -= 1,
        |s| s.0.forwarded -= 1,
        |s| s.0.bad += 1,
        |s| {
            s.1 = Some(Seen {
                connections: 3,
                ..s.1.unwrap()
            })
        },
        |s| {
            s.1 = Some(Seen {
                bytes_in: 499,
                ..s.1.unwrap()
            })
        },
        |s| {
            s.1 = Some(Seen {
                bytes_out: 0,
                ..s.1.unwrap()
            })
        },
    ];
    for (n, spoil) in spoil.iter().enumerate() {
        let mut after = good;
        spoil(&mut after);
        let error = check(&after).unwrap_err().to_string();
        assert!(error.contains("unequal work"), "{n}: {error}");
    }
}

#[test]
fn units() {
    let summary = summary(1_000_000);
    assert!((per_unit(Unit::Request, &summary, 2.0) - 2.0).abs() < 1e-9);
    // 10 MB
    assert!((per_unit(Unit::Gigabyte, &summary, 2.0) - 200_000.0).abs() < 1e-6);
}

fn cell(figure: f64) -> Cell {
    Cell {
        user: Some(figure / 2.0),
        system: Some(figure / 2.0),
        core: Some(figure),
        memory: None,
        latency: None,
        apply_ms: None,
        change: None,
        generator_bound: false,
        summary: summary(1),
    }
}

fn row(cells: &[(&str, &[f64])]) -> Row {
    Row {
        workload: "w".into(),
        unit: "u".into(),
        goal: Some(0.85),
        rate: None,
        notes: Vec::new(),
        doubts: Vec::new(),
        cells: cells
            .iter()
            .map(|(name, values)| {
                (
                    (*name).to_owned(),
                    values.iter().map(|v| cell(*v)).collect(),
                )
            })
            .collect(),
        ratios: Vec::new(),
        calls: BTreeMap::new(),
        epoll_ctl: BTreeMap::new(),
        configurations: BTreeMap::new(),
    }
}

#[test]
fn the_better_haproxy_counts_and_a_floor_is_no_peer() {
    let mut row = row(&[
        ("krater", &[8.0, 8.0, 8.0]),
        ("haproxy-octavia", &[20.0, 20.0, 20.0]),
        ("haproxy-tuned", &[10.0, 10.0, 10.0]),
        ("direct", &[1.0, 1.0, 1.0]),
    ]);
    for cell in row.cells.get_mut("direct").unwrap() {
        (cell.user, cell.system) = (None, None);
    }
    row.judge("krater");
    let said: Vec<_> = row
        .ratios
        .iter()
        .map(|r| (r.peer.as_str(), r.verdict.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("haproxy-tuned", "goal met"),
            ("haproxy-octavia", "(the other configuration is better)")
        ]
    );
}

#[test]
fn where_process_and_core_disagree_the_worse_counts_and_the_row_says_so() {
    let mut row = row(&[("krater", &[8.0]), ("haproxy-tuned", &[10.0])]);
    for cell in row.cells.get_mut("krater").unwrap() {
        cell.core = Some(12.0); // softirq that the process is not billed for
    }
    row.judge("krater");
    assert!((row.ratios[0].counts.median - 1.2).abs() < 1e-9);
    assert_eq!(row.ratios[0].verdict, "MORE THAN PEER");
    assert!(
        row.doubts[0].contains("the worse counts"),
        "{:?}",
        row.doubts
    );
}

#[test]
fn latency_is_void_when_the_control_moves() {
    let judged = |control: [f64; 2]| {
        let cells: [(&str, &[f64]); 3] = [
            ("krater", &[1.0, 1.0]),
            ("nginx", &[2.0, 2.0]),
            ("direct", &control),
        ];
        let mut row = row(&cells);
        for cell in row.cells.values_mut().flatten() {
            cell.latency = cell.core.take();
        }
        row.judge("krater");
        assert_eq!(row.ratios.len(), 1, "a control is no peer");
        row.ratios[0].verdict.clone()
    };
    assert_eq!(judged([1.0, 1.15]), "goal met");
    assert_eq!(judged([1.0, 1.3]), "void");
}
