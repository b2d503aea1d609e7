//! Batches of members.

use crate::common::Api;
use serde_json::{Value, json};

async fn shown(api: &Api, path: &str) -> Vec<Value> {
    let list = api.get(&format!("{path}?sort=address")).await.ok(200);
    list["members"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_batch_resets_what_it_leaves_out() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let pool = api.pool(&lb).await;
    let path = format!("/v2/lbaas/pools/{pool}/members");
    let empty = api.put(&path, json!({"members": []})).await;
    assert_eq!((empty.status.as_u16(), empty.text.as_str()), (202, ""));
    assert!(
        api.pending().await.is_empty(),
        "nothing to do, nothing changed"
    );

    let member = json!({"name": "m1", "tags": ["t"], "address": "10.0.0.1", "protocol_port": 80,
        "weight": 9, "backup": true, "admin_state_up": false, "monitor_port": 1,
        "monitor_address": "10.0.0.9"});
    let other = json!({"address": "10.0.0.2", "protocol_port": 80});
    let batch = json!({"members": [member, other]});
    assert_eq!(api.put(&path, batch).await.text, "");
    assert_eq!(api.pending().await.len(), 1);
    api.settle().await;
    let before = shown(&api, &path).await;
    assert_eq!(before.len(), 2);

    let batch = json!({"members": [
        {"address": "10.0.0.1", "protocol_port": 80}, {"address": "10.0.0.3", "protocol_port": 80},
    ]});
    api.put(&path, batch).await.ok(202);
    let pending: Vec<String> = shown(&api, &path)
        .await
        .iter()
        .map(|m| m["provisioning_status"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        pending,
        ["PENDING_UPDATE", "PENDING_DELETE", "PENDING_CREATE"]
    );
    api.settle().await;
    let after = shown(&api, &path).await;
    assert_eq!(after[0]["id"], before[0]["id"]);
    assert_eq!(
        (&after[0]["name"], &after[0]["tags"]),
        (&json!("m1"), &json!(["t"]))
    );
    assert_eq!(
        (&after[0]["weight"], &after[0]["backup"]),
        (&json!(1), &json!(false))
    );
    assert_eq!(after[0]["admin_state_up"], true);
    assert!(after[0]["monitor_port"].is_null() && after[0]["monitor_address"].is_null());
    assert_eq!(after.len(), 2, "10.0.0.2 is gone: {after:?}");

    let batch = json!({"members": [{"address": "10.0.0.4", "protocol_port": 80}]});
    api.put(&format!("{path}?additive_only=True"), batch)
        .await
        .ok(202);
    api.settle().await;
    assert_eq!(shown(&api, &path).await.len(), 3);

    let twice = json!({"address": "10.0.0.4", "protocol_port": 80});
    let text = api
        .put(&path, json!({"members": [twice, twice]}))
        .await
        .fault(400);
    assert!(
        text.contains("10.0.0.4:80") && text.contains("multiple"),
        "{text}"
    );
    let twice = json!({"address": "10.0.0.5", "protocol_port": 80});
    let text = api
        .put(&path, json!({"members": [twice, twice]}))
        .await
        .fault(409);
    assert!(text.contains("already using ip 10.0.0.5"), "{text}");
    assert!(
        api.pending().await.is_empty(),
        "a refused batch changes nothing"
    );
    assert_eq!(shown(&api, &path).await.len(), 3);

    api.put(&path, json!({"members": []})).await.ok(202);
    api.settle().await;
    assert_eq!(shown(&api, &path).await.len(), 0);
}

#[tokio::test]
async fn a_member_belongs_to_its_pool() {
    let api = Api::new().await;
    let lb = api.lb("lb").await;
    let (one, two) = (api.pool(&lb).await, api.pool(&lb).await);
    let path = format!("/v2/lbaas/pools/{one}/members");
    let body = json!({"address": "10.0.0.1", "protocol_port": 80});
    let id = api.make(&path, "member", body.clone()).await;
    let foreign = format!("/v2/lbaas/pools/{two}/members/{id}");
    assert_eq!(
        api.get(&foreign).await.fault(404),
        format!("Member {id} not found.")
    );
    api.delete(&foreign).await.fault(404);
    let text = api.post(&path, json!({"member": body})).await.fault(409);
    assert_eq!(
        text,
        "Another member on this pool is already using ip 10.0.0.1 on protocol_port 80"
    );
    let metadata = json!({"member": {"address": "169.254.169.254", "protocol_port": 80}});
    let text = api.post(&path, metadata).await.fault(400);
    assert_eq!(
        text,
        "169.254.169.254 is not a valid option for member address"
    );
    let nowhere = uuid::Uuid::new_v4().to_string();
    let body =
        json!({"member": {"address": "10.0.0.2", "protocol_port": 80, "subnet_id": nowhere}});
    let text = api.post(&path, body).await.fault(400);
    assert_eq!(text, format!("Subnet {nowhere} not found."));
    let body = json!({"member": {"address": "10.0.0.3", "protocol_port": 80}});
    api.post(&format!("/v2/lbaas/pools/{nowhere}/members"), body)
        .await
        .fault(404);
}
