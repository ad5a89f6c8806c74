//! Device authorizations (RFC 8628), from the request until the device gets its tokens.

use async_trait::async_trait;

use crate::domain::client_use::ClientUse;
use crate::domain::clock::UnixTime;
use crate::domain::device::{DeviceAuthorization, DeviceState, Poll, UserCode};
use crate::domain::grant::Grant;
use crate::domain::opaque_token::TokenHash;
use crate::store::rules::device_kept_until;
use crate::store::{Addition, Admission, Decision, DeviceStore, Redemption, StoreError};

use super::holdings;
use super::rows::Rows;
use super::tables::Table;
use super::writable::Writable;
use super::{EmbeddedStore, client_use, grants};

#[async_trait]
impl DeviceStore for EmbeddedStore {
    async fn reserve_device(
        &self,
        _name: &TokenHash,
        _until: UnixTime,
        now: UnixTime,
        ceiling: u64,
    ) -> Result<Admission, StoreError> {
        // The ceiling applies to the stored rows, so nothing needs to be reserved.
        let table = Table::UserCodes;
        if self.read(|rows| rows.count(table))? < ceiling {
            return Ok(Admission::Admitted);
        }
        // Some rows might have expired. Sweeping reads the whole table, so it is done only every few seconds.
        if !self.swept_for_room.is_due(now) {
            return Ok(Admission::Full);
        }
        self.sweep_table(table, now).await?;
        let has_room = self.read(|rows| rows.count(table))? < ceiling;
        Ok(if has_room { Admission::Admitted } else { Admission::Full })
    }

    async fn add_device(
        &self,
        code: &TokenHash,
        user_code: &UserCode,
        asked: &DeviceAuthorization,
    ) -> Result<Addition, StoreError> {
        let (code, user_code, asked) = (*code, user_code_key(user_code), asked.clone());
        self.writer
            .write(move |rows| {
                if rows.get_live::<TokenHash>(Table::UserCodes, &user_code, asked.asked_at)?.is_some() {
                    return Ok(Addition::Taken);
                }
                rows.put(Table::UserCodes, &user_code, &code, Some(asked.expires_at))?;
                put_device(rows, &code.text(), &asked)?;
                Ok(Addition::Added)
            })
            .await
    }

    async fn device(
        &self,
        code: &TokenHash,
        now: UnixTime,
    ) -> Result<Option<DeviceAuthorization>, StoreError> {
        self.read(|rows| device(rows, &code.text(), now))
    }

    async fn device_of_user(
        &self,
        user_code: &UserCode,
        now: UnixTime,
    ) -> Result<Option<(TokenHash, DeviceAuthorization)>, StoreError> {
        self.read(|rows| {
            let code: Option<TokenHash> = rows.get_live(Table::UserCodes, &user_code_key(user_code), now)?;
            let Some(code) = code else { return Ok(None) };
            let found = device(rows, &code.text(), now)?;
            Ok(found.filter(|device| device.is_open(now)).map(|device| (code, device)))
        })
    }

    async fn decide_device(
        &self,
        code: &TokenHash,
        decision: &DeviceState,
        now: UnixTime,
    ) -> Result<Decision, StoreError> {
        let (key, decision) = (code.text(), decision.clone());
        let is_denied = matches!(decision, DeviceState::Denied);
        let work = move |rows: &Writable<'_>| {
            let Some(mut found) = device(rows, &key, now)? else { return Ok(Decision::TooLate) };
            if !found.decide(decision.clone(), now) {
                return Ok(Decision::TooLate);
            }
            put_device(rows, &key, &found)?;
            Ok(Decision::Stored)
        };
        if is_denied { self.writer.take_away(work).await } else { self.writer.write(work).await }
    }

    async fn poll_device(&self, code: &TokenHash, now: UnixTime) -> Result<Poll, StoreError> {
        let key = code.text();
        self.writer
            .write(move |rows| {
                let Some(mut found) = device(rows, &key, now)? else { return Ok(Poll::Unknown) };
                let poll = found.poll(now);
                match &poll {
                    Poll::Redeemed(grant) => holdings::remove_grant(rows, grant)?,
                    Poll::Unknown => {}
                    _ => put_device(rows, &key, &found)?,
                }
                Ok(poll)
            })
            .await
    }

    async fn redeem_device(
        &self,
        code: &TokenHash,
        grant: &Grant,
        used: &ClientUse,
    ) -> Result<Redemption, StoreError> {
        let (key, grant, used) = (code.text(), grant.clone(), used.clone());
        self.writer
            .write(move |rows| {
                let Some(mut found) = device(rows, &key, used.at)? else {
                    return Ok(Redemption::Unknown);
                };
                match found.state {
                    DeviceState::Redeemed => {
                        holdings::remove_grant(rows, &found.grant_id)?;
                        return Ok(Redemption::Replayed);
                    }
                    DeviceState::Allowed { .. } if !found.is_expired(used.at) => {}
                    _ => return Ok(Redemption::Unknown),
                }
                let Some(client) = client_use::note(rows, &used)? else {
                    return Ok(Redemption::Unknown);
                };
                found.state = DeviceState::Redeemed;
                put_device(rows, &key, &found)?;
                let grant = Grant { registration: client.registration, ..grant.clone() };
                grants::put(rows, &grant)?;
                Ok(Redemption::Redeemed { displaced: grants::hold(rows, &grant, used.at)? })
            })
            .await
    }
}

