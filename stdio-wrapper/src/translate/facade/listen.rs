//! `subscriptions/listen` in front of a server with sessions.

use std::sync::Arc;

use super::super::call::{self, Job};
use super::super::group::{Group, GroupKey};
use super::super::listen::Filter;
use super::{Facade, Interest, Refused};
use crate::child::Placeholders;
use crate::policy::Gate;

impl Facade {
    /// Opens a subscription: the acknowledgement first, then what the session's child announces.
    pub(super) async fn listen(
        self: &Arc<Self>,
        group: &Arc<Group>,
        key: &GroupKey,
        caller: &Placeholders,
        job: Job,
        params: &str,
        gate: &Gate,
    ) -> Result<Interest, Refused> {
        let lease = self.lease(group, key, caller, false).await?;
        let seat = Arc::clone(&lease.seat);
        let mut filter = Filter::parse(params, &seat.greeting).map_err(Refused::Params)?;
        let subscribe = gate.pass("resources/subscribe", None);
        if subscribe.is_err() {
            // What may not be asked for is not promised.
            filter.resources.clear();
        }
        let number = self.number();
        let acknowledgement = filter.acknowledgement(&job.id);
        let resources = filter.resources.clone();
        // Acknowledged first, so that nothing can come before it.
        job.stream.push(bytes::Bytes::from(acknowledgement).into(), false);
        group.listeners.add(number, &seat.session.id, filter, &job.id, &job.stream);
        let (facade, group) = (Arc::clone(self), Arc::clone(group));
        let interest = {
            let (facade, group, gate) = (Arc::clone(&facade), Arc::clone(&group), gate.clone());
            Interest(Some(Box::new(move || {
                let watched = group.listeners.remove(number);
                tokio::spawn(async move {
                    let _in_order = group.watching.lock().await;
                    let Ok(unsubscribe) = gate.pass("resources/unsubscribe", None) else { return };
                    for uri in watched {
                        if group.listeners.is_watched(&lease.seat.session.id, &uri) {
                            continue;
                        }
                        let params = serde_json::json!({ "uri": uri }).to_string();
                        let number = facade.number();
                        // A session that has ended watches nothing anyway.
                        let _ = call::ask(&group, &lease.seat, number, &unsubscribe, &params).await;
                    }
                    drop(lease);
                });
            })))
        };
        let Ok(subscribe) = subscribe else { return Ok(interest) };
        let _in_order = group.watching.lock().await;
        for uri in resources {
            let params = serde_json::json!({ "uri": uri }).to_string();
            if let Err(error) = call::ask(&group, &seat, facade.number(), &subscribe, &params).await {
                tracing::debug!(uri, error, "a resource cannot be watched");
            }
        }
        Ok(interest)
    }
}
