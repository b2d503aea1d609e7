//! What a change makes of a load balancer's rows, so that it can be undone: the rows that it changes, as
//! they were. New rows are not in it; they are those that are PENDING_CREATE.

use super::graph::Graph;
use super::list;
use crate::db::entity::{
    health_monitor, l7policy, l7rule, listener, load_balancer, member, pool, session_persistence,
};
use sea_orm::{ActiveModelTrait, ActiveValue, ConnectionTrait, DbErr, EntityTrait, QueryFilter};
use sea_orm::{ColumnTrait, IntoActiveModel};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Before {
    /// The load balancer's own row, when the change is about it.
    pub load_balancer: Option<load_balancer::Model>,
    /// Changed listeners.
    pub listeners: Vec<listener::Model>,
    /// Changed pools.
    pub pools: Vec<pool::Model>,
    /// Pool → its stickiness, when that changes.
    pub persistence: BTreeMap<String, Option<session_persistence::Model>>,
    /// Changed members.
    pub members: Vec<member::Model>,
    /// Changed monitors.
    pub monitors: Vec<health_monitor::Model>,
    /// Changed policies, also those whose position changes.
    pub policies: Vec<l7policy::Model>,
    /// Changed rules.
    pub rules: Vec<l7rule::Model>,
    /// Resource → its tags, when they change.
    pub tags: BTreeMap<String, Vec<String>>,
}

/// Rows of `old` that `new` has in another form.
macro_rules! changed {
    ($old:expr, $new:expr) => {
        $old.iter()
            .filter(|row| $new.iter().any(|new| new.id == row.id && new != *row))
            .cloned()
            .collect()
    };
}

impl Before {
    /// What `new` changes of `old`. The load balancer's statuses are its flow's business.
    pub fn of(old: &Graph, new: &Graph) -> Self {
        let (was, is) = (&old.load_balancer, &new.load_balancer);
        let own =
            (&was.name, &was.description, was.enabled) != (&is.name, &is.description, is.enabled);
        let sticky = |graph: &Graph, pool: &str| {
            let mut rows = graph.persistence.iter();
            rows.find(|row| row.pool_id == pool).cloned()
        };
        let persistence = old.pools.iter().filter_map(|row| {
            let was = sticky(old, &row.id);
            (was != sticky(new, &row.id)).then(|| (row.id.clone(), was))
        });
        Self {
            load_balancer: own.then(|| was.clone()),
            listeners: changed!(old.listeners, new.listeners),
            pools: changed!(old.pools, new.pools),
            persistence: persistence.collect(),
            members: changed!(old.members, new.members),
            monitors: changed!(old.monitors, new.monitors),
            policies: changed!(old.policies, new.policies),
            rules: changed!(old.rules, new.rules),
            tags: BTreeMap::new(),
        }
    }

    /// Notes the tags of the resources that exist in `old`, where `new` has others.
    pub fn note_tags(
        &mut self,
        ids: &[String],
        mut old: HashMap<String, Vec<String>>,
        mut new: HashMap<String, Vec<String>>,
    ) {
        for id in ids {
            let was = old.remove(id).unwrap_or_default();
            if was != new.remove(id).unwrap_or_default() {
                self.tags.insert(id.clone(), was);
            }
        }
    }

    /// Puts the rows back. Harmless when they are. Operating statuses are what heartbeats say.
    pub async fn restore(&self, db: &impl ConnectionTrait) -> Result<(), DbErr> {
        macro_rules! put_back {
            ($entity:ident, $rows:expr) => {
                for row in &$rows {
                    let mut row = row.clone().into_active_model().reset_all();
                    row.operating_status = ActiveValue::NotSet;
                    row.id = ActiveValue::Unchanged(row.id.unwrap());
                    $entity::Entity::update(row).exec(db).await?;
                }
            };
        }
        if let Some(row) = &self.load_balancer {
            load_balancer::Entity::update_many()
                .col_expr(load_balancer::Column::Name, row.name.clone().into())
                .col_expr(
                    load_balancer::Column::Description,
                    row.description.clone().into(),
                )
                .col_expr(load_balancer::Column::Enabled, row.enabled.into())
                .filter(load_balancer::Column::Id.eq(row.id.clone()))
                .exec(db)
                .await?;
        }
        put_back!(listener, self.listeners);
        put_back!(pool, self.pools);
        put_back!(member, self.members);
        put_back!(health_monitor, self.monitors);
        put_back!(l7policy, self.policies);
        put_back!(l7rule, self.rules);
        for (pool, row) in &self.persistence {
            session_persistence::Entity::delete_by_id(pool.clone())
                .exec(db)
                .await?;
            if let Some(row) = row {
                let row = row.clone().into_active_model().reset_all();
                session_persistence::Entity::insert(row)
                    .exec_without_returning(db)
                    .await?;
            }
        }
        for (id, tags) in &self.tags {
            list::set_tags(db, id, tags).await?;
        }
        Ok(())
    }
}
