use super::*;
use crate::db::query::network::{self, NewPort, NewSubnet};
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, PaginatorTrait};
use std::collections::BTreeMap;

async fn fresh() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open_sqlite(&dir.path().join("krater.db"))
        .await
        .unwrap();
    (dir, db)
}

#[tokio::test]
async fn every_table_has_the_columns_of_its_entity() {
    let (_dir, db) = fresh().await;
    macro_rules! select {
        ($($table:ident)*) => {$(
            assert_eq!(entity::$table::Entity::find().all(db.read()).await.unwrap(), vec![]);
        )*};
    }
    select!(address amphora amphora_health availability_zone availability_zone_profile flavor flavor_profile flow flow_step health_monitor l7policy l7rule listener
        listener_statistics load_balancer member meta network pool port quota session_persistence
        subnet tag);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_a_migration_backs_up_first() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("krater.db");
    drop(Db::open_sqlite(&file).await.unwrap());
    let db = Db::open_sqlite(&file).await.unwrap();
    db.write()
        .execute_unprepared("INSERT INTO seaql_migrations VALUES ('m9999_future', 0)")
        .await
        .unwrap();
    let error = Db::open_sqlite(&file).await.unwrap_err();
    assert!(
        matches!(&error, Error::Newer { found, .. } if found == "m9999_future"),
        "{error}"
    );
    backup(db.write(), &file, "m0002_next").await.unwrap();
    let copy = dir.path().join("krater.db.before-m0002_next");
    assert!(copy.metadata().unwrap().len() > 0);
}

#[tokio::test]
async fn a_database_of_the_first_schema_is_brought_up_to_date_and_keeps_its_rows() {
    use sea_orm_migration::MigratorTrait as _;
    let dir = tempfile::tempdir().unwrap();
    // The second one was interrupted when it had made its first table.
    for interrupted in [false, true] {
        let file = dir.path().join(format!("{interrupted}.db"));
        let old = sqlite(&file, 1, false).await.unwrap();
        migration::Migrator::up(&old, Some(1)).await.unwrap();
        old.execute_unprepared(
            "INSERT INTO load_balancer (id, project_id, name, description, enabled, topology, provider, \
             vip_address, vip_port_id, vip_subnet_id, vip_network_id, vip_port_owned, \
             provisioning_status, operating_status, created_at) \
             VALUES ('lb', 'p', 'n', '', 1, 'SINGLE', 'amphora', '', '', '', '', 1, 'ACTIVE', 'ONLINE', 1)",
        )
        .await
        .unwrap();
        if interrupted {
            let table = "CREATE TABLE flavor_profile (id varchar(36) NOT NULL PRIMARY KEY, \
                         name varchar(255) NOT NULL, provider_name varchar(255) NOT NULL, \
                         flavor_data text NOT NULL, created_at bigint NOT NULL)";
            old.execute_unprepared(table).await.unwrap();
        }
        old.close().await.unwrap();
        let report = maintenance::check(&file).await.unwrap();
        assert_eq!(report.missing, known()[1..]);
        let db = Db::open_sqlite(&file).await.unwrap();
        let row = entity::load_balancer::Entity::find_by_id("lb")
            .one(db.read())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((row.topology.as_str(), row.flavor_id), ("SINGLE", None));
        assert_eq!(
            entity::flavor::Entity::find()
                .count(db.read())
                .await
                .unwrap(),
            0
        );
        let mut copy = file.into_os_string();
        copy.push(".before-m0002_flavors");
        let copy = maintenance::check(Path::new(&copy)).await.unwrap();
        assert_eq!(
            (copy.schema.as_str(), copy.faults.len()),
            ("m0001_initial", 0)
        );
    }
}

#[tokio::test]
async fn a_database_of_the_second_schema_gets_secrets_and_its_listeners_have_no_tls() {
    use sea_orm_migration::MigratorTrait as _;
    let dir = tempfile::tempdir().unwrap();
    // The third one was interrupted when it had changed the first of two tables.
    for interrupted in [false, true] {
        let file = dir.path().join(format!("{interrupted}.db"));
        let old = sqlite(&file, 1, false).await.unwrap();
        migration::Migrator::up(&old, Some(2)).await.unwrap();
        for statement in [
            "INSERT INTO load_balancer (id, project_id, name, description, enabled, topology, provider, \
             vip_address, vip_port_id, vip_subnet_id, vip_network_id, vip_port_owned, \
             provisioning_status, operating_status, created_at) \
             VALUES ('lb', 'p', 'n', '', 1, 'SINGLE', 'amphora', '', '', '', '', 1, 'ACTIVE', 'ONLINE', 1)",
            "INSERT INTO listener (id, load_balancer_id, project_id, name, description, enabled, protocol, \
             protocol_port, connection_limit, insert_headers, allowed_cidrs, timeout_client_data, \
             timeout_member_connect, timeout_member_data, timeout_tcp_inspect, provisioning_status, \
             operating_status, created_at) \
             VALUES ('l', 'lb', 'p', 'n', '', 1, 'HTTP', 80, -1, '{}', '[]', 1, 1, 1, 1, 'ACTIVE', 'ONLINE', 1)",
        ] {
            old.execute_unprepared(statement).await.unwrap();
        }
        if interrupted {
            let change = "ALTER TABLE listener ADD COLUMN tls text NULL";
            old.execute_unprepared(change).await.unwrap();
        }
        old.close().await.unwrap();
        let db = Db::open_sqlite(&file).await.unwrap();
        let row = entity::listener::Entity::find_by_id("l")
            .one(db.read())
            .await;
        assert_eq!(row.unwrap().unwrap().tls, None);
        assert!(entity::pool::Entity::find().all(db.read()).await.is_ok());
        assert_eq!(
            entity::secret::Entity::find()
                .count(db.read())
                .await
                .unwrap(),
            0
        );
        let mut copy = file.into_os_string();
        copy.push(".before-m0003_secrets");
        let copy = maintenance::check(Path::new(&copy)).await.unwrap();
        assert_eq!(
            (copy.schema.as_str(), copy.faults.len()),
            ("m0002_flavors", 0)
        );
    }
}

