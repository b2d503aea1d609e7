use super::*;
use crate::db::query::network::{self, NewPort, NewSubnet};
use sea_orm::ActiveValue::Set;
use sea_orm::{ActiveModelTrait, PaginatorTrait};

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
    select!(address amphora amphora_health flow flow_step health_monitor l7policy l7rule listener
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
