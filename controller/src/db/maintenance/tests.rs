use super::*;
use crate::db::{Db, query};
use std::os::unix::fs::PermissionsExt as _;

async fn write(db: &Db, value: &str) {
    query::meta::write(db.write(), "epoch", value)
        .await
        .unwrap();
}

async fn value(file: &Path) -> Option<String> {
    let db = Db::open_sqlite(file).await.unwrap();
    query::meta::read(db.read(), "epoch").await.unwrap()
}

fn listing(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_copy_of_a_database_in_use_is_restored_and_the_replaced_one_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("krater.db"), dir.path().join("copy"));
    let db = Db::open_sqlite(&file).await.unwrap();
    write(&db, "1").await; // Only in the write-ahead log as yet.
    backup(&file, &copy).await.unwrap();
    assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    write(&db, "2").await;
    drop(db); // Like a killed controller: the log stays.

    let again = backup(&file, &copy).await.unwrap_err();
    assert!(
        matches!(&again, Error::Backup { path, .. } if *path == copy),
        "{again}"
    );
    let kept = restore(&file, &copy).await.unwrap().unwrap();
    assert_eq!(value(&file).await.as_deref(), Some("1"));
    assert_eq!(value(&kept).await.as_deref(), Some("2"));
    assert!(
        listing(dir.path())
            .iter()
            .all(|name| !name.contains("part") && !name.contains("restored"))
    );
}

#[tokio::test]
async fn a_check_counts_rows_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.db");
    let db = Db::open_sqlite(&file).await.unwrap();
    write(&db, "1").await;
    let copy = dir.path().join("copy");
    backup(&file, &copy).await.unwrap();
    let before = fs::read(&copy).unwrap();
    let report = check(&copy).await.unwrap();
    assert_eq!(report.faults, Vec::<String>::new());
    assert_eq!(report.missing, Vec::<String>::new());
    assert_eq!(report.schema, report.known);
    assert!(report.rows.contains(&("meta".to_owned(), 1)), "{report:?}");
    assert_eq!(fs::read(&copy).unwrap(), before);
}

#[tokio::test]
async fn faults_are_named_and_a_faulty_copy_is_not_restored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.db");
    let db = Db::open_sqlite(&file).await.unwrap();
    write(&db, "1").await;
    let orphan = dir.path().join("orphan");
    backup(&file, &orphan).await.unwrap();
    {
        let broken = Db::open_sqlite(&orphan).await.unwrap();
        for sql in [
            "PRAGMA foreign_keys = OFF",
            "INSERT INTO subnet (id, network_id, name, cidr, created_at) VALUES ('s', 'none', '', '', 0)",
        ] {
            broken.write().execute_unprepared(sql).await.unwrap();
        }
    }
    let report = check(&orphan).await.unwrap();
    assert!(
        matches!(report.faults.as_slice(), [fault] if fault.contains("subnet") && fault.contains("network")),
        "{report:?}"
    );
    let error = restore(&file, &orphan).await.unwrap_err();
    assert!(matches!(error, RestoreError::Damaged { .. }), "{error}");

    let text = dir.path().join("text");
    fs::write(
        &text,
        "no database at all, but long enough to be read as one".repeat(100),
    )
    .unwrap();
    let error = restore(&file, &text).await.unwrap_err();
    assert!(matches!(error, RestoreError::Foreign { .. }), "{error}");

    let empty = dir.path().join("empty");
    fs::write(&empty, "").unwrap();
    let error = restore(&file, &empty).await.unwrap_err();
    assert!(matches!(error, RestoreError::Empty(_)), "{error}");

    let torn = dir.path().join("torn");
    let whole = dir.path().join("whole");
    backup(&file, &whole).await.unwrap();
    let mut bytes = fs::read(&whole).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..].fill(0xff);
    fs::write(&torn, bytes).unwrap();
    assert!(restore(&file, &torn).await.is_err());
    assert_eq!(value(&file).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_newer_copy_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.db");
    let db = Db::open_sqlite(&file).await.unwrap();
    db.write()
        .execute_unprepared("INSERT INTO seaql_migrations VALUES ('m9999_future', 0)")
        .await
        .unwrap();
    let report = check(&file).await.unwrap();
    assert!(
        matches!(report.faults.as_slice(), [fault] if fault.contains("m9999_future")),
        "{report:?}"
    );
}