fn user_code_key(code: &UserCode) -> String {
    TokenHash::of(code.as_str().as_bytes()).text()
}

fn device(rows: &impl Rows, key: &str, now: UnixTime) -> Result<Option<DeviceAuthorization>, StoreError> {
    rows.get_live(Table::Devices, key, now)
}

fn put_device(rows: &Writable<'_>, key: &str, device: &DeviceAuthorization) -> Result<(), StoreError> {
    rows.put(Table::Devices, key, device, Some(device_kept_until(device)))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use serde_json::{from_value, json};

    use crate::domain::account::Subject;
    use crate::domain::client::{Client, ClientDisplay};
    use crate::domain::clock_watch::TimeBounds;
    use crate::domain::grant_id::GrantId;
    use crate::domain::scope::Scope;
    use crate::keys::seal::StoreKey;
    use crate::store::{ClientStore, OneTimeUse, ReplayStore};

    use super::*;

    const NOW: UnixTime = UnixTime(1_000_000);
    const LATER: UnixTime = UnixTime(2_000_000);

    fn client() -> Client {
        let display = serde_json::to_value(ClientDisplay::default()).unwrap();
        from_value(json!({
            "id": "device", "registration": "first", "origin": "operator", "issued_at": NOW,
            "last_used_at": null, "disabled": false, "fingerprint": null, "management": null, "secret": null,
            "metadata": {
                "redirect_uris": [], "auth_method": "none", "grant_types": [], "scope": null,
                "application_type": null, "dpop_bound_access_tokens": false, "display": display,
            },
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn a032_a_device_code_or_assertion_that_waits_for_a_stalled_disk_is_not_used_up() {
        let directory = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(directory.path(), &StoreKey::new([7; 32])).unwrap();
        let (client, id, code) = (client(), GrantId::new([2; 32]), TokenHash::of(b"device code"));
        assert_eq!(store.add_client(&client, NOW).await.unwrap(), Addition::Added);
        let used = ClientUse {
            client: client.clone(),
            at: NOW,
            bounds: TimeBounds::exactly(NOW),
            is_time_of_day: false,
            boot: None,
            keep_until: LATER,
            user: Subject::new([3; 32]),
            sole_ceiling: 10,
        };
        let allowed = DeviceState::Allowed { subject: used.user.clone(), authenticated_at: NOW };
        let asked = DeviceAuthorization {
            grant_id: id.clone(),
            client_id: client.id.clone(),
            registration: client.registration.clone(),
            metadata: None,
            resources: Vec::new(),
            scope: Scope::default(),
            asked_at: NOW,
            asked_from: None,
            expires_at: LATER,
            interval: 5,
            polled_at: None,
            state: DeviceState::Pending,
        };
        let grant = Grant {
            id,
            subject: used.user.clone(),
            client_id: client.id.clone(),
            registration: client.registration.clone(),
            resources: Vec::new(),
            scope: Scope::default(),
            authenticated_at: NOW,
            created_at: NOW,
            expires_at: LATER,
            bound_to: None,
            refresh: None,
            parent: None,
        };
        let user_code = UserCode::new([4; 32]).unwrap();
        assert_eq!(store.add_device(&code, &user_code, &asked).await.unwrap(), Addition::Added);
        assert_eq!(store.decide_device(&code, &allowed, NOW).await.unwrap(), Decision::Stored);

        let (answer, disk) = mpsc::channel::<()>();
        let disk = std::sync::Mutex::new(disk);
        // This write blocks until the test makes the disk respond.
        let stalled = store.writer.write(move |_| {
            let _ = disk.lock().unwrap().recv();
            Ok(())
        });
        let queued = async {
            // During this pause, the writer begins the blocking write.
            tokio::time::sleep(Duration::from_secs(1)).await;
            tokio::join!(
                store.poll_device(&code, NOW),
                store.redeem_device(&code, &grant, &used),
                store.remember_once("assertion", LATER, NOW),
            )
        };
        let (_, (polled, redeemed, remembered)) = tokio::join!(stalled, queued);
        assert!(polled.is_err() && redeemed.is_err() && remembered.is_err());
        answer.send(()).unwrap();
        assert_eq!(
            store.remember_once("assertion", LATER, NOW).await.unwrap(),
            OneTimeUse::First,
            "the assertion was used up"
        );
        assert!(
            matches!(store.poll_device(&code, NOW).await.unwrap(), Poll::Allowed(_)),
            "the code was used up"
        );
        let redeemed = store.redeem_device(&code, &grant, &used).await.unwrap();
        assert!(matches!(redeemed, Redemption::Redeemed { .. }));
    }
}