#[tokio::test]
async fn an_error_rolls_back_and_readers_see_commits() {
    let (_dir, db) = fresh().await;
    let failed: Result<(), DbErr> = transaction!(db, |txn| {
        query::meta::write(txn, "epoch", "1").await?;
        Err(DbErr::Custom("no".into()))
    });
    assert!(failed.is_err());
    assert_eq!(query::meta::read(db.read(), "epoch").await.unwrap(), None);
    let done: Result<(), DbErr> = transaction!(db, |txn| {
        query::meta::write(txn, "epoch", "1").await?;
        query::meta::write(txn, "epoch", "2").await
    });
    done.unwrap();
    assert_eq!(
        query::meta::read(db.read(), "epoch")
            .await
            .unwrap()
            .as_deref(),
        Some("2")
    );
}

#[tokio::test]
async fn an_address_is_given_once() {
    let (_dir, db) = fresh().await;
    let id = network::create_network(
        db.write(),
        "n",
        1500,
        false,
        &[NewSubnet {
            name: "s".into(),
            cidr: "10.0.0.0/29".parse().unwrap(),
            gateway: Some("10.0.0.1".parse().unwrap()),
        }],
    )
    .await
    .unwrap();
    let subnet = network::subnets_of(db.read(), &id.to_string())
        .await
        .unwrap()
        .remove(0);
    let new = || NewPort {
        id: None,
        project_id: "p".into(),
        name: "x".into(),
        network_id: id.to_string(),
        device_owner: String::new(),
        device_id: String::new(),
        admin_state_up: true,
    };
    let mut ports = Vec::new();
    for host in 2..=6 {
        let (port, ip) = network::create_port(db.write(), new(), &subnet, None)
            .await
            .unwrap();
        assert_eq!(ip.to_string(), format!("10.0.0.{host}"));
        ports.push(port);
    }
    let full = network::create_port(db.write(), new(), &subnet, None)
        .await
        .unwrap_err();
    assert!(matches!(full, network::AllocationError::Full(_)), "{full}");
    for (wish, taken) in [("10.0.0.3", true), ("10.0.0.1", false), ("10.0.1.1", false)] {
        let wish = Some(wish.parse().unwrap());
        let error = network::create_port(db.write(), new(), &subnet, wish)
            .await
            .unwrap_err();
        assert_eq!(
            matches!(error, network::AllocationError::Taken(..)),
            taken,
            "{error}"
        );
    }
    network::delete_port(db.write(), &ports[1].id)
        .await
        .unwrap();
    let (_, ip) = network::create_port(db.write(), new(), &subnet, None)
        .await
        .unwrap();
    assert_eq!(ip.to_string(), "10.0.0.3");
    assert_eq!(
        entity::address::Entity::find()
            .count(db.read())
            .await
            .unwrap(),
        5
    );
}

#[tokio::test]
async fn foreign_keys_are_enforced() {
    let (_dir, db) = fresh().await;
    let orphan = entity::subnet::ActiveModel {
        id: Set("s".into()),
        network_id: Set("none".into()),
        name: Set(String::new()),
        cidr: Set("10.0.0.0/8".into()),
        gateway_ip: Set(None),
        created_at: Set(0),
    };
    assert!(orphan.insert(db.write()).await.is_err());
}

/// A folder on a small disk of its own. Needs root.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let size = Some("size=4m");
        nix::mount::mount(Some("tmpfs"), folder.path(), Some("tmpfs"), flags, size)
            .expect("mount a tmpfs: this test needs root");
        Self(folder)
    }

    /// Leaves no page free.
    fn fill(&self) -> PathBuf {
        use std::io::Write as _;
        let path = self.0.path().join("fill");
        let mut file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        while file.write_all(&[0; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn what_is_acknowledged_on_a_full_disk_and_after_it_is_kept() {
    let disk = SmallDisk::new();
    let file = disk.0.path().join("krater.db");
    let db = Db::open_sqlite(&file).await.unwrap();
    let fill = disk.fill();
    let mut acknowledged = BTreeMap::new();
    let mut refused = 0;
    let mut write = async |n: u32, acknowledged: &mut BTreeMap<String, String>| {
        let (key, value) = (format!("key{}", n % 7), format!("{n}").repeat(2_000));
        let done: Result<(), DbErr> =
            transaction!(db, |txn| { query::meta::write(txn, &key, &value).await });
        match done {
            Ok(()) => drop(acknowledged.insert(key.clone(), value)),
            Err(error) => {
                assert!(is_full(&error), "{error}");
                refused += 1;
            }
        }
        // Readers see it at once, not after the next restart.
        let seen = query::meta::read(db.read(), &key).await.unwrap();
        assert_eq!(seen.as_ref(), acknowledged.get(&key), "write {n}");
        refused
    };
    for n in 0..40 {
        write(n, &mut acknowledged).await;
    }
    let while_full = write(40, &mut acknowledged).await;
    assert!(while_full > 20, "the disk was full: {while_full} refused");
    std::fs::remove_file(fill).unwrap();
    for n in 50..60 {
        assert_eq!(write(n, &mut acknowledged).await, while_full, "{n}");
    }
    drop(db);
    let again = Db::open_sqlite(&file).await.unwrap();
    for (key, value) in acknowledged {
        let kept = query::meta::read(again.read(), &key).await.unwrap();
        assert_eq!(kept, Some(value));
    }
}
